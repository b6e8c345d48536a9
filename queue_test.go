package pooly_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// served collects who was served, in order. Each holds its connection for a millisecond.
type served struct {
	wg    sync.WaitGroup
	mu    sync.Mutex
	order []int
}

// call has a caller lease a connection, with a deadline unless timeout is 0.
func (v *served) call(s *pooly.Service, n int, timeout time.Duration) {
	v.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		if timeout > 0 {
			ctx, cancel = context.WithTimeout(context.Background(), timeout)
		}
		defer cancel()
		c, err := s.GetConnContext(ctx)
		if err != nil {
			return
		}
		v.mu.Lock()
		v.order = append(v.order, n)
		v.mu.Unlock()
		time.Sleep(time.Millisecond)
		_ = c.Release(nil, pooly.HostUp)
	})
	synctest.Wait()
}

func TestWaitersAreServedInOrderUntilTheyAreLate(t *testing.T) {
	for _, tt := range []struct {
		name      string
		timeout   time.Duration
		releaseAt time.Duration
		order     []int
	}{
		{"none is late", 400 * time.Millisecond, 90 * time.Millisecond, []int{0, 1, 2, 3, 4}},
		{"a quarter of the time has passed for some", 400 * time.Millisecond, 107 * time.Millisecond, []int{2, 3, 4, 1, 0}},
		{"one is late from now on", 200 * time.Millisecond, 50 * time.Millisecond, []int{1, 2, 3, 4, 0}},
		{"all are late", 400 * time.Millisecond, 300 * time.Millisecond, []int{4, 3, 2, 1, 0}},
		{"the queue has not stood for long", 100 * time.Millisecond, 43 * time.Millisecond, []int{0, 1, 2, 3, 4}},
		{"no deadline", 0, time.Hour, []int{0, 1, 2, 3, 4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
				began := time.Now()
				held := get(t, s)
				var v served
				for n := range 5 {
					v.call(s, n, tt.timeout)
					time.Sleep(5 * time.Millisecond)
				}
				time.Sleep(tt.releaseAt - time.Since(began))
				release(t, held)
				v.wg.Wait()
				require.Equal(t, tt.order, v.order)
			})
		})
	}
}

// In a standing overload the oldest would get their connections one after the other, each too late
// to use it.
func TestCallerWhoComesIntoAnOverloadIsServedBeforeTheLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		held := get(t, s)
		var v served
		v.call(s, 0, 400*time.Millisecond)
		v.call(s, 1, 400*time.Millisecond)
		time.Sleep(200 * time.Millisecond)
		v.call(s, 2, 400*time.Millisecond)
		v.call(s, 3, 0)
		release(t, held)
		v.wg.Wait()
		require.Equal(t, []int{2, 3, 1, 0}, v.order)
	})
}

func TestWaitersWithoutADeadlineAreNeverLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		held := get(t, s)
		var v served
		v.call(s, 0, 0)
		time.Sleep(time.Minute)
		v.call(s, 1, 400*time.Millisecond)
		v.call(s, 2, 400*time.Millisecond)
		v.call(s, 3, 0)
		time.Sleep(200 * time.Millisecond)
		release(t, held)
		v.wg.Wait()
		require.Equal(t, []int{0, 3, 2, 1}, v.order)
	})
}

// A call of Do that has less time left than the shortest lease takes could do nothing with a
// connection.
func TestDoThatIsHopelessTakesNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		within := func(timeout time.Duration, f func(*pooly.Conn) error) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			return s.Do(ctx, f)
		}
		work := func(*pooly.Conn) error { time.Sleep(100 * time.Millisecond); return nil }
		require.NoError(t, within(time.Minute, work))

		held := get(t, s)
		var hopeless, hopeful error
		var after time.Duration
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() { hopeful = within(400*time.Millisecond, work) })
		synctest.Wait()
		wg.Go(func() {
			hopeless = within(300*time.Millisecond, func(*pooly.Conn) error { t.Error("ran"); return nil })
			after = time.Since(began)
		})
		time.Sleep(250 * time.Millisecond)
		release(t, held)
		wg.Wait()
		require.ErrorIs(t, hopeless, pooly.ErrOverloaded)
		require.ErrorIs(t, hopeless, context.DeadlineExceeded)
		require.ErrorContains(t, hopeless, "50ms before its deadline, where the shortest lease takes 100ms")
		require.Equal(t, 250*time.Millisecond, after)
		require.NoError(t, hopeful)
		require.EqualValues(t, 1, s.Stats().Shed)
		require.NoError(t, within(time.Minute, work))
		require.Error(t, within(50*time.Millisecond, func(*pooly.Conn) error { return errFatal }), "nobody waits, so it may try")

		time.Sleep(3 * time.Second) // what leases took is forgotten, so nobody is kept away for long
		held = get(t, s)
		wg.Go(func() {
			hopeful = within(300*time.Millisecond, func(*pooly.Conn) error { return nil })
		})
		time.Sleep(250 * time.Millisecond)
		release(t, held)
		wg.Wait()
		require.NoError(t, hopeful)
	})
}

// What one host takes says nothing of the others. The slow one turned away a caller that the fast
// one could serve.
func TestSlowHostTurnsNobodyAwayWhomAFastOneCanServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: inOrder{"slow", "fast"},
			PoolConfig:     pooly.PoolConfig{MaxConns: 1},
		}, "slow", "fast")
		do := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			return s.Do(ctx, func(c *pooly.Conn) error {
				time.Sleep(map[string]time.Duration{"slow": 100 * time.Millisecond, "fast": 10 * time.Millisecond}[c.Address()])
				return nil
			})
		}
		var wg sync.WaitGroup
		for range 2 { // both hosts, at once
			wg.Go(func() {
				if err := do(time.Minute); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		slow, fast := get(t, s), get(t, s)
		require.Equal(t, "slow", slow.Address())
		var err error
		wg.Go(func() { err = do(200 * time.Millisecond) })
		time.Sleep(150 * time.Millisecond)
		release(t, slow)
		wg.Wait()
		require.NotErrorIs(t, err, pooly.ErrOverloaded)
		require.Zero(t, s.Stats().Shed)
		release(t, fast)
	})
}

// GetConnContext's deadline bounds the wait alone.
func TestGetConnIsNeverHopeless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, s.Do(ctx, func(*pooly.Conn) error { time.Sleep(100 * time.Millisecond); return nil }))
		held := get(t, s)
		var v served
		v.call(s, 1, 300*time.Millisecond)
		time.Sleep(299 * time.Millisecond)
		release(t, held)
		v.wg.Wait()
		require.Equal(t, []int{1}, v.order)
	})
}

func TestMaxWaitingTurnsFurtherCallersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.PoolConfig{MaxConns: 1, MaxWaiting: 3}
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: config}, "a")
		p, _ := newPool(t, config)
		for name, get := range map[string]func(context.Context) (*pooly.Conn, error){
			"service": s.GetConnContext, "pool": p.GetContext,
		} {
			held, err := get(t.Context())
			require.NoError(t, err)
			var wg sync.WaitGroup
			var failures atomic.Int32
			for range 3 {
				wg.Go(func() {
					if c, err := get(context.Background()); err == nil {
						_ = c.Release(nil, pooly.HostUp)
					} else {
						failures.Add(1)
					}
				})
			}
			synctest.Wait()
			began := time.Now()
			_, err = get(t.Context())
			require.ErrorIs(t, err, pooly.ErrOverloaded, name)
			require.NotErrorIs(t, err, pooly.ErrNoHostAvailable)
			require.ErrorContains(t, err, "3 callers waiting")
			require.Zero(t, time.Since(began))
			release(t, held)
			wg.Wait()
			require.Zero(t, failures.Load())
		}
		require.EqualValues(t, 1, s.Stats().Shed)
		require.EqualValues(t, 1, s.Stats().GetFailures)
	})
}

// 20,000 callers come at once to hosts that are full, and stay full, while the list of hosts
// changes.
func TestCrowdAtFullHostsHeedsItsContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a", "b")
		first, second := get(t, s), get(t, s)
		d.refuse("comes and goes")
		began := time.Now()
		var wg sync.WaitGroup
		var late, other atomic.Int32
		for range 20_000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_, err := s.GetConnContext(ctx)
				if !errors.Is(err, context.DeadlineExceeded) {
					other.Add(1)
				}
				if time.Since(began) != time.Second {
					late.Add(1)
				}
			})
		}
		for range 50 {
			time.Sleep(10 * time.Millisecond)
			s.Add("comes and goes")
			s.Remove("comes and goes")
		}
		wg.Wait()
		require.Zero(t, late.Load())
		require.Zero(t, other.Load())
		require.Zero(t, s.Stats().Waiting)
		require.Less(t, d.host("comes and goes").dials, 100)
		release(t, first)
		release(t, second)
	})
}

func TestCancelledWaitersLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		held := get(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _, _ = s.GetConnContext(ctx) })
		}
		synctest.Wait()
		require.Equal(t, 1000, s.Stats().Waiting)
		cancel()
		wg.Wait()
		require.Zero(t, s.Stats().Waiting)
		release(t, held)
		require.Equal(t, 1, d.host("a").dials)
		require.Equal(t, 1, s.Stats().Idle)
		release(t, get(t, s))
	})
}

// Most offers may be of hosts that have become full since. The one that has room must be found
// among them.
func TestCallerFindsTheOneHostWithRoomAmongManyFullOnes(t *testing.T) {
	const hosts = 30
	for free := range hosts {
		synctest.Test(t, func(t *testing.T) {
			pick := 0
			s, _ := newService(t, pooly.ServiceConfig{
				PoolConfig:     pooly.PoolConfig{MaxConns: 1, WaitTimeout: time.Second},
				BanditStrategy: &rogueBandit{pick: func() int { return pick }},
			}, names(hosts)...)
			var held []*pooly.Conn
			for pick = range hosts {
				if pick != free {
					held = append(held, get(t, s))
				}
			}
			pick = (free + 1) % hosts
			held = append(held, get(t, s))
			require.Equal(t, hosts, s.Stats().InUse)
			for _, c := range held {
				release(t, c)
			}
		})
	}
}

// The hosts that have room share what the strategy sends to a full one.
func TestCallersWhoFindAFullHostAreSpreadOverTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: inOrder{"full"},
			PoolConfig:     pooly.PoolConfig{MaxConns: 6},
		}, "full", "a", "b", "c")
		at := make(map[string]int)
		for range 6 + 9 {
			at[get(t, s).Address()]++
		}
		require.Equal(t, map[string]int{"full": 6, "a": 3, "b": 3, "c": 3}, at)
		require.Error(t, s.Close())
	})
}

// A caller who leaves a black hole must not wait for a dial while one of the other hosts has an
// idle connection. There are more hosts than a call asks itself, and once one dials for the caller,
// the others have nothing but that connection.
func TestCallerWhoLeavesABlackHoleFindsTheOneIdleConnection(t *testing.T) {
	const hosts = 30
	for ready := range hosts {
		synctest.Test(t, func(t *testing.T) {
			pick := 0
			s, d := newService(t, pooly.ServiceConfig{
				BanditStrategy: &rogueBandit{pick: func() int { return pick }},
			}, append(names(hosts), "hole")...)
			var held []*pooly.Conn
			for pick = range hosts {
				held = append(held, get(t, s))
			}
			release(t, held[ready])
			d.slow("hole", time.Hour)
			for _, a := range names(hosts) {
				d.slow(a, 100*time.Millisecond)
			}
			pick = slices.IndexFunc(s.Stats().Hosts, func(h pooly.HostStats) bool { return h.Address == "hole" })
			began := time.Now()
			c := get(t, s)
			require.Equal(t, pooly.DefaultFallbackDelay, time.Since(began))
			require.Equal(t, held[ready].Address(), c.Address())
			held[ready] = c
			for _, c := range held {
				release(t, c)
			}
		})
	}
}
