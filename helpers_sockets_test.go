package pooly_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// listen serves connections on a loopback port until the test ends, and returns its address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveOn(t, l, serve)
	return l.Addr().String()
}

// serveOn serves the connections of a listener until the test ends or the returned function is
// called, which also closes the connections, as the end of a server process does.
func serveOn(t *testing.T, l net.Listener, serve func(net.Conn)) (stop func()) {
	t.Helper()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	stop = sync.OnceFunc(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// closedPort returns an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

// echo sends back what it gets.
func echo(c net.Conn) {
	_, _ = io.Copy(c, c)
}

// ping sends a message and reads it back, then releases the connection.
func ping(s *pooly.Service, message string) (err error) {
	c, err := s.GetConn()
	if err != nil {
		return err
	}
	defer func() { _ = c.Release(&err, pooly.HostUp) }()
	if _, err = io.WriteString(c.NetConn(), message); err != nil {
		return err
	}
	reply := make([]byte, len(message))
	if _, err = io.ReadFull(c.NetConn(), reply); err != nil {
		return err
	}
	if !bytes.Equal(reply, []byte(message)) {
		return errors.New("wrong reply: " + string(reply))
	}
	return nil
}

func newNetService(t *testing.T, d *pooly.NetDriver, addresses ...string) *pooly.Service {
	t.Helper()
	s := pooly.NewService("net", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}})
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range addresses {
		s.Add(a)
	}
	return s
}

// eventually waits for something that happens in another goroutine on a real socket.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}
