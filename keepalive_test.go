package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// pingDriver is a fakeDriver with pings.
type pingDriver struct {
	*fakeDriver
	pings atomic.Int32
	ping  func(ctx context.Context, c *fakeConn) error // nil: the server answers at once
}

func (d *pingDriver) Ping(ctx context.Context, c *pooly.Conn) error {
	d.pings.Add(1)
	if d.ping == nil {
		return nil
	}
	return d.ping(ctx, fakeOf(c))
}

// silence is a ping that nobody answers.
func silence(ctx context.Context, _ *fakeConn) error {
	<-ctx.Done()
	return ctx.Err()
}

func newPingService(
	t *testing.T, config pooly.ServiceConfig, ping func(context.Context, *fakeConn) error, addresses ...string,
) (*pooly.Service, *pingDriver) {
	t.Helper()
	d := &pingDriver{fakeDriver: newFakeDriver(), ping: ping}
	config.Driver = d
	if config.PrespawnConns == 0 {
		config.PrespawnConns = -1
	}
	s := pooly.NewService("test", &config)
	t.Cleanup(func() { _ = s.Close() })
	s.SetHosts(addresses...)
	return s, d
}

// They stayed half closed for ever if nobody used the service.
func TestIdleConnectionsThatTheServerClosedAreClosedWhileNobodyUsesTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		for i, c := range idle(t, s, 20) {
			if i%2 == 0 {
				c.die()
			}
		}
		time.Sleep(pooly.DefaultKeepAlive + 2*time.Second)
		require.Equal(t, 10, d.host("a").closed)
		require.Equal(t, 10, s.Stats().Idle, "the others stay")
		require.Equal(t, 20, d.host("a").dials)
		require.Equal(t, s.Stats().Gets, s.Stats().Puts)
	})
}

func TestConnectionsThatWereNeverLeasedAreLookedAtToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tests atomic.Int32
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 3})
		d.test = func(*fakeConn) error { tests.Add(1); return errDead }
		s.Add("a")
		time.Sleep(pooly.DefaultKeepAlive + time.Second)
		require.EqualValues(t, 3, tests.Load())
		require.Zero(t, d.host("a").open)
	})
}

func TestEachIdleConnectionIsLookedAtOncePerKeepAlive(t *testing.T) {
	for name, direct := range map[string]bool{"service": false, "pool used alone": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hour, every = 60, time.Minute
				tests := make(map[*fakeConn]int)
				var counting atomic.Bool
				var mu sync.Mutex // guards tests
				d := newFakeDriver()
				d.test = func(c *fakeConn) error {
					mu.Lock()
					defer mu.Unlock()
					if counting.Load() {
						tests[c]++
					}
					return nil
				}
				config := pooly.PoolConfig{Driver: d, KeepAlive: every}
				var conns []*fakeConn
				if direct {
					p := pooly.NewPool("a", &config)
					defer func() { require.NoError(t, p.Close()) }()
					var leases []*pooly.Conn
					for range 20 {
						c, err := p.Get()
						require.NoError(t, err)
						leases = append(leases, c)
						conns = append(conns, fakeOf(c))
					}
					for _, c := range leases {
						release(t, c)
					}
				} else {
					s := pooly.NewService("test", &pooly.ServiceConfig{PoolConfig: config, PrespawnConns: -1})
					defer func() { require.NoError(t, s.Close()) }()
					s.Add("a")
					conns = idle(t, s, 20)
				}
				time.Sleep(10 * time.Second)
				counting.Store(true)
				time.Sleep(hour * every)
				counting.Store(false)
				mu.Lock()
				defer mu.Unlock()
				for _, c := range conns {
					require.GreaterOrEqual(t, tests[c], hour-1)
					require.LessOrEqual(t, tests[c], hour*8/7+1, "an eighth early at most")
				}
			})
		})
	}
}

// A firewall that forgets a connection swallows what comes on it.
func TestPingsKeepAFirewallFromForgettingConnections(t *testing.T) {
	for _, test := range []struct {
		name      string
		keepAlive time.Duration
		forgotten bool
	}{
		{"KeepAlive of a minute", time.Minute, false},
		{"no KeepAlive", -1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var flows sync.Map // when the firewall last saw each connection
				pass := func(ctx context.Context, c *fakeConn) error {
					const memory = 5 * time.Minute
					if last, ok := flows.Load(c); ok && time.Since(last.(time.Time)) > memory {
						return silence(ctx, c)
					}
					flows.Store(c, time.Now())
					return nil
				}
				s, _ := newPingService(t, pooly.ServiceConfig{
					PoolConfig: pooly.PoolConfig{KeepAlive: test.keepAlive},
				}, pass, "a", "b")
				ask := func(ctx context.Context, c *pooly.Conn) error { return pass(ctx, fakeOf(c)) }
				burst := func(n int) (timeouts int) {
					var failed atomic.Int32
					for range n / 20 {
						done := make(chan struct{})
						for range 20 {
							go func() {
								ctx, cancel := context.WithTimeout(t.Context(), time.Second)
								defer cancel()
								if err := s.Do(ctx, func(c *pooly.Conn) error { return ask(ctx, c) }); err != nil {
									failed.Add(1)
								}
								done <- struct{}{}
							}()
						}
						for range 20 {
							<-done
						}
					}
					return int(failed.Load())
				}
				burst(20)
				burst(20)
				time.Sleep(10 * time.Minute)
				require.Equal(t, test.forgotten, burst(100) > 0)
			})
		})
	}
}

func TestIdleConnectionsOfAHostArePingedOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pinging, most atomic.Int32
		s, d := newPingService(t, pooly.ServiceConfig{}, func(context.Context, *fakeConn) error {
			if n := pinging.Add(1); n > most.Load() {
				most.Store(n)
			}
			time.Sleep(100 * time.Millisecond)
			pinging.Add(-1)
			return nil
		}, "a")
		conns := idle(t, s, 10)
		time.Sleep(time.Minute + 3*time.Second)
		require.EqualValues(t, 1, most.Load())
		require.EqualValues(t, 10, d.pings.Load())
		require.EqualValues(t, 10, s.Stats().Pings)
		require.Zero(t, s.Stats().PingFailures)
		require.Equal(t, 10, s.Stats().Idle)
		c := get(t, s)
		require.Same(t, conns[9], fakeOf(c), "the most recently used one is on top again")
		release(t, c)
	})
}

func TestConnectionsInUseAreNotPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newPingService(t, pooly.ServiceConfig{}, nil, "a")
		for range 3600 {
			release(t, get(t, s))
			time.Sleep(time.Second)
		}
		require.Zero(t, d.pings.Load())
		held := get(t, s)
		time.Sleep(time.Hour)
		require.Zero(t, d.pings.Load())
		release(t, held)
	})
}

// A firewall has forgotten all connections of a host that works.
func TestConnectionsThatDoNotAnswerTheirPingsDoNotEjectAHostThatWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var forgotten atomic.Int32 // connections with lower numbers
		s, d := newPingService(t, pooly.ServiceConfig{}, func(ctx context.Context, c *fakeConn) error {
			if c.id < int(forgotten.Load()) {
				return silence(ctx, c)
			}
			return nil
		}, "a", "b")
		idle(t, s, 40)
		for range 10 {
			forgotten.Store(int32(d.host("a").dials))
			time.Sleep(5 * time.Minute)
			require.Zero(t, hostStats(t, s, "a").Ejections)
		}
		require.Equal(t, 1, hostStats(t, s, "a").Idle, "the one that showed that the host works")
		require.Equal(t, 20+10, d.host("a").dials)
		require.EqualValues(t, 20+9, hostStats(t, s, "a").PingFailures)
	})
}

func TestFailedPingFindsAHostThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		s, d := newPingService(t, pooly.ServiceConfig{}, func(ctx context.Context, c *fakeConn) error {
			if gone.Load() {
				return silence(ctx, c)
			}
			return nil
		}, "a", "b")
		idle(t, s, 4)
		gone.Store(true)
		d.refuse("a")
		time.Sleep(time.Minute + 10*time.Second)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.ErrorIs(t, hostStats(t, s, "a").Cause, syscall.ECONNREFUSED)
		require.False(t, hostStats(t, s, "b").Ejected)
	})
}

// A frozen process still accepts connections.
func TestHostWhoseNewConnectionsDoNotAnswerPingsIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frozen atomic.Pointer[fakeHost]
		s, d := newPingService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MinIdle: 1},
		}, func(ctx context.Context, c *fakeConn) error {
			if c.host == frozen.Load() {
				return silence(ctx, c)
			}
			return nil
		}, "a", "b", "c")
		idle(t, s, 6)
		d.on("a", func(h *fakeHost) { frozen.Store(h) })
		time.Sleep(4 * time.Minute)
		require.Zero(t, hostStats(t, s, "a").Ejections, "it takes as many failures as leases do")
		time.Sleep(3 * time.Minute)
		require.Positive(t, hostStats(t, s, "a").Ejections)
		require.Zero(t, hostStats(t, s, "b").Ejections)
		require.Zero(t, hostStats(t, s, "c").Ejections)
	})
}

func TestPingsThatFailAtAllHostsAlikeEjectNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newPingService(t, pooly.ServiceConfig{}, silence, "a", "b", "c")
		for range 30 {
			idle(t, s, 9)
			time.Sleep(3 * time.Minute)
		}
		require.Greater(t, d.pings.Load(), int32(100))
		for _, h := range s.Stats().Hosts {
			require.Zero(t, h.Ejections, h.Address)
		}
	})
}

func TestPingThatMisbehavesLosesNoPlace(t *testing.T) {
	for name, ping := range map[string]func(context.Context, *fakeConn) error{
		"panics":              func(context.Context, *fakeConn) error { panic("ping") },
		"ends its goroutine":  func(context.Context, *fakeConn) error { runtime.Goexit(); return nil },
		"heeds no context":    func(context.Context, *fakeConn) error { time.Sleep(time.Hour); return nil },
		"returns a bad error": func(context.Context, *fakeConn) error { return rogueError{} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newPingService(t, pooly.ServiceConfig{
					PoolConfig: pooly.PoolConfig{MaxConns: 4},
					Logger:     slog.New(slog.DiscardHandler),
				}, ping, "a")
				idle(t, s, 4)
				time.Sleep(3 * time.Minute)
				require.GreaterOrEqual(t, d.pings.Load(), int32(4))
				require.LessOrEqual(t, d.host("a").peak, 4)
				idle(t, s, 4)
				require.NoError(t, s.Close())
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestCloseDoesNotWaitForAPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newPingService(t, pooly.ServiceConfig{}, silence, "a")
		idle(t, s, 3)
		for d.pings.Load() == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		began := time.Now()
		require.NoError(t, s.Close())
		require.Zero(t, time.Since(began))
		require.Zero(t, d.host("a").open)
	})
}

func TestCallerWhoWaitsWhileTheOnlyConnectionIsPingedGetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newPingService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 1},
		}, func(context.Context, *fakeConn) error { time.Sleep(100 * time.Millisecond); return nil }, "a")
		idle(t, s, 1)
		for d.pings.Load() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		began := time.Now()
		release(t, get(t, s))
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond)
		require.Equal(t, 1, d.host("a").dials)
	})
}

// What a host held idle is closed when it is ejected, also what was being pinged then.
func TestConnectionThatIsPingedWhileItsHostComesBackIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newPingService(t, pooly.ServiceConfig{}, func(context.Context, *fakeConn) error {
			time.Sleep(time.Second)
			return nil
		}, "a")
		old := idle(t, s, 1)[0]
		for d.pings.Load() == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		s.Report("a", errors.New("down"))
		time.Sleep(500 * time.Millisecond)
		require.False(t, hostStats(t, s, "a").Ejected, "a probe has connected")
		time.Sleep(time.Second)
		require.True(t, old.isClosed())
		require.Equal(t, 1, s.Stats().Idle)
	})
}

func TestSharedClientIsPingedOnceForAllItsPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pings, closed atomic.Int32
		var broken atomic.Pointer[sharedClient]
		s := pooly.NewService("shared", &pooly.ServiceConfig{
			PrespawnConns: -1,
			PoolConfig: pooly.PoolConfig{Driver: pooly.NewSharedDriver(pooly.DriverFuncs[*sharedClient]{
				Dial:  func(context.Context, string) (*sharedClient, error) { return new(sharedClient), nil },
				Close: func(*sharedClient) error { closed.Add(1); return nil },
				Ping: func(_ context.Context, c *sharedClient) error {
					pings.Add(1)
					if c == broken.Load() {
						return errFatal
					}
					return nil
				},
			})},
		})
		defer func() { require.NoError(t, s.Close()) }()
		s.Add("a")
		var leases []*pooly.Conn
		for range 10 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases {
			release(t, c)
		}
		time.Sleep(time.Minute + time.Second)
		require.EqualValues(t, 1, pings.Load())
		require.Equal(t, 10, s.Stats().Idle)
		broken.Store(sharedOf(leases[0]))
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, closed.Load(), "all its places are closed")
		require.Equal(t, 1, s.Stats().Open, "a new client")
	})
}

func TestDriverOfFunctionsIsAPingerOnlyIfItHasPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tests, pings atomic.Int32
		for _, ping := range []func(context.Context, *int) error{
			nil, func(context.Context, *int) error { pings.Add(1); return nil },
		} {
			p := pooly.NewPool("a", &pooly.PoolConfig{Driver: pooly.DriverOf(pooly.DriverFuncs[*int]{
				Dial: func(context.Context, string) (*int, error) { return new(int), nil },
				Test: func(*int) error { tests.Add(1); return nil },
				Ping: ping,
			})})
			c, err := p.Get()
			require.NoError(t, err)
			release(t, c)
			before := tests.Load()
			time.Sleep(time.Minute + 2*time.Second)
			require.Equal(t, before+1, tests.Load())
			require.Equal(t, p.Stats().Pings, uint64(pings.Load()))
			require.NoError(t, p.Close())
		}
		require.EqualValues(t, 1, pings.Load())
	})
}

// rogueError is an error whose methods panic.
type rogueError struct{}

func (rogueError) Error() string { panic("Error") }
func (rogueError) Unwrap() error { panic("Unwrap") }

// It kept its place for ever, no other connection of the host was looked at, and Close waited until
// its deadline.
func TestTestOfAnIdleConnectionThatHangsLosesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 4},
			Logger:     slog.New(slog.DiscardHandler),
		}, "a")
		hang := make(chan struct{})
		var armed atomic.Bool
		var tested atomic.Int32
		d.test = func(*fakeConn) error {
			if armed.Load() && tested.Add(1) == 1 {
				<-hang
			}
			return nil
		}
		idle(t, s, 4)
		armed.Store(true)
		time.Sleep(2 * pooly.DefaultKeepAlive)
		synctest.Wait() // one may be looked at just now
		require.Greater(t, tested.Load(), int32(4))
		require.Equal(t, 3, s.Stats().Open)
		require.Equal(t, 3, s.Stats().Idle)
		require.Equal(t, 1, d.host("a").closed)
		idle(t, s, 4)

		tested.Store(0)
		for tested.Load() == 0 {
			time.Sleep(100 * time.Millisecond)
		}
		began := time.Now()
		require.NoError(t, s.Close())
		require.LessOrEqual(t, time.Since(began), time.Second)
		require.Zero(t, d.host("a").open)
		close(hang)
	})
}

// The connection that had not answered still had its place, so there was no room for the new one.
func TestPingThatFailsAtAFullHostChecksTheHostAtOnce(t *testing.T) {
	for name, config := range map[string]pooly.ServiceConfig{
		"KeepAlive":     {PoolConfig: pooly.PoolConfig{KeepAlive: time.Minute}},
		"CheckInterval": {CheckInterval: time.Minute, PoolConfig: pooly.PoolConfig{KeepAlive: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config.MaxConns = 1
				s, d := newPingService(t, config, silence, "a", "b")
				idle(t, s, 2)
				for d.pings.Load() < 2 {
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(6 * time.Second)
				require.Equal(t, 2, d.host("a").dials)
				require.Equal(t, 2, d.host("b").dials)
			})
		})
	}
}

// timeoutError is an error that panics when it is asked whether it is a timeout.
type timeoutError struct{}

func (timeoutError) Error() string { return "timeout" }
func (timeoutError) Timeout() bool { panic("Timeout") }

// It panicked in pooly's own goroutine, which ended the program.
func TestPingOfASharedClientThatReturnsABadErrorHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clients atomic.Int32
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: pooly.NewSharedDriver(pooly.DriverFuncs[*int]{
				Dial: func(context.Context, string) (*int, error) { clients.Add(1); return new(int), nil },
				Ping: func(context.Context, *int) error { return timeoutError{} },
			})},
			PrespawnConns: -1,
			Logger:        slog.New(slog.DiscardHandler),
		})
		s.Add("a")
		release(t, get(t, s))
		time.Sleep(2 * pooly.DefaultKeepAlive)
		before := clients.Load()
		release(t, get(t, s))
		require.Greater(t, clients.Load(), before, "the client was closed")
		require.NoError(t, s.Close())
	})
}
