package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGetConnFindsTheHealthyHostAmongDeadOnes(t *testing.T) {
	for _, strategy := range []pooly.Bandit{
		pooly.NewRoundRobin(), pooly.NewEpsilonGreedy(0), pooly.NewEpsilonGreedy(1), pooly.NewSoftMax(0.1),
	} {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{BanditStrategy: strategy})
			for i := range 9 {
				address := fmt.Sprint("dead", i)
				d.refuse(address)
				s.Add(address)
			}
			s.Add("alive")
			c := get(t, s)
			require.Equal(t, "alive", c.Address())
			release(t, c)
			for i := range 9 {
				require.LessOrEqual(t, d.host(fmt.Sprint("dead", i)).dials, 1, "asked twice while another was left")
			}
		})
	}
}

func TestGetConnNeverFailsWhileOneHostOfTwoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1})
		d.refuse("dead")
		s.Add("dead")
		s.Add("alive")
		var failures atomic.Int32
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for range 625 {
					c, err := s.GetConn()
					if err != nil {
						failures.Add(1)
						continue
					}
					time.Sleep(time.Millisecond)
					_ = c.Release(nil, pooly.HostUp)
				}
			})
		}
		wg.Wait()
		require.Zero(t, failures.Load())
		// Three in the background when it was added, then a probe each 0.1, 0.2, 0.4 ... s.
		require.LessOrEqual(t, d.host("dead").dials, 8)
	})
}

func TestGetConnAsksEachHostOncePerRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			GetAttempts: 4,
			PoolConfig:  pooly.PoolConfig{RetryDelay: 20 * time.Millisecond},
		})
		addresses := []string{"a", "b", "c"}
		d.refuse(addresses...)
		for _, a := range addresses {
			s.Add(a)
		}
		began := time.Now()
		_, err := s.GetConn()
		require.Equal(t, 60*time.Millisecond, time.Since(began), "three pauses between four rounds")
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		for _, a := range addresses {
			require.ErrorContains(t, err, a)
			require.Equal(t, 4, d.host(a).dials)
		}
		var failure *pooly.GetConnError
		require.ErrorAs(t, err, &failure)
		require.Equal(t, "test", failure.Service)
		require.Len(t, failure.Attempts, 3)
		require.EqualValues(t, 1, s.Stats().GetFailures)
	})
}

func TestGetConnSharesTheAnswerOfADeadHostAmongWaitingCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "a")
		d.refuse("a")
		d.slow("a", time.Second)
		var wg sync.WaitGroup
		began := time.Now()
		for range 20 {
			wg.Go(func() {
				_, err := s.GetConn()
				assert.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.Equal(t, time.Second, time.Since(began))
			})
		}
		wg.Wait()
		require.Equal(t, 1, d.host("a").dials)
	})
}

func TestGetConnWithoutHostsFailsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{})
		began := time.Now()
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorContains(t, err, "test")
		require.Zero(t, time.Since(began))
		require.Zero(t, s.Stats().Waits, "so MaxWaiting does not turn it away")
	})
}

func TestGetConnLeavesAFullHostForOneWithRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: stubborn{},
			PoolConfig:     pooly.PoolConfig{MaxConns: 2},
		}, "a", "b", "c")
		began := time.Now()
		perHost := make(map[string]int)
		for range 6 {
			perHost[get(t, s).Address()]++
		}
		require.Equal(t, map[string]int{"a": 2, "b": 2, "c": 2}, perHost)
		require.Zero(t, time.Since(began))
		require.NoError(t, closeNow(s))
	})
}

// closeNow closes a service of which leases are out, in a bubble where the deadline passes at once.
func closeNow(s *pooly.Service) error {
	if err := s.Close(); !errors.Is(err, pooly.ErrOpTimeout) {
		return fmt.Errorf("no lease was out: %w", err)
	}
	return nil
}

func TestGetConnEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		c := get(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := s.GetConnContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 50*time.Millisecond, time.Since(began))

		_, err = s.GetConnContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded, "ended before the call")

		cause := errors.New("user went away")
		gone, goAway := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { goAway(cause) })
		_, err = s.GetConnContext(gone)
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, cause)
		require.Zero(t, s.Stats().Waiting)
		release(t, c)
	})
}

func TestGetConnWaitsForARelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		c := get(t, s)
		time.AfterFunc(20*time.Millisecond, func() { _ = c.Release(nil, pooly.HostUp) })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		next, err := s.GetConnContext(ctx)
		require.NoError(t, err)
		require.Equal(t, 20*time.Millisecond, time.Since(began))
		require.NotSame(t, c, next, "a fresh handle")
		require.Equal(t, 1, d.host("a").dials)
		release(t, next)
		stats := s.Stats()
		require.EqualValues(t, 2, stats.Waits, "one for the dial, one for the release")
		require.Equal(t, 20*time.Millisecond, stats.WaitDuration)
	})
}

func TestGetConnWaitsNoLongerThanWaitTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 1, WaitTimeout: 100 * time.Millisecond},
		}, "a")
		c := get(t, s)
		began := time.Now()
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.NoError(t, c.Release(errFatal, 0))

		// A dial that takes longer counts as well, and its connection stays for the next call.
		d.slow("a", 150*time.Millisecond)
		began = time.Now()
		_, err = s.GetConn()
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		release(t, get(t, s))
		require.Equal(t, 150*time.Millisecond, time.Since(began))
		require.Equal(t, 2, d.host("a").dials)
	})
}

// A pause between rounds must not outlast the limit either, and the error still tells how the hosts
// failed.
func TestGetConnWaitTimeoutCoversThePausesBetweenRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{RetryDelay: time.Hour, WaitTimeout: time.Second},
		}, "a")
		d.refuse("a")
		began := time.Now()
		_, err := s.GetConn()
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

func TestGetConnServesWaitersInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, "a", "b")
		var leases []*pooly.Conn
		for range 4 {
			leases = append(leases, get(t, s))
		}
		const callers = 50
		served := make(chan int, callers)
		var wg sync.WaitGroup
		for i := range callers {
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(func() {
				defer cancel()
				c, err := s.GetConnContext(ctx)
				if i%5 == 4 {
					assert.ErrorIs(t, err, context.Canceled)
					return
				}
				served <- i
				if !assert.NoError(t, err) {
					return
				}
				time.Sleep(time.Millisecond)
				_ = c.Release(nil, pooly.HostUp)
			})
			synctest.Wait() // so that this caller stands in the queue before the next
			if i%5 == 4 {
				cancel() // and those who leave do not disturb the order
				synctest.Wait()
			}
		}
		require.Equal(t, callers*4/5, s.Stats().Waiting)
		go func() {
			for _, c := range leases {
				time.Sleep(time.Microsecond)
				_ = c.Release(nil, pooly.HostUp)
			}
		}()
		wg.Wait()
		close(served)
		last := -1
		for i := range served {
			require.Greater(t, i, last)
			last = i
		}
		require.Equal(t, callers-2, last)
	})
}

// The connection that reaches a caller just as it gives up must go to the next one.
func TestGetConnThatIsCancelledSwallowsNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		for range 200 {
			c := get(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				if c, err := s.GetConnContext(ctx); err == nil {
					_ = c.Release(nil, pooly.HostUp)
				}
			})
			wg.Go(func() { release(t, getApart(t, s)) })
			synctest.Wait()
			wg.Go(cancel)
			wg.Go(func() { _ = c.Release(nil, pooly.HostUp) })
			wg.Wait()
		}
		stats := s.Stats()
		require.Equal(t, stats.Gets, stats.Puts)
		require.Equal(t, 1, stats.Idle)
		require.Zero(t, stats.InUse)
	})
}

// A caller that waits because all hosts are full must not be forgotten when a host is added,
// returns or goes.
func TestGetConnThatWaitsNoticesNewHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}
		wait := func(s *pooly.Service) <-chan error {
			done := make(chan error, 1)
			go func() {
				c, err := s.GetConn()
				if err == nil {
					err = c.Release(nil, pooly.HostUp)
				}
				done <- err
			}()
			synctest.Wait()
			require.Equal(t, 1, s.Stats().Waiting)
			return done
		}

		s, _ := newService(t, config, "a")
		held := get(t, s)
		done := wait(s)
		s.Add("b")
		require.NoError(t, <-done)
		release(t, held)

		s, d := newService(t, config, "a")
		held = get(t, s)
		d.refuse("b")
		s.Add("b")
		for !hostStats(t, s, "b").Ejected {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, _ = s.GetConnContext(ctx)
			cancel()
		}
		done = wait(s)
		d.accept("b")
		require.NoError(t, <-done, "served by the probe's connection")
		release(t, held)

		s, d = newService(t, config, "a")
		held = get(t, s)
		done = wait(s)
		s.Remove("a")
		require.ErrorIs(t, <-done, pooly.ErrNoHostAvailable)
		require.False(t, fakeOf(held).isClosed(), "a lease may finish")
		release(t, held)
		synctest.Wait()
		require.True(t, fakeOf(held).isClosed())
		require.Zero(t, d.host("a").open)
	})
}

func TestGetConnReplacesConnectionsThatDiedWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 3}}, "a")
		var leases []*pooly.Conn
		for range 3 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases {
			release(t, c)
			fakeOf(c).die()
		}
		c := get(t, s)
		synctest.Wait()
		require.Equal(t, 3, d.host("a").closed, "each was tried and found dead")
		require.Equal(t, 4, d.host("a").dials)
		require.LessOrEqual(t, d.host("a").peak, 3)
		release(t, c)
		stats := s.Stats()
		require.Equal(t, stats.Gets, stats.Puts)
		require.EqualValues(t, 4, stats.Gets)
	})
}

// A driver whose test never passes must not send GetConn in circles.
func TestGetConnEndsWithADriverThatTestsNothingFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		d.test = func(*fakeConn) error { return errDead }
		for i := range 5 {
			release(t, get(t, s))
			require.Equal(t, 2*(i+1), d.host("a").dials)
		}
	})
}

// A dial that was begun before a server restarted may end after it, with a connection to the server
// that was.
func TestGetConnReplacesAConnectionThatDiedWhileItWasDialled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		d.test = func(c *fakeConn) error {
			if c.id == 0 {
				return errDead
			}
			return nil
		}
		c := get(t, s)
		require.Equal(t, 1, fakeOf(c).id)
		release(t, c)

		p, d := newPool(t, pooly.PoolConfig{})
		d.test = func(c *fakeConn) error {
			if c.id == 0 {
				return errDead
			}
			return nil
		}
		c, err := p.Get()
		require.NoError(t, err)
		require.Equal(t, 1, fakeOf(c).id)
		release(t, c)
	})
}

// While a caller looks at one host, another may get room, return, or come new. The caller must not
// queue as if nothing had happened. TestOnBorrow is where a test can do something at just that
// time.
func TestGetConnNoticesRoomThatCameWhileItLooked(t *testing.T) {
	for name, change := range map[string]func(*pooly.Service, *fakeDriver, *pooly.Conn){
		"release": func(_ *pooly.Service, _ *fakeDriver, held *pooly.Conn) { _ = held.Release(nil, pooly.HostUp) },
		"add":     func(s *pooly.Service, _ *fakeDriver, _ *pooly.Conn) { s.Add("new") },
		"remove": func(s *pooly.Service, _ *fakeDriver, _ *pooly.Conn) {
			s.Remove("b")
			s.Remove("a")
			s.Add("new")
		},
		"return": func(_ *pooly.Service, d *fakeDriver, _ *pooly.Conn) {
			d.accept("down")
			time.Sleep(time.Second) // a probe connects
		},
	} {
		for range 20 { // the order in which hosts are asked is random
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeDriver()
				fake.refuse("down")
				d := &rogueDriver{Driver: fake}
				s := pooly.NewService("test", &pooly.ServiceConfig{
					PoolConfig:           pooly.PoolConfig{Driver: d, MaxConns: 1},
					PrespawnConns:        -1,
					BanditStrategy:       stubborn{},
					MemoizeScoreDuration: time.Hour, // so that no new scores make it look again
				})
				for _, a := range []string{"a", "b", "down"} {
					s.Add(a)
				}
				held, idle := get(t, s), get(t, s)
				if idle.Address() != "b" {
					t.Fatal(idle.Address())
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				_, err := s.GetConnContext(ctx)
				require.Error(t, err)
				require.True(t, hostStats(t, s, "down").Ejected)
				release(t, idle)
				d.close = func(c *pooly.Conn) { // so that the host stays full for a while
					time.Sleep(500 * time.Millisecond)
					fake.Close(c)
				}
				var changed time.Time
				d.testOnBorrow = func(*pooly.Conn) error {
					d.testOnBorrow = nil
					change(s, fake, held)
					changed = time.Now()
					return errDead
				}
				c := get(t, s)
				require.Zero(t, time.Since(changed), name)
				require.NotEqual(t, "b", c.Address(), name)
				release(t, c)
				_ = held.Release(nil, pooly.HostUp)
				require.NoError(t, s.Close())
			})
		}
	}
}

// A host that failed a caller serves it as soon as it is back, though a dial of another is under
// way.
func TestGetConnAsksAHostAgainThatWasRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig:     pooly.PoolConfig{MaxConns: 1},
			BanditStrategy: inOrder{"flaps", "slow", "full"},
			FallbackDelay:  -1,
		}, "full")
		held := get(t, s)
		d.refuse("flaps", "slow")
		d.slow("slow", time.Second)
		s.Add("flaps")
		s.Add("slow")
		time.AfterFunc(50*time.Millisecond, func() { d.accept("flaps") })
		began := time.Now()
		c := get(t, s)
		require.Equal(t, "flaps", c.Address())
		require.LessOrEqual(t, time.Since(began), pooly.DefaultBaseEjectionTime)
		release(t, c)
		release(t, held)
	})
}

// The dial that a caller leaves behind belongs to the one who has waited longest, not to the next
// who comes.
func TestGetConnThatLeavesADialDoesNotLetOthersJumpTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		d.slow("a", time.Second)
		served := make(chan int, 2)
		call := func(n int, patience time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if c, err := s.GetConnContext(ctx); err == nil {
				served <- n
				time.Sleep(time.Second)
				release(t, c)
			}
		}
		go call(1, 100*time.Millisecond)
		synctest.Wait()
		go call(2, time.Minute)
		time.Sleep(200 * time.Millisecond)
		go call(3, time.Minute)
		require.Equal(t, 2, <-served)
		require.Equal(t, 3, <-served)
	})
}

// Who was handed a connection that turns out dead has not had its turn.
func TestGetConnThatWasHandedADeadConnectionKeepsItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		c := get(t, s)
		served := make(chan int, 2)
		for n := range 2 {
			go func() {
				c := getApart(t, s)
				served <- n
				time.Sleep(time.Second)
				release(t, c)
			}()
			synctest.Wait()
		}
		fakeOf(c).die()
		release(t, c)
		require.Equal(t, 0, <-served)
		require.Equal(t, 1, <-served)
	})
}

func TestGetConnThatWaitsInVainCountsAsAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 1, WaitTimeout: time.Second},
		}, "a")
		c := get(t, s)
		before := s.Stats()
		_, err := s.GetConn()
		require.Error(t, err)
		after := s.Stats()
		require.EqualValues(t, 1, after.Waits-before.Waits)
		require.Equal(t, time.Second, after.WaitDuration-before.WaitDuration)
		release(t, c)
	})
}

// The pause before a background dial is tried again must not hold up a caller who could dial at
// once.
func TestGetConnDoesNotWaitForThePauseOfAnotherDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PrespawnConns: 1,
			PoolConfig:    pooly.PoolConfig{RetryDelay: 10 * time.Second},
		})
		d.refuse("a")
		s.Add("a")
		time.Sleep(50 * time.Millisecond)
		d.accept("a")
		began := time.Now()
		release(t, get(t, s))
		require.Zero(t, time.Since(began))
	})
}

// The same for two who were handed dead connections, as after the restart of a server: neither may
// overtake.
func TestGetConnsThatWereHandedDeadConnectionsKeepTheirOrder(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, "a")
			held := []*pooly.Conn{get(t, s), get(t, s)}
			const callers = 6
			served := make(chan int, callers)
			for n := range callers {
				go func() {
					c := getApart(t, s)
					served <- n
					time.Sleep(time.Second)
					release(t, c)
				}()
				synctest.Wait()
			}
			for _, c := range held {
				fakeOf(c).die()
				release(t, c)
			}
			for pair := range callers / 2 { // two at a time, who may be scheduled in either order
				require.Equal(t, 4*pair+1, <-served+<-served)
			}
		})
	}
}

// The connection that reaches a caller just as it gives up is closed if the host was just removed.
// That is not the caller's to wait for.
func TestGetConnThatIsCancelledDoesNotWaitForASlowClose(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that all has happened before the caller looks
	for range 20 {                                  // it looks at one of two things, at random
		synctest.Test(t, func(t *testing.T) {
			fake := newFakeDriver()
			d := &rogueDriver{Driver: fake, close: func(c *pooly.Conn) {
				time.Sleep(500 * time.Millisecond)
				fake.Close(c)
			}}
			s := pooly.NewService("test", &pooly.ServiceConfig{
				PoolConfig:    pooly.PoolConfig{Driver: d, MaxConns: 1},
				PrespawnConns: -1,
			})
			s.Add("a")
			held := get(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			began := time.Now()
			returned := make(chan time.Duration, 1)
			go func() {
				if c, err := s.GetConnContext(ctx); err == nil {
					go func() { _ = c.Release(nil, pooly.HostUp) }()
				}
				returned <- time.Since(began)
			}()
			synctest.Wait()
			cancel()
			release(t, held)
			s.Remove("a")
			require.Zero(t, <-returned)
			require.NoError(t, s.Close())
		})
	}
}

// A host that failed a caller may have an idle connection while the caller waits for a dial of
// another.
func TestGetConnTakesAConnectionThatComesBackToAHostThatFailedIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig:     pooly.PoolConfig{MaxConns: 2},
			GetAttempts:    1,
			BanditStrategy: inOrder{"first", "second"},
		}, "first", "second")
		held := get(t, s)
		d.refuse("first", "second")
		d.slow("second", 200*time.Millisecond)
		time.AfterFunc(100*time.Millisecond, func() { _ = held.Release(nil, pooly.HostUp) })
		began := time.Now()
		c := get(t, s)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.Same(t, fakeOf(held), fakeOf(c))
		release(t, c)
	})
}
