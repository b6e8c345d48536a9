package pooly_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// newPipes returns a service whose hosts echo, without sockets.
func newPipes(t *testing.T, config pooly.ServiceConfig, addresses ...string) (s *pooly.Service, refuse func(bool)) {
	t.Helper()
	var refused atomic.Bool
	d := pooly.NewNetDriver("pipe")
	d.SetDialContext(func(_ context.Context, _, address string) (net.Conn, error) {
		if refused.Load() && address == addresses[0] {
			return nil, syscall.ECONNREFUSED
		}
		a, b := net.Pipe()
		go echo(b)
		t.Cleanup(func() { _ = b.Close() })
		return a, nil
	})
	config.Driver, config.PrespawnConns = d, -1
	s = pooly.NewService("pipes", &config)
	s.SetHosts(addresses...)
	return s, refused.Store
}

// exchange has a request answered.
func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := c.Write([]byte("?"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
}

func TestClientsConnectionsComeBackToARestoredHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, refuse := newPipes(t, pooly.ServiceConfig{}, "a", "b", "c")
		refuse(true)
		clients := make([]net.Conn, 12) // a client's pool
		replaced := 0
		use := func() {
			for i, c := range clients {
				if c != nil && pooly.Outdated(c) {
					replaced++
					require.NoError(t, c.Close())
					clients[i] = nil
				}
				if clients[i] == nil {
					clients[i] = dial(t, s)
				}
				exchange(t, clients[i]) // no request is lost
			}
		}
		use()
		time.Sleep(time.Second)
		use()
		require.Zero(t, replaced)
		require.True(t, hostStats(t, s, "a").Ejected)

		refuse(false)
		for hostStats(t, s, "a").Ejected {
			time.Sleep(10 * time.Millisecond)
		}
		at := time.Now()
		for time.Since(at) < 11*time.Second {
			use()
			require.Less(t, replaced, 12*int(time.Since(at)/time.Second+8)/10, "all are dialled together")
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 12, replaced)
		require.Equal(t, 4, hostStats(t, s, "a").InUse)
		for range 100 {
			use()
			time.Sleep(time.Second)
		}
		require.Equal(t, 12, replaced, "and then they stay")
		for _, c := range clients {
			require.NoError(t, c.Close())
		}
		require.NoError(t, s.Close())
	})
}

func TestClientsLetGoOfARemovedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newPipes(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConnLifetime: time.Hour}}, "a", "b")
		s.Remove("b")
		a := dial(t, s)
		exchange(t, a)
		s.SetHosts("b")
		b := dial(t, s)
		c := dial(t, s)
		exchange(t, c)
		time.Sleep(time.Minute)
		require.False(t, pooly.Outdated(c))
		s.Add("c")
		time.Sleep(10 * time.Second)
		require.True(t, pooly.Outdated(c), "a host was added")
		require.NoError(t, c.Close())
		require.NoError(t, b.Close())
		b = dial(t, s)
		_, err := a.Write([]byte("?"))
		require.NoError(t, err)
		require.False(t, pooly.Outdated(a), "an answer is due")
		_, err = a.Read(make([]byte, 1))
		require.NoError(t, err)
		require.True(t, pooly.Outdated(a))
		require.True(t, pooly.Outdated(tls.Client(a, &tls.Config{})), "beneath the client's TLS")
		require.False(t, pooly.Outdated(b))
		time.Sleep(time.Hour)
		require.True(t, pooly.Outdated(b), "older than MaxConnLifetime")
		foreign, other := net.Pipe()
		require.False(t, pooly.Outdated(foreign))
		for _, c := range []net.Conn{a, b, foreign, other} {
			require.NoError(t, c.Close())
		}
		require.NoError(t, s.Close())
	})
}

// go-redis and go-sql-driver/mysql look at the socket before they use an idle connection.
func TestSyscallConnFailsOnAnOutdatedConnection(t *testing.T) {
	s := pooly.NewService("removed", nil)
	address := listen(t, echo)
	s.Add(address)
	c := dial(t, s)
	_, err := c.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	s.SetHosts(listen(t, echo))
	_, err = c.Write([]byte("?"))
	require.NoError(t, err)
	_, err = c.(syscall.Conn).SyscallConn()
	require.NoError(t, err, "an answer is due")
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
	_, err = c.(syscall.Conn).SyscallConn()
	require.ErrorContains(t, err, "outdated")
	require.NoError(t, c.Close())
	require.NoError(t, s.Close())
}
