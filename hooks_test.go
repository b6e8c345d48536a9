package pooly_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

var errHook = errors.New("hook says no")

// hooked returns the configuration of a service with hooks.
func hooked(h pooly.Hooks) pooly.ServiceConfig {
	return pooly.ServiceConfig{Logger: slog.New(slog.DiscardHandler), PoolConfig: pooly.PoolConfig{Hooks: h}}
}

func TestOnConnectRunsOnceForEachConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var prepared atomic.Int32
		s, d := newService(t, hooked(pooly.Hooks{OnConnect: func(ctx context.Context, c *pooly.Conn) error {
			_, bounded := ctx.Deadline()
			if c.Address() != "a" || fakeOf(c) == nil || !bounded {
				return errHook
			}
			prepared.Add(1)
			return nil
		}}), "a")
		for range 5 {
			release(t, get(t, s))
		}
		require.EqualValues(t, 1, prepared.Load())
		require.Equal(t, 1, d.host("a").dials)
	})
}

func TestFailedOnConnectIsAFailedDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		s, d := newService(t, hooked(pooly.Hooks{OnConnect: func(context.Context, *pooly.Conn) error {
			if broken.Load() {
				return errHook
			}
			return nil
		}}), "a")
		_, err := s.GetConn()
		require.ErrorIs(t, err, errHook)
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		host := hostStats(t, s, "a")
		require.True(t, host.Ejected)
		require.EqualValues(t, d.host("a").dials, host.Failures)
		require.Zero(t, d.host("a").open, "a connection was left open")

		broken.Store(false)
		time.Sleep(pooly.DefaultMaxEjectionTime)
		require.False(t, hostStats(t, s, "a").Ejected)
		release(t, get(t, s))
	})
}

func TestPrepareConnDecidesAboutEachLease(t *testing.T) {
	for _, test := range []struct {
		name   string
		ok     bool
		err    error
		dials  int // until a call has a connection or fails
		closed int
	}{
		{"use it", true, nil, 1, 0},
		{"take another", false, nil, 2, 1},
		{"keep it and fail", true, errHook, 1, 0},
		{"close it and fail", false, errHook, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked int
				s, d := newService(t, hooked(pooly.Hooks{PrepareConn: func(_ context.Context, c *pooly.Conn) (bool, error) {
					if asked++; asked == 2 {
						return test.ok, test.err
					}
					return true, nil
				}}), "a")
				release(t, get(t, s))
				before := hostStats(t, s, "a")
				c, err := s.GetConn()
				require.ErrorIs(t, err, test.err)
				var failure *pooly.GetConnError
				require.Equal(t, test.err != nil, errors.As(err, &failure))
				synctest.Wait()
				require.Equal(t, test.dials, d.host("a").dials)
				require.Equal(t, test.closed, d.host("a").closed)
				after := hostStats(t, s, "a")
				require.Equal(t, before.Score, after.Score)
				require.Equal(t, before.Failures, after.Failures)
				require.False(t, after.Ejected)
				if test.err == nil {
					require.EqualValues(t, 2, after.Gets)
					release(t, c)
					return
				}
				require.ErrorContains(t, err, "service test: PrepareConn of a connection to a: hook says no")
				require.EqualValues(t, 1, after.Gets, "no lease was handed out")
				require.Zero(t, after.InUse)
				require.Equal(t, 1-test.closed, after.Idle)
				release(t, get(t, s))
			})
		})
	}
}

func TestPrepareConnThatAlwaysRefusesEndsTheCall(t *testing.T) {
	refuse := pooly.Hooks{PrepareConn: func(context.Context, *pooly.Conn) (bool, error) { return false, nil }}
	for name, call := range map[string]func(*pooly.Service) error{
		"GetConn": func(s *pooly.Service) error { _, err := s.GetConn(); return err },
		"TryLease": func(s *pooly.Service) error {
			_, err := s.TryLease(context.Background())
			return err
		},
		"Do": func(s *pooly.Service) error {
			return s.Do(context.Background(), func(*pooly.Conn) error { return nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, hooked(refuse), "a", "b")
				err := call(s)
				require.ErrorContains(t, err, "PrepareConn refused 3 new connections, the last to ")
				synctest.Wait()
				require.Equal(t, 3, d.host("a").dials+d.host("b").dials)
				require.Zero(t, d.host("a").open+d.host("b").open)
				require.Zero(t, s.Stats().Failures)
			})
		})
	}
	t.Run("Pool", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newFakeDriver()
			p := pooly.NewPool("a", &pooly.PoolConfig{Driver: d, Hooks: refuse})
			_, err := p.Get()
			require.ErrorContains(t, err, "PrepareConn refused 3 new connections, the last to a")
			require.Equal(t, 3, d.host("a").dials)
			require.NoError(t, p.Close())
			require.Zero(t, d.host("a").open)
		})
	})
}

// After a failover all idle connections may be of no use, and there are more of them than a call may dial.
func TestPrepareConnMayRefuseAllConnectionsFromBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var old atomic.Bool
		s, d := newService(t, hooked(pooly.Hooks{PrepareConn: func(_ context.Context, c *pooly.Conn) (bool, error) {
			return !old.Load() || fakeOf(c).id >= 10, nil
		}}), "a")
		idle(t, s, 10)
		time.Sleep(5 * time.Second)
		old.Store(true)
		c := get(t, s)
		require.Equal(t, 10, fakeOf(c).id)
		release(t, c)
		synctest.Wait()
		require.Equal(t, 10, d.host("a").closed)
	})
}

func TestPrepareConnOfAWaiterRunsInItsGoroutineWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		config := hooked(pooly.Hooks{PrepareConn: func(ctx context.Context, _ *pooly.Conn) (bool, error) {
			if ctx.Value(key{}) != nil {
				time.Sleep(time.Hour)
			}
			return ctx.Err() == nil, ctx.Err()
		}})
		config.MaxConns = 1
		s, _ := newService(t, config, "a")
		held := get(t, s)
		ctx, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, true))
		failed := make(chan error)
		go func() {
			_, err := s.GetConnContext(ctx)
			failed <- err
		}()
		synctest.Wait()
		began := time.Now()
		release(t, held)
		require.Zero(t, time.Since(began), "Release waited for the hook of the waiter")
		cancel()
		require.ErrorIs(t, <-failed, context.Canceled)
		require.Equal(t, time.Hour, time.Since(began))
		release(t, get(t, s))
	})
}

func TestAfterReleaseDecidesWhetherTheConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keep atomic.Bool
		var calls atomic.Int32
		s, d := newService(t, hooked(pooly.Hooks{AfterRelease: func(c *pooly.Conn) bool {
			calls.Add(1)
			return keep.Load()
		}}), "a")
		keep.Store(true)
		release(t, get(t, s))
		release(t, get(t, s))
		require.Equal(t, 1, d.host("a").dials)
		require.EqualValues(t, 2, calls.Load())

		keep.Store(false)
		release(t, get(t, s))
		synctest.Wait()
		require.Equal(t, 1, d.host("a").closed)
		require.Equal(t, 1.0, hostStats(t, s, "a").Score, "the refusal rated the host")

		c := get(t, s)
		require.NoError(t, c.Release(errFatal, pooly.HostDown))
		synctest.Wait()
		require.EqualValues(t, 3, calls.Load(), "the connection was closed anyway")
		require.Equal(t, 2, d.host("a").closed)

		require.NoError(t, s.Do(context.Background(), func(*pooly.Conn) error { return nil }))
		require.EqualValues(t, 4, calls.Load())
		require.Zero(t, s.Stats().InUse)
	})
}

func TestLeaseIsReleasedWhileAfterReleaseRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var inside *pooly.Conn
		var nested error
		config := hooked(pooly.Hooks{AfterRelease: func(c *pooly.Conn) bool {
			time.Sleep(time.Minute)
			inside, nested = c, c.Release(nil, pooly.HostUp)
			return true
		}})
		config.MaxConns = 1
		s, d := newService(t, config, "a")
		c := get(t, s)
		done := make(chan error)
		go func() { done <- c.Release(nil, pooly.HostUp) }()
		synctest.Wait()
		require.ErrorIs(t, c.Release(nil, pooly.HostUp), pooly.ErrConnReleased)
		require.Equal(t, 1, s.Stats().InUse)
		began := time.Now()
		next := get(t, s) // waits for the hook
		require.Equal(t, time.Minute, time.Since(began))
		require.NoError(t, <-done)
		require.ErrorIs(t, nested, pooly.ErrConnReleased)
		require.Same(t, c.Interface(), inside.Interface())
		require.NoError(t, next.End())
		require.EqualValues(t, 2, s.Stats().Puts)
		require.Equal(t, 1, d.host("a").dials)
	})
}

func TestOnCloseRunsBeforeEachClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, late atomic.Int32
		var broken atomic.Bool
		config := hooked(pooly.Hooks{
			OnConnect: func(context.Context, *pooly.Conn) error {
				if broken.Load() {
					return errHook
				}
				return nil
			},
			OnClose: func(c *pooly.Conn) {
				calls.Add(1)
				if fakeOf(c).isClosed() || c.Address() != "a" {
					late.Add(1)
				}
			},
		})
		s, d := newService(t, config, "a")
		idle(t, s, 3)
		require.NoError(t, get(t, s).Release(errFatal, 0))
		synctest.Wait()
		require.EqualValues(t, 1, calls.Load())
		broken.Store(true)
		s.CloseIdle()
		synctest.Wait()
		require.EqualValues(t, 3, calls.Load())
		_, err := s.GetConn()
		require.ErrorIs(t, err, errHook)
		require.NoError(t, s.Close())
		require.EqualValues(t, d.host("a").closed, calls.Load())
		require.Greater(t, d.host("a").closed, 3)
		require.Zero(t, late.Load())
	})
}

// A hook that panics or ends its goroutine costs a connection, and nothing else.
func TestHooksThatMisbehaveCostNoCapacity(t *testing.T) {
	misdeeds := map[string]func(){
		"panic": func() { panic("hook") },
		"exit":  runtime.Goexit,
	}
	for name, misdeed := range misdeeds {
		for _, hook := range []string{"OnConnect", "PrepareConn", "AfterRelease", "OnClose"} {
			t.Run(hook+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var armed atomic.Bool
					act := func(called string) {
						if called == hook && armed.Load() {
							misdeed()
						}
					}
					config := hooked(pooly.Hooks{
						OnConnect:    func(context.Context, *pooly.Conn) error { act("OnConnect"); return nil },
						PrepareConn:  func(context.Context, *pooly.Conn) (bool, error) { act("PrepareConn"); return true, nil },
						AfterRelease: func(*pooly.Conn) bool { act("AfterRelease"); return true },
						OnClose:      func(*pooly.Conn) { act("OnClose") },
					})
					config.MaxConns = 1
					s, d := newService(t, config, "a")
					armed.Store(true)
					for range 3 {
						done := make(chan error, 1)
						go func() {
							err := errors.New("the goroutine ended")
							defer func() { done <- err }()
							var c *pooly.Conn
							if c, err = s.GetConn(); err == nil {
								err = errors.New("the goroutine ended")
								err = c.Release(errFatal, pooly.HostUp)
							}
							if c, err = s.GetConn(); err == nil {
								err = errors.New("the goroutine ended")
								err = c.Release(nil, pooly.HostUp)
							}
						}()
						err := <-done
						if hook == "PrepareConn" || hook == "OnConnect" {
							require.Error(t, err)
						}
						if name == "panic" && hook == "PrepareConn" {
							require.ErrorContains(t, err, "Hooks.PrepareConn panicked: hook")
						}
					}
					armed.Store(false)
					time.Sleep(pooly.DefaultMaxEjectionTime)
					release(t, get(t, s))
					require.Zero(t, s.Stats().InUse)
					require.Equal(t, 1, d.host("a").open)
				})
			})
		}
	}
}

// valueDriver keeps the contexts of its dials.
type valueDriver struct {
	*fakeDriver
	dialled chan context.Context
}

func (d *valueDriver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.fakeDriver.Dial(ctx, address)
	d.dialled <- ctx
	return c, err
}

type traceKey struct{}

func TestDialForACallerHasTheValuesOfItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &valueDriver{newFakeDriver(), make(chan context.Context, 100)}
		d.slow("a", time.Second)
		s := pooly.NewService("test", &pooly.ServiceConfig{PrespawnConns: 1, FallbackDelay: -1, Logger: slog.New(slog.DiscardHandler),
			PoolConfig: pooly.PoolConfig{Driver: d, MaxConns: 3}})
		defer s.Close()
		s.Add("a")
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), traceKey{}, "first"), time.Millisecond)
		defer cancel()
		_, err := s.GetConnContext(ctx) // waits for the prespawned connection
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Nil(t, (<-d.dialled).Value(traceKey{}), "the prespawned one is for nobody")

		held := get(t, s)
		ctx, cancel = context.WithTimeout(context.WithValue(context.Background(), traceKey{}, "second"), time.Millisecond)
		defer cancel()
		_, err = s.GetConnContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		dial := <-d.dialled
		require.Equal(t, "second", dial.Value(traceKey{}))
		until, _ := dial.Deadline()
		require.InDelta(t, pooly.DefaultDialTimeout, time.Until(until), float64(2*time.Second))
		require.False(t, pooly.IsProbe(dial))
		synctest.Wait()
		require.Equal(t, 1, s.Stats().Idle, "the caller's deadline ended the dial")
		release(t, held)
	})
}

// A trace may hold all of a request. A connection lives on for hours.
func TestConnectionDoesNotKeepTheContextOfItsDial(t *testing.T) {
	s, _ := newService(t, hooked(pooly.Hooks{}), "a")
	trace := make([]byte, 1<<20)
	kept := weak.Make(&trace[0])
	c, err := s.GetConnContext(context.WithValue(context.Background(), traceKey{}, trace))
	require.NoError(t, err)
	defer func() { _ = c.Release(nil, pooly.HostUp) }()
	require.Eventually(t, func() bool {
		runtime.GC()
		return kept.Value() == nil
	}, 10*time.Second, time.Millisecond)
}

// Callers who wait in the queue get dials of whichever host has room. Each context is used once.
func TestDialsForTheQueueHaveTheValuesOfTheirCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &valueDriver{newFakeDriver(), make(chan context.Context, 100)}
		s := pooly.NewService("test", &pooly.ServiceConfig{PrespawnConns: -1, Logger: slog.New(slog.DiscardHandler),
			PoolConfig: pooly.PoolConfig{Driver: d, MaxConns: 1}})
		defer s.Close()
		s.Add("a")
		held := get(t, s)
		<-d.dialled
		served := make(chan *pooly.Conn, 3)
		for i := range 3 {
			ctx := context.WithValue(context.Background(), traceKey{}, fmt.Sprint(i))
			go func() {
				c, _ := s.GetConnContext(ctx)
				served <- c
			}()
			synctest.Wait()
		}
		d.slow("b", time.Second)
		d.slow("c", time.Second)
		s.SetHosts("a", "b", "c")
		for range 2 {
			c := <-served
			defer c.Release(nil, pooly.HostUp)
		}
		require.ElementsMatch(t, []any{"0", "2"}, []any{(<-d.dialled).Value(traceKey{}), (<-d.dialled).Value(traceKey{})})
		release(t, held)
		release(t, <-served)
	})
}

// A driver that itself leases from a service passes its own dial's context on.
func TestProbeOfAnotherServiceIsNoProbeHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := &valueDriver{newFakeDriver(), make(chan context.Context, 100)}
		in := pooly.NewService("inner", &pooly.ServiceConfig{PrespawnConns: -1, PoolConfig: pooly.PoolConfig{Driver: inner}})
		defer in.Close()
		in.Add("b")
		var down atomic.Bool
		down.Store(true)
		var probed atomic.Bool
		out := pooly.NewService("outer", &pooly.ServiceConfig{PrespawnConns: -1, GetAttempts: 1, Logger: slog.New(slog.DiscardHandler),
			PoolConfig: pooly.PoolConfig{Driver: pooly.DriverOf(pooly.DriverFuncs[*pooly.Conn]{
				Dial: func(ctx context.Context, _ string) (*pooly.Conn, error) {
					if down.Load() {
						return nil, errHook
					}
					probed.Store(pooly.IsProbe(ctx))
					return in.GetConnContext(ctx)
				},
				Close: func(c *pooly.Conn) error { return c.End() },
			})}})
		defer out.Close()
		out.Add("a")
		_, err := out.GetConn()
		require.ErrorIs(t, err, errHook)
		down.Store(false)
		time.Sleep(pooly.DefaultMaxEjectionTime)
		require.True(t, probed.Load())
		require.False(t, pooly.IsProbe(<-inner.dialled))
	})
}

// A tiny protocol on a real socket: HELLO once, PING before each lease, RESET after it, BYE at the end.
func TestHooksSpeakTheProtocolOnRealSockets(t *testing.T) {
	lines := make(chan string, 100)
	address := listen(t, func(c net.Conn) {
		for in := bufio.NewScanner(c); in.Scan(); {
			lines <- in.Text()
			if in.Text() != "BYE" {
				_, _ = fmt.Fprintln(c, "OK")
			}
		}
	})
	ask := func(ctx context.Context, c *pooly.Conn, line string) error {
		if at, ok := ctx.Deadline(); ok {
			_ = c.NetConn().SetDeadline(at)
			defer c.NetConn().SetDeadline(time.Time{})
		}
		if _, err := fmt.Fprintln(c.NetConn(), line); err != nil {
			return err
		}
		var answer string
		if _, err := fmt.Fscanln(c.NetConn(), &answer); err != nil || answer != "OK" {
			return fmt.Errorf("%s: %q, %w", line, answer, err)
		}
		return nil
	}
	s := pooly.NewService("test", &pooly.ServiceConfig{PrespawnConns: -1, PoolConfig: pooly.PoolConfig{Hooks: pooly.Hooks{
		OnConnect: func(ctx context.Context, c *pooly.Conn) error { return ask(ctx, c, "HELLO") },
		PrepareConn: func(ctx context.Context, c *pooly.Conn) (bool, error) {
			return ask(ctx, c, fmt.Sprint("TENANT ", ctx.Value(traceKey{}))) == nil, nil
		},
		AfterRelease: func(c *pooly.Conn) bool { return ask(context.Background(), c, "RESET") == nil },
		OnClose:      func(c *pooly.Conn) { _, _ = fmt.Fprintln(c.NetConn(), "BYE") },
	}}})
	defer s.Close()
	s.Add(address)
	for _, tenant := range []string{"red", "blue"} {
		ctx := context.WithValue(context.Background(), traceKey{}, tenant)
		require.NoError(t, s.Do(ctx, func(c *pooly.Conn) error { return ask(ctx, c, "GET") }))
	}
	require.NoError(t, s.Close())
	for _, line := range []string{"HELLO", "TENANT red", "GET", "RESET", "TENANT blue", "GET", "RESET", "BYE"} {
		require.Equal(t, line, <-lines)
	}
	require.Empty(t, lines)
}
