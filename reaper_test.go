package pooly_test

import (
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// idle leases n connections at once and gives them back.
func idle(t *testing.T, s *pooly.Service, n int) (conns []*fakeConn) {
	t.Helper()
	var leases []*pooly.Conn
	for range n {
		leases = append(leases, get(t, s))
	}
	for _, c := range leases {
		conns = append(conns, fakeOf(c))
		release(t, c)
	}
	return conns
}

// Those at the bottom of the stack stayed half closed for as long as fewer connections were in use.
func TestIdleConnectionsThatTheServerClosedAreClosedWhileOthersServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		for i, c := range idle(t, s, 20) {
			if i%2 == 0 {
				c.die()
			}
		}
		for range 50 {
			release(t, get(t, s))
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 10, d.host("a").closed)
		require.Equal(t, 10, s.Stats().Idle, "the others stay")
		require.Equal(t, 20, d.host("a").dials)
		require.Equal(t, s.Stats().Gets, s.Stats().Puts)
	})
}

func TestTestOfIdleConnectionsThatEndsItsGoroutineLosesNoPlace(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"trusted": 0, "under TestTimeout": time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{
					PoolConfig: pooly.PoolConfig{MaxConns: 20, TestTimeout: timeout},
				}, "a")
				conns := idle(t, s, 20)
				var ended atomic.Int32
				d.test = func(c *fakeConn) error {
					if c == conns[5] || c == conns[6] {
						ended.Add(1)
						runtime.Goexit()
					}
					return nil
				}
				for range 50 {
					release(t, get(t, s))
					time.Sleep(100 * time.Millisecond)
				}
				require.EqualValues(t, 2, ended.Load())
				require.Equal(t, 18, s.Stats().Idle)
				require.Equal(t, 18, s.Stats().Open)
				idle(t, s, 20)
			})
		})
	}
}

// The test of idle connections takes them out of the pool. A Close in the midst of it must find
// them all.
func TestCloseDuringTheTestOfIdleConnectionsLeavesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		idle(t, s, 20)
		var testing atomic.Bool
		d.test = func(*fakeConn) error {
			if testing.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		for range 9 {
			release(t, get(t, s))
			time.Sleep(100 * time.Millisecond)
		}
		testing.Store(true)
		time.Sleep(350 * time.Millisecond)
		require.Equal(t, s.Stats().Open-1, s.Stats().Idle, "one is being tested")
		require.NoError(t, s.Close())
		require.Zero(t, d.host("a").open)
	})
}

func TestIdleServiceWithoutKeepAliveDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig:      pooly.PoolConfig{KeepAlive: -1},
			ScoreCalculator: computerFunc(func(score float64) float64 { calls.Add(1); return score }),
		}, "a", "b")
		d.test = func(*fakeConn) error { calls.Add(1); return nil }
		idle(t, s, 20)
		for range 100 {
			release(t, get(t, s))
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		before := calls.Load()
		began := time.Now()
		time.Sleep(24 * time.Hour)
		require.Equal(t, before, calls.Load())
		require.Equal(t, 24*time.Hour, time.Since(began))
		require.Equal(t, 20, s.Stats().Idle)
	})
}

// A connection that was found fit went back into its pool, and the caller who waited for it was not
// told.
func TestCallerWhoWaitsWhileAnIdleConnectionIsTestedGetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, "a")
		idle(t, s, 2)
		var slow atomic.Bool
		d.test = func(*fakeConn) error {
			if slow.Load() {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		for s.Stats().Idle == 2 {
			slow.Store(false)
			release(t, get(t, s))
			slow.Store(true)
			time.Sleep(10 * time.Millisecond)
		}
		slow.Store(false)
		began := time.Now()
		held, next := get(t, s), get(t, s)
		require.LessOrEqual(t, time.Since(began), 100*time.Millisecond)
		release(t, held)
		release(t, next)
	})
}

// Somebody who looks for a leak by OldestLease must not be shown an idle connection that was
// tested.
func TestIdleConnectionThatWasTestedIsNoOldLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		idle(t, s, 3)
		for range 30 {
			release(t, get(t, s))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		c := get(t, s)
		time.Sleep(time.Second)
		require.InDelta(t, time.Second, s.Stats().OldestLease, float64(100*time.Millisecond))
		release(t, c)
	})
}

// Each sweep looks at all pools, so connections that expire one after the other must not cause one
// each.
func TestConnectionsThatExpireShortlyAfterEachOtherAreClosedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{
			ConnIdleTimeout: time.Minute, KeepAlive: -1,
		}}, "a")
		var leases []*pooly.Conn
		for range 20 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases {
			time.Sleep(4 * time.Millisecond)
			release(t, c)
		}
		closed := 0
		var sweeps []time.Time
		for range 2 * time.Minute / time.Millisecond {
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if n := d.host("a").closed; n > closed {
				closed = n
				sweeps = append(sweeps, time.Now())
			}
		}
		require.Equal(t, 20, closed)
		require.Len(t, sweeps, 2, "the first at once, the others after the distance that sweeps keep")
		require.LessOrEqual(t, sweeps[1].Sub(sweeps[0]), 100*time.Millisecond)
	})
}

// Connections that expire wake the reaper. It must not test the others each time while nobody uses
// the service.
func TestIdleConnectionsAreNotTestedBecauseOthersExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tests atomic.Int32
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{
			MaxConnLifetime: time.Hour, KeepAlive: -1,
		}}, "a")
		d.test = func(*fakeConn) error { tests.Add(1); return nil }
		idle(t, s, 20)
		time.Sleep(time.Minute)
		before := tests.Load()
		time.Sleep(2 * time.Hour)
		require.Zero(t, s.Stats().Idle)
		require.Equal(t, before, tests.Load())
	})
}
