package faults_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain is also the server: the test binary starts itself, so that there are processes to kill.
func TestMain(m *testing.M) {
	if address := os.Getenv("POOLY_FAULTS_SERVE"); address != "" {
		serve(address)
		return
	}
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxiproxy's
	goleak.VerifyTestMain(m)
}

// A request asks for its id back, after a while and followed by some bytes, and for something wrong.
type request struct {
	id    uint64
	after time.Duration
	size  uint32
	fault fault
}

type fault uint8

const (
	none             fault = iota
	halfCloseAfter         // the server ends its side of the connection after the reply
	halfCloseInstead       // or before
	closeInside            // or in the middle of it
	excess                 // the server says more than it was asked for
)

const requestSize = 24

func (r request) encode() []byte {
	b := make([]byte, requestSize)
	binary.BigEndian.PutUint64(b, r.id)
	binary.BigEndian.PutUint64(b[8:], uint64(r.after))
	binary.BigEndian.PutUint32(b[16:], r.size)
	b[20] = byte(r.fault)
	return b
}

func decode(b []byte) request {
	return request{
		id:    binary.BigEndian.Uint64(b),
		after: time.Duration(binary.BigEndian.Uint64(b[8:])),
		size:  binary.BigEndian.Uint32(b[16:]),
		fault: fault(b[20]),
	}
}

// serve echoes ids until its standard input ends, with the process that started it.
func serve(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go echo(c.(*net.TCPConn))
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// echo serves one connection.
func echo(c *net.TCPConn) {
	defer c.Close()
	in := bufio.NewReader(c)
	b := make([]byte, requestSize)
	for {
		if _, err := io.ReadFull(in, b); err != nil {
			return
		}
		r := decode(b)
		time.Sleep(r.after)
		reply := make([]byte, 8+r.size)
		binary.BigEndian.PutUint64(reply, r.id)
		switch r.fault {
		case halfCloseInstead:
			_ = c.CloseWrite()
			continue
		case closeInside:
			reply = reply[:len(reply)/2]
		case excess:
			reply = append(reply, 0)
		}
		if _, err := c.Write(reply); err != nil || r.fault == closeInside {
			return
		}
		if r.fault == halfCloseAfter {
			_ = c.CloseWrite()
		}
	}
}

// server is a process that serves, on the same address each time it is started.
type server struct {
	t       testing.TB
	address string

	mu      sync.Mutex
	process *exec.Cmd
	stdin   io.Closer
}

func startServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, address: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts the process, and returns when it listens.
func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	process := exec.Command(os.Args[0])
	process.Env = append(os.Environ(), "POOLY_FAULTS_SERVE="+s.address)
	stdin, err := process.StdinPipe()
	require.NoError(s.t, err)
	stdout, err := process.StdoutPipe()
	require.NoError(s.t, err)
	require.NoError(s.t, process.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(s.t, err)
	s.address = line[:len(line)-1]
	_, _, err = net.SplitHostPort(s.address)
	require.NoError(s.t, err, "the server says %q", line)
	s.process, s.stdin = process, stdin
}

// kill kills the process as kill -9 does: its sockets are reset or closed by the kernel, at any point.
func (s *server) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	_ = s.stdin.Close()
	s.process = nil
}

// restart kills the process, and starts it after a while.
func (s *server) restart(down time.Duration) {
	s.kill()
	time.Sleep(down)
	s.start()
}

func startServers(t testing.TB, n int) (servers []*server, addresses []string) {
	t.Helper()
	for range n {
		s := startServer(t)
		servers = append(servers, s)
		addresses = append(addresses, s.address)
	}
	return servers, addresses
}
