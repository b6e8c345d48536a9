package pooly_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestDoGivesTheConnectionBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		err    error
		closed int
	}{
		{"success", nil, 0},
		{"an error that the driver calls temporary", errTemporary, 0},
		{"a fatal error", errFatal, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{}, "a")
				runs := 0
				err := s.Do(t.Context(), func(c *pooly.Conn) error {
					runs++
					require.Equal(t, "a", c.Address())
					require.Equal(t, 1, s.Stats().InUse)
					return tt.err
				})
				require.Equal(t, tt.err, err, "the function's error, as it is")
				require.Equal(t, 1, runs)
				synctest.Wait()
				require.Zero(t, s.Stats().InUse)
				require.Equal(t, tt.closed, d.host("a").closed)
			})
		})
	}
}

// mean returns the score of a host and the trials behind it.
func mean(t *testing.T, s *pooly.Service, address string) (score, trials float64) {
	t.Helper()
	h := hostStats(t, s, address)
	return h.Score, h.Trials
}

func TestDoRatesByWhatTheFunctionReturns(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name   string
		f      func(*pooly.Conn) error
		score  float64
		trials float64
	}{
		{"success", func(*pooly.Conn) error { return nil }, 1, 1},
		{"temporary", func(*pooly.Conn) error { return errTemporary }, 0, 1},
		{"cancelled by the function", func(*pooly.Conn) error { return context.Canceled }, 0.5, 0},
		{"temporary, for another host", func(*pooly.Conn) error { return pooly.Retry(errTemporary) }, 0, 1},
		{"marked deeper", func(*pooly.Conn) error { return fmt.Errorf("get: %w", pooly.Retry(errTemporary)) }, 0, 1},
		{"fatal", func(*pooly.Conn) error { return errFatal }, 0, 1},
		{"released with a score", func(c *pooly.Conn) error { return c.Release(nil, 0.7) }, 0.7, 1},
		{"panic", func(*pooly.Conn) error { panic(boom) }, 0.5, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "a")
				func() {
					defer func() { _ = recover() }()
					_ = s.Do(t.Context(), tt.f)
				}()
				score, trials := mean(t, s, "a")
				require.InDelta(t, tt.score, score, 1e-9)
				require.InDelta(t, tt.trials, trials, 1e-9)
				require.Zero(t, s.Stats().InUse)
			})
		})
	}
}

func TestDoPassesAPanicOnAndClosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		boom := errors.New("boom")
		require.PanicsWithValue(t, boom, func() {
			_ = s.Do(t.Context(), func(*pooly.Conn) error { panic(boom) })
		})
		synctest.Wait()
		require.Equal(t, 1, d.host("a").closed)

		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.Do(t.Context(), func(*pooly.Conn) error { runtime.Goexit(); return nil })
		})
		wg.Wait()
		synctest.Wait()
		require.Equal(t, 2, d.host("a").closed, "as t.FailNow does")
		release(t, get(t, s))
	})
}

func TestDoRunsAgainOnAnotherHostIfToldTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: stubborn{}}, "a", "b", "c")
		began := time.Now()
		var asked []string
		err := s.Do(t.Context(), func(c *pooly.Conn) error {
			asked = append(asked, c.Address())
			require.Equal(t, 1, s.Stats().InUse, "the former was released")
			if len(asked) < 3 {
				return fmt.Errorf("get: %w", pooly.Retry(errTemporary))
			}
			return nil
		})
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a", "b", "c"}, asked)
		require.Equal(t, "a", asked[0], "the strategy's choice")
		require.Zero(t, time.Since(began))
	})
}

func TestDoRunsAtMostGetAttemptsTimesAndReturnsTheErrorUnmarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{GetAttempts: 4}, "a", "b")
		began := time.Now()
		var asked []string
		run := func(c *pooly.Conn) error {
			asked = append(asked, c.Address())
			return pooly.Retry(errTemporary)
		}
		require.Equal(t, errTemporary, s.Do(t.Context(), run))
		require.Len(t, asked, 4)
		require.ElementsMatch(t, []string{"a", "b"}, asked[:2], "each once before any is asked again")
		require.Equal(t, 2*pooly.DefaultRetryDelay, time.Since(began))

		runs := 0
		require.Equal(t, errTemporary, s.Do(t.Context(), func(*pooly.Conn) error { runs++; return errTemporary }))
		require.Equal(t, 1, runs, "not marked")
		require.NoError(t, pooly.Retry(nil))
		require.ErrorIs(t, pooly.Retry(errFatal), errFatal)
		require.EqualError(t, pooly.Retry(errFatal), errFatal.Error())
	})
}

func TestDoAsksAgainTheOnlyHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		runs := 0
		require.NoError(t, s.Do(t.Context(), func(*pooly.Conn) error {
			if runs++; runs < 3 {
				return pooly.Retry(errFatal)
			}
			return nil
		}))
		require.Equal(t, 3, d.host("a").dials)
	})
}

func TestDoTellsBothErrorsIfItCannotRunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		err := s.Do(t.Context(), func(*pooly.Conn) error {
			d.refuse("a")
			return pooly.Retry(errFatal)
		})
		require.ErrorIs(t, err, errFatal)
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorContains(t, err, "service test")
		require.EqualValues(t, 1, s.Stats().GetFailures)
	})
}

// The host that failed has the free connection, since it failed; a host that does work is the full
// one. A run waits for that as long as FallbackDelay.
func TestDoWaitsForAFullHostRatherThanAskOneThatFailed(t *testing.T) {
	const fallback = 2 * pooly.DefaultFallbackDelay
	for name, tt := range map[string]struct {
		frees func(s *pooly.Service, b *pooly.Conn)
		asked []string
		took  time.Duration
	}{
		"released": {func(_ *pooly.Service, b *pooly.Conn) { _ = b.Release(nil, pooly.HostUp) },
			[]string{"a", "b"}, fallback / 2},
		"removed": {func(s *pooly.Service, _ *pooly.Conn) { s.Remove("b") },
			[]string{"a", "a"}, fallback},
		"neither": {func(*pooly.Service, *pooly.Conn) {}, []string{"a", "a"}, fallback},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{
					PoolConfig:    pooly.PoolConfig{MaxConns: 1},
					GetAttempts:   2,
					FallbackDelay: fallback,
				}, "a", "b")
				a, b := get(t, s), get(t, s)
				if a.Address() != "a" {
					a, b = b, a
				}
				release(t, a)
				began := time.Now()
				time.AfterFunc(fallback/2, func() { tt.frees(s, b) })
				var asked []string
				err := s.Do(t.Context(), func(c *pooly.Conn) error {
					if asked = append(asked, c.Address()); c.Address() == "a" {
						return pooly.Retry(errTemporary)
					}
					return nil
				})
				require.Equal(t, tt.asked[1] == "b", err == nil)
				require.Equal(t, tt.asked, asked)
				require.Equal(t, tt.took, time.Since(began))
				_ = b.Release(nil, pooly.HostUp)
			})
		})
	}
}

// The host that failed is better than one that does not answer at all.
func TestDoAsksAHostThatFailedRatherThanWaitForABlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"a"}}, "a", "hole")
		d.slow("hole", time.Hour)
		began := time.Now()
		runs := 0
		require.NoError(t, s.Do(t.Context(), func(c *pooly.Conn) error {
			require.Equal(t, "a", c.Address())
			if runs++; runs == 1 {
				return pooly.Retry(errTemporary)
			}
			return nil
		}))
		require.Equal(t, pooly.DefaultFallbackDelay, time.Since(began))
	})
}

// The other host is one that swallows connection requests, and is ejected: there is nothing to wait
// for, whether or not a probe of it is under way.
func TestDoBesideAnEjectedBlackHoleDoesNotHang(t *testing.T) {
	for _, after := range []time.Duration{0, 50 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{}, "a", "hole")
			d.slow("hole", time.Hour)
			for range 4 {
				release(t, get(t, s))
			}
			for hostStats(t, s, "hole").Ejections == 0 {
				time.Sleep(time.Millisecond)
			}
			for s.Stats().Dialing == 0 { // until it is probed
				time.Sleep(time.Millisecond)
			}
			time.Sleep(after)
			began := time.Now()
			runs := 0
			require.NoError(t, s.Do(t.Context(), func(c *pooly.Conn) error {
				require.Equal(t, "a", c.Address())
				if runs++; runs == 1 {
					return pooly.Retry(errTemporary)
				}
				return nil
			}))
			require.LessOrEqual(t, time.Since(began), pooly.DefaultFallbackDelay, "%v into a probe", after)
		})
	}
}

// The host that the call waits for is ejected meanwhile.
func TestDoThatWaitsForAHostThatIsEjectedMeanwhileDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 1}, ConsecutiveFailures: 1,
		}, "a", "b")
		a, b := get(t, s), get(t, s)
		if a.Address() != "a" {
			a, b = b, a
		}
		release(t, a)
		began := time.Now()
		time.AfterFunc(100*time.Millisecond, func() {
			d.refuse("b")
			_ = b.Release(errFatal, pooly.HostUp)
		})
		runs := 0
		require.NoError(t, s.Do(t.Context(), func(c *pooly.Conn) error {
			require.Equal(t, "a", c.Address())
			if runs++; runs == 1 {
				return pooly.Retry(errTemporary)
			}
			return nil
		}))
		require.LessOrEqual(t, time.Since(began), pooly.DefaultFallbackDelay)
	})
}

// One in a hundred requests asks for another host, and the only other one is away. No call hangs,
// and none fails for it.
func TestLoadOfDoWhileTheOtherHostIsAway(t *testing.T) {
	for name, goAway := range map[string]func(*fakeDriver){
		"refuses":  func(d *fakeDriver) { d.refuse("b") },
		"swallows": func(d *fakeDriver) { d.slow("b", time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
				var down atomic.Bool
				var failed, long, calls atomic.Int32
				var wg sync.WaitGroup
				stop := time.Now().Add(30 * time.Second)
				for i := range 20 {
					rng := rand.New(rand.NewPCG(uint64(i), 1))
					wg.Go(func() {
						for time.Now().Before(stop) {
							calls.Add(1)
							began := time.Now()
							err := s.Do(context.Background(), func(c *pooly.Conn) error {
								time.Sleep(10 * time.Millisecond)
								switch {
								case c.Address() == "b" && down.Load():
									return pooly.Retry(errFatal)
								case rng.IntN(100) == 0:
									return pooly.Retry(errTemporary)
								}
								return nil
							})
							if err != nil {
								failed.Add(1)
							}
							if time.Since(began) > time.Second {
								long.Add(1)
							}
						}
					})
				}
				time.Sleep(5 * time.Second)
				down.Store(true)
				goAway(d)
				wg.Wait()
				require.Zero(t, long.Load())
				require.LessOrEqual(t, failed.Load(), int32(20), "of %d", calls.Load())
				require.Greater(t, calls.Load(), int32(50_000))
			})
		})
	}
}

// A call that waits for one host must not keep those behind it from the connections that it does
// not want.
func TestDoThatWaitsForOneHostLetsOthersHaveTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a", "b")
		a, b := get(t, s), get(t, s)
		if a.Address() != "a" {
			a, b = b, a
		}
		release(t, a)
		var wg sync.WaitGroup
		retried := make(chan struct{})
		wg.Go(func() {
			_ = s.Do(t.Context(), func(c *pooly.Conn) error {
				if c.Address() == "a" {
					return pooly.Retry(errTemporary)
				}
				close(retried)
				return nil
			})
		})
		synctest.Wait()
		for range 3 {
			c := get(t, s)
			require.Equal(t, "a", c.Address())
			wg.Go(func() { release(t, getApart(t, s)) })
			synctest.Wait()
			release(t, c)
			synctest.Wait()
		}
		release(t, b)
		<-retried
		wg.Wait()
	})
}

func TestDoEndsWithItsContext(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%v", tls), func(t *testing.T) {
			d := pooly.NewNetDriver("tcp")
			d.SetReadTimeout(time.Minute)
			silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
			var address string
			if tls {
				a, config := tlsServer(t, silent, "127.0.0.1")
				d.SetTLSConfig(config)
				address = a
			} else {
				address = listen(t, silent)
			}
			s := newNetService(t, d, address)
			cause := errors.New("the client has gone")
			ctx, cancel := context.WithCancelCause(t.Context())
			err := s.Do(ctx, func(c *pooly.Conn) error {
				cancel(cause)
				_, err := c.NetConn().Read(make([]byte, 1))
				require.Error(t, err)
				return err
			})
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, cause)
			require.ErrorIs(t, err, net.ErrClosed)
			_, trials := mean(t, s, address)
			require.Zero(t, trials, "it is not the host's fault")

			release(t, get(t, s)) // so that the deadline does not pass while it dials
			timeout, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer stop()
			err = s.Do(timeout, func(c *pooly.Conn) error {
				_, err := c.NetConn().Read(make([]byte, 1))
				return err
			})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			eventually(t, func() bool { _, trials := mean(t, s, address); return trials == 2 })
			score, _ := mean(t, s, address)
			require.InDelta(t, 0.5, score, 1e-9, "this is, after a success")
		})
	}
}

func TestDoThatSucceedsAsItsContextEndsIsASuccess(t *testing.T) {
	address := listen(t, echo)
	s := newNetService(t, pooly.NewNetDriver("tcp"), address)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, s.Do(ctx, func(c *pooly.Conn) error {
		cancel()
		for {
			if _, err := c.NetConn().Write([]byte("x")); errors.Is(err, net.ErrClosed) {
				return nil
			}
			runtime.Gosched()
		}
	}))
	require.NoError(t, ping(s, "again"), "the closed connection is handed to no one")
	require.EqualValues(t, 2, s.Stats().Gets)
}

// The connection of a function that has released it belongs to another by then.
func TestDoWhoseContextEndsAfterAReleaseClosesNoOtherLease(t *testing.T) {
	address := listen(t, echo)
	d := pooly.NewNetDriver("tcp")
	s := newNetService(t, d, address)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, s.Do(ctx, func(c *pooly.Conn) error {
		nc := c.NetConn()
		require.NoError(t, c.Release(nil, pooly.HostUp))
		other := get(t, s)
		require.Same(t, nc, other.NetConn())
		cancel()
		for range 100 {
			_, err := fmt.Fprintln(other.NetConn(), "mine")
			require.NoError(t, err)
			line, err := bufio.NewReader(other.NetConn()).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "mine\n", line)
		}
		release(t, other)
		return nil
	}))
}

func TestDoReturnsWhatGetConnReturns(t *testing.T) {
	s, _ := newService(t, pooly.ServiceConfig{})
	err := s.Do(t.Context(), func(*pooly.Conn) error { t.Error("ran"); return nil })
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.NoError(t, s.Close())
	err = s.Do(t.Context(), func(*pooly.Conn) error { t.Error("ran"); return nil })
	require.ErrorIs(t, err, pooly.ErrPoolClosed)
}

func TestDoUnderLoadWithHostsThatComeAndGo(t *testing.T) {
	s, d := newService(t, pooly.ServiceConfig{
		PoolConfig:  pooly.PoolConfig{MaxConns: 2},
		GetAttempts: 4,
	}, "stays", "also")
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := s.Do(t.Context(), func(c *pooly.Conn) error {
					runtime.Gosched()
					if strings.HasPrefix(c.Address(), "bad") {
						return pooly.Retry(errTemporary)
					}
					return nil
				})
				if err != nil && !errors.Is(err, errTemporary) {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 300 {
		address := fmt.Sprintf("bad%d", i%5)
		if i%5 == 3 {
			d.refuse(address)
		}
		s.Add(address)
		runtime.Gosched()
		s.Remove(address)
	}
	cancel()
	wg.Wait()
	stats := s.Stats()
	require.Equal(t, stats.Gets, stats.Puts)
	require.Zero(t, stats.InUse)
	require.Zero(t, stats.Waiting)
}

// Lease, run, release, and try on another host if that is safe.
func ExampleService_Do() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("echo", nil)
	defer s.Close()
	s.Add(address)

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var reply string
	err := s.Do(ctx, func(c *pooly.Conn) error {
		if _, err := fmt.Fprintln(c.NetConn(), "hello"); err != nil {
			return pooly.Retry(err)
		}
		var err error
		reply, err = bufio.NewReader(c.NetConn()).ReadString('\n')
		return err
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Print(reply)
	// Output: hello
}
