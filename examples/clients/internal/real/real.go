// Package real starts real servers for the examples' tests: on loopback, on free ports, with folders of their own.
// Tests are skipped where a server is not installed.
package real

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/stretchr/testify/require"
)

// Server is one process.
type Server struct {
	Address string
	command *exec.Cmd
	done    chan struct{} // closed when the process has ended
	ready   func() error
}

// Stop ends the process, first by asking. It may be called again.
func (s *Server) Stop() {
	s.end(syscall.SIGTERM)
}

// Kill ends the process as a crash would.
func (s *Server) Kill() {
	s.end(syscall.SIGKILL)
}

func (s *Server) end(signal syscall.Signal) {
	_ = s.command.Process.Signal(signal)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		_ = s.command.Process.Kill()
		<-s.done
	}
}

// Addresses returns those of servers.
func Addresses(servers []*Server) []string {
	var addresses []string
	for _, s := range servers {
		addresses = append(addresses, s.Address)
	}
	return addresses
}

// RunWithStandIns runs an example's program as on a machine without servers. One of three is down.
func RunWithStandIns(t *testing.T, run func(out io.Writer, addresses ...string) error, start func() *standin.Server) {
	t.Helper()
	servers, addresses := standin.Start(nil, start)
	defer servers.StopAll()
	servers.StopOne()
	var out strings.Builder
	require.NoError(t, run(&out, addresses...))
	require.Contains(t, out.String(), "score")
}

// RunWithOneDown runs it with real servers, of which the second is down.
func RunWithOneDown(t *testing.T, run func(out io.Writer, addresses ...string) error, servers []*Server) {
	t.Helper()
	servers[1].Stop()
	var out strings.Builder
	require.NoError(t, run(&out, Addresses(servers)...))
	require.Contains(t, out.String(), servers[2].Address)
}

// ComesBack asks, by several goroutines, until a host that was restored has its share of the client's connections. No
// request may fail.
func ComesBack(t *testing.T, s *pooly.Service, address string, request func() error) {
	t.Helper()
	requests := 0
	require.Eventually(t, func() bool {
		require.NoError(t, demo.Load(200, func() {}, request))
		requests += 200
		for _, h := range s.Stats().Hosts {
			if h.Address == address {
				return h.InUse*2*len(s.Stats().Hosts) >= s.Stats().InUse // half of its share, at least
			}
		}
		return false
	}, 30*time.Second, 20*time.Millisecond)
	t.Logf("%d requests, none failed: %+v", requests, s.Stats().PoolStats)
}

// program returns the path of a server's program, or skips the test. Besides PATH it looks where Debian keeps what is
// not meant for everyone.
func program(t testing.TB, name, debian string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, pattern := range []string{"/usr/sbin/" + name, "/usr/lib/postgresql/*/bin/" + name} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	t.Skipf("%s is not installed (Debian: apt-get install %s)", name, debian)
	return ""
}

// start starts a program and waits until ready returns nil. It is stopped when the test ends.
func start(t testing.TB, address string, command *exec.Cmd, ready func() error) *Server {
	t.Helper()
	s := &Server{Address: address, command: command, ready: ready}
	t.Cleanup(s.Stop)
	s.start(t)
	return s
}

// Restart starts a server again that was stopped or killed.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	old := s.command
	s.command = exec.Command(old.Path, old.Args[1:]...)
	s.command.Dir, s.command.SysProcAttr = old.Dir, old.SysProcAttr
	s.start(t)
}

func (s *Server) start(t testing.TB) {
	t.Helper()
	command, done := s.command, make(chan struct{})
	s.done = done
	log := new(strings.Builder) // read after the process has ended
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		close(done)
		require.NoError(t, err)
	}
	go func() {
		defer close(done)
		_ = command.Wait()
	}()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := s.ready()
		if err == nil {
			return
		}
		select {
		case <-done:
			require.FailNow(t, command.Path+" ended", log.String())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.Kill()
			require.FailNow(t, command.Path+" does not get ready", "%v\n%s", err, log)
		}
	}
}

// ask returns a function that connects, sends a question, and looks for what the answer must hold.
func ask(address, question, want string) func() error {
	return func() error {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if want == "" {
			return nil
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Write([]byte(question)); err != nil {
			return err
		}
		answer := make([]byte, 64<<10)
		n, err := c.Read(answer)
		if err == nil && !strings.Contains(string(answer[:n]), want) {
			err = fmt.Errorf("answered %q", answer[:n])
		}
		return err
	}
}

// folder returns one that a server can use that does not run as root. t.TempDir is closed to other users.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pooly-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// port returns one that was free a moment ago.
func port(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}
