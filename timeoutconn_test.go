package pooly_test

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

const opTimeout = 10 * time.Second

// dialFunc is what SetDialContext takes.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// pipes returns a dialer whose connections are in memory, so that time may be virtual. The other
// ends are served until they are closed.
func pipes(serve func(net.Conn)) dialFunc {
	return func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go serve(server)
		return client, nil
	}
}

// unanswering neither reads nor writes.
func unanswering(net.Conn) {}

// timed returns a service whose connections time out after opTimeout. Nobody answers on them.
func timed(t *testing.T) *pooly.Service {
	t.Helper()
	d := pooly.NewNetDriver("pipe")
	d.SetReadTimeout(opTimeout)
	d.SetWriteTimeout(opTimeout)
	d.SetDialContext(pipes(unanswering))
	s := pooly.NewService("timed", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1,
	})
	t.Cleanup(func() { _ = s.Close() })
	s.Add("a")
	return s
}

// setter is a method that sets a deadline.
type setter = func(time.Time) error

// The connections that a user may get, and the ways to set their deadlines.
func forEachTimedConn(
	t *testing.T, test func(t *testing.T, call func() error, set setter),
) {
	lease := func(t *testing.T, s *pooly.Service) net.Conn {
		c := get(t, s)
		t.Cleanup(func() { _ = c.Release(io.EOF, pooly.HostUp) })
		return c.NetConn()
	}
	dialled := func(t *testing.T, s *pooly.Service) net.Conn {
		c := dial(t, s)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	read := func(nc net.Conn) func() error {
		return func() error { _, err := nc.Read(make([]byte, 1)); return err }
	}
	write := func(nc net.Conn) func() error {
		return func() error { _, err := nc.Write(make([]byte, 1)); return err }
	}
	for name, v := range map[string]struct {
		conn func(*testing.T, *pooly.Service) net.Conn
		call func(net.Conn) func() error
		set  func(net.Conn) setter
	}{
		"read of a lease, SetReadDeadline": {lease, read,
			func(nc net.Conn) setter { return nc.SetReadDeadline }},
		"read of a lease, SetDeadline": {lease, read,
			func(nc net.Conn) setter { return nc.SetDeadline }},
		"write to a lease, SetWriteDeadline": {lease, write,
			func(nc net.Conn) setter { return nc.SetWriteDeadline }},
		"write to a lease, SetDeadline": {lease, write,
			func(nc net.Conn) setter { return nc.SetDeadline }},
		"read of DialContext, SetReadDeadline": {dialled, read,
			func(nc net.Conn) setter { return nc.SetReadDeadline }},
		"read of DialContext, SetDeadline": {dialled, read,
			func(nc net.Conn) setter { return nc.SetDeadline }},
		"write to DialContext, SetWriteDeadline": {dialled, write,
			func(nc net.Conn) setter { return nc.SetWriteDeadline }},
		"write to DialContext, SetDeadline": {dialled, write,
			func(nc net.Conn) setter { return nc.SetDeadline }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nc := v.conn(t, timed(t))
				test(t, v.call(nc), v.set(nc))
			})
		})
	}
}

// requireTimeout calls, and requires that the call times out after d.
func requireTimeout(t *testing.T, d time.Duration, call func() error) {
	t.Helper()
	began := time.Now()
	require.ErrorIs(t, call(), os.ErrDeadlineExceeded)
	require.Equal(t, d, time.Since(began))
}

func TestUsersDeadlineHoldsIfItIsEarlierThanTheDriversTimeout(t *testing.T) {
	forEachTimedConn(t, func(t *testing.T, call func() error, set setter) {
		require.NoError(t, set(time.Now().Add(time.Second)))
		requireTimeout(t, time.Second, call)
		requireTimeout(t, 0, call)
		require.NoError(t, set(time.Now().Add(2*opTimeout)))
		requireTimeout(t, opTimeout, call)
		requireTimeout(t, opTimeout, call)
		requireTimeout(t, 0, call)
		require.NoError(t, set(time.Time{}))
		requireTimeout(t, opTimeout, call)
		requireTimeout(t, opTimeout, call)
	})
}

func TestUsersDeadlineInThePastStopsEachCall(t *testing.T) {
	forEachTimedConn(t, func(t *testing.T, call func() error, set setter) {
		require.NoError(t, set(time.Unix(1, 0))) // as net/http does
		requireTimeout(t, 0, call)
		requireTimeout(t, 0, call)
	})
}

// That is how a user interrupts a call when a context ends.
func TestUsersDeadlineStopsACallInFlight(t *testing.T) {
	forEachTimedConn(t, func(t *testing.T, call func() error, set setter) {
		time.AfterFunc(3*time.Second, func() {
			if err := set(time.Now().Add(-time.Second)); err != nil {
				t.Error(err)
			}
		})
		requireTimeout(t, 3*time.Second, call)
	})
}

func TestUsersDeadlineDoesNotExtendACallInFlight(t *testing.T) {
	for name, later := range map[string]time.Duration{"later": time.Hour, "none": 0} {
		t.Run(name, func(t *testing.T) {
			forEachTimedConn(t, func(t *testing.T, call func() error, set setter) {
				time.AfterFunc(3*time.Second, func() {
					var to time.Time
					if later > 0 {
						to = time.Now().Add(later)
					}
					if err := set(to); err != nil {
						t.Error(err)
					}
				})
				requireTimeout(t, opTimeout, call)
			})
		})
	}
}

// The timeout is that of a call. It must not hit whoever uses the connection beneath later.
func TestNoTimeoutIsLeftOnTheConnectionBeneath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pooly.NewNetDriver("pipe")
		d.SetReadTimeout(opTimeout)
		d.SetDialContext(pipes(func(c net.Conn) {
			for range 2 {
				_, _ = io.WriteString(c, "a")
				time.Sleep(2 * opTimeout)
				_, _ = io.WriteString(c, "b")
			}
		}))
		s := newNetService(t, d, "a")
		c := get(t, s)
		defer func() { _ = c.Release(io.EOF, pooly.HostUp) }()
		reads := func(nc net.Conn, want string) {
			one := make([]byte, 1)
			_, err := io.ReadFull(nc, one)
			require.NoError(t, err)
			require.Equal(t, want, string(one))
		}
		reads(c.NetConn(), "a")
		beneath := c.NetConn().(interface{ NetConn() net.Conn }).NetConn()
		reads(beneath, "b")
		reads(c.NetConn(), "a")
		reads(beneath, "b")
	})
}

func TestUsersDeadlineHoldsUnderTLS(t *testing.T) {
	address, config := tlsServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "127.0.0.1")
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(config)
	d.SetReadTimeout(time.Minute)
	s := newNetService(t, d, address)
	c := get(t, s)
	defer func() { _ = c.Release(io.EOF, pooly.HostUp) }()
	time.AfterFunc(10*time.Millisecond, func() { _ = c.NetConn().SetDeadline(time.Unix(1, 0)) })
	_, err := c.NetConn().Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	_, err = c.NetConn().Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// Deadlines are set and calls made from many goroutines. The race detector sees that it is safe.
func TestDeadlinesMayBeSetWhileCallsAreInFlight(t *testing.T) {
	d := pooly.NewNetDriver("tcp")
	d.SetReadTimeout(time.Minute)
	d.SetWriteTimeout(time.Minute)
	s := newNetService(t, d, listen(t, echo))
	c := get(t, s)
	defer func() { _ = c.Release(io.EOF, pooly.HostUp) }()
	nc := c.NetConn()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			one := make([]byte, 1)
			for range 500 {
				_, _ = nc.Write(one)
				_, _ = nc.Read(one)
			}
		})
		wg.Go(func() {
			for range 500 {
				_ = nc.SetDeadline(time.Now().Add(time.Minute))
				_ = nc.SetReadDeadline(time.Time{})
				_ = nc.SetWriteDeadline(time.Time{})
			}
		})
	}
	wg.Wait()
}
