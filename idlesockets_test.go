package pooly_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Idle connections on real sockets.

// inCloseWait counts the sockets to a local port whose peer has closed them while this side has not.
func inCloseWait(t *testing.T, address string) (n int) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("/proc/net/tcp is Linux's")
	}
	addr, err := net.ResolveTCPAddr("tcp", address)
	require.NoError(t, err)
	table, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err)
	const closeWait = "08"
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", addr.Port)) && fields[3] == closeWait {
			n++
		}
	}
	return n
}

func TestSocketsThatTheServerClosedDoNotStayInCloseWait(t *testing.T) {
	for _, test := range []struct {
		name      string
		keepAlive time.Duration
	}{
		{"KeepAlive", 200 * time.Millisecond},
		{"no KeepAlive", -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			hangUp := make(chan struct{})
			address := listen(t, func(c net.Conn) {
				go echo(c)
				<-hangUp
			})
			s := pooly.NewService("net", &pooly.ServiceConfig{
				PoolConfig: pooly.PoolConfig{KeepAlive: test.keepAlive},
			})
			defer func() { require.NoError(t, s.Close()) }()
			s.Add(address)
			idle := 20
			var leases []*pooly.Conn
			for range idle {
				leases = append(leases, get(t, s))
			}
			for _, c := range leases {
				release(t, c)
			}
			time.Sleep(1500 * time.Millisecond) // the tests that leases have asked for are over
			close(hangUp)
			if test.keepAlive < 0 {
				eventually(t, func() bool { return inCloseWait(t, address) == idle })
				time.Sleep(time.Second)
				require.Equal(t, idle, inCloseWait(t, address))
				require.Equal(t, idle, s.Stats().Open)
				return
			}
			eventually(t, func() bool { return inCloseWait(t, address) == 0 && s.Stats().Open == 0 })
			require.False(t, hostStats(t, s, address).Ejected)
		})
	}
}

// firewall forwards connections, and swallows what comes on those that were silent for too long.
type firewall struct {
	t      *testing.T
	target string
	memory time.Duration
}

func (f *firewall) serve(client net.Conn) {
	server, err := net.Dial("tcp", f.target)
	if err != nil {
		return
	}
	var seen atomic.Int64
	seen.Store(time.Now().UnixNano())
	pass := func(to, from net.Conn) {
		b := make([]byte, 512)
		for {
			n, err := from.Read(b)
			if err != nil {
				_ = to.Close()
				return
			}
			if time.Duration(time.Now().UnixNano()-seen.Load()) > f.memory {
				continue
			}
			seen.Store(time.Now().UnixNano())
			_, _ = to.Write(b[:n])
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { pass(client, server) })
	pass(server, client)
	wg.Wait()
}

type echoClient struct{ net.Conn }

func (c echoClient) ask(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "ping"); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 4))
	return err
}

func TestPingsKeepRealConnectionsThroughAFirewallThatForgets(t *testing.T) {
	tcp := pooly.NewNetDriver("tcp")
	for _, test := range []struct {
		name      string
		keepAlive time.Duration
		fails     bool
	}{
		{"KeepAlive", 200 * time.Millisecond, false},
		{"no KeepAlive", -1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := &firewall{t: t, target: listen(t, echo), memory: time.Second}
			s := pooly.NewService("net", &pooly.ServiceConfig{
				PrespawnConns: -1,
				PoolConfig: pooly.PoolConfig{
					KeepAlive: test.keepAlive,
					Driver: pooly.DriverOf(pooly.DriverFuncs[echoClient]{
						Dial: func(ctx context.Context, address string) (echoClient, error) {
							c, err := tcp.Dial(ctx, address)
							if err != nil {
								return echoClient{}, err
							}
							return echoClient{c.NetConn()}, nil
						},
						Ping: func(ctx context.Context, c echoClient) error { return c.ask(ctx) },
					}),
				},
			})
			defer func() { require.NoError(t, s.Close()) }()
			s.Add(listen(t, f.serve))
			burst := func(n int) (failed int) {
				errs := make(chan error)
				for range n {
					go func() {
						ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
						defer cancel()
						errs <- s.Do(ctx, func(c *pooly.Conn) error {
							return pooly.Value[echoClient](c).ask(ctx)
						})
					}()
				}
				for range n {
					if err := <-errs; err != nil {
						failed++
					}
				}
				return failed
			}
			var leases []*pooly.Conn
			for range 10 {
				leases = append(leases, get(t, s))
			}
			for _, c := range leases {
				release(t, c)
			}
			time.Sleep(3 * time.Second)
			failed := 0
			for range 10 {
				failed += burst(10)
			}
			require.Equal(t, test.fails, failed > 0, "%d of 100 failed", failed)
		})
	}
}

func TestCheckFindsARealServerThatIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stop := serveOn(t, l, echo)
	address, other := l.Addr().String(), listen(t, echo)
	s := pooly.NewService("net", &pooly.ServiceConfig{CheckInterval: 200 * time.Millisecond})
	defer func() { require.NoError(t, s.Close()) }()
	s.SetHosts(address, other)
	eventually(t, func() bool { return s.Stats().Idle == 2 })
	stop()
	eventually(t, func() bool { return hostStats(t, s, address).Ejected })
	require.ErrorIs(t, hostStats(t, s, address).Cause, syscall.ECONNREFUSED)
	require.False(t, hostStats(t, s, other).Ejected)
}

func TestMinIdleHoldsWithAServerThatClosesIdleSockets(t *testing.T) {
	var open atomic.Int32
	address := listen(t, func(c net.Conn) {
		open.Add(1)
		defer open.Add(-1)
		_ = c.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
	})
	s := pooly.NewService("net", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{
		MinIdle: 3, KeepAlive: 200 * time.Millisecond,
	}})
	defer func() { require.NoError(t, s.Close()) }()
	s.Add(address)
	eventually(t, func() bool { return open.Load() >= 3 })
	time.Sleep(2 * time.Second) // the first are closed by now
	eventually(t, func() bool { return open.Load() >= 3 && s.Stats().Idle == 3 })
	require.False(t, hostStats(t, s, address).Ejected)
	eventually(t, func() bool { return inCloseWait(t, address) == 0 })
}
