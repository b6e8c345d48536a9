package pooly_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// request does a request that takes the given time, under a deadline.
func useFor(s *pooly.Service, took, deadline time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	return s.Do(ctx, func(*pooly.Conn) error {
		select {
		case <-time.After(took):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// load does requests from several callers for some time.
func load(s *pooly.Service, callers int, took, deadline, lasting time.Duration) (failed int32) {
	var wg sync.WaitGroup
	var failures atomic.Int32
	end := time.Now().Add(lasting)
	for range callers {
		wg.Go(func() {
			for time.Now().Before(end) {
				if useFor(s, took, deadline) != nil {
					failures.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return failures.Load()
}

func TestLimitFallsWithTimeoutsAndGrowsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 20
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: most}}, "a")
		require.Zero(t, load(s, most, 20*time.Millisecond, time.Second, time.Second))
		require.Equal(t, most, hostStats(t, s, "a").Limit)

		load(s, most, time.Minute, 100*time.Millisecond, time.Second) // nothing ends in time
		limit := hostStats(t, s, "a").Limit
		require.Less(t, limit, most/2)
		require.GreaterOrEqual(t, limit, 1)

		held := make(chan *pooly.Conn, 2*most)
		for range 2 * most {
			go func() {
				if c, err := s.GetConn(); err == nil {
					held <- c
				}
			}()
		}
		synctest.Wait()
		require.Equal(t, limit, s.Stats().InUse, "it bounds the leases")
		require.Equal(t, 2*most-limit, s.Stats().Waiting)
		for range 2 * most {
			release(t, <-held)
		}

		load(s, 2*most, 20*time.Millisecond, time.Second, 5*time.Second)
		require.Equal(t, most, hostStats(t, s, "a").Limit, "it grows back while it is in use")
		require.Equal(t, most, d.host("a").peak, "MaxConns is hard")
		require.Zero(t, hostStats(t, s, "a").Ejections, "the only host")
	})
}

// What is not in use tells nothing of what the host could do.
func TestLimitGrowsOnlyWhileItIsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		require.NoError(t, useFor(s, 20*time.Millisecond, time.Second))
		var held []*pooly.Conn
		for range 9 {
			held = append(held, get(t, s))
		}
		require.Error(t, useFor(s, time.Minute, 100*time.Millisecond))
		for _, c := range held {
			release(t, c)
		}
		require.Equal(t, 9, hostStats(t, s, "a").Limit, "a tenth less than what was in use")
		require.Zero(t, load(s, 8, 20*time.Millisecond, time.Second, 5*time.Second))
		require.Equal(t, 9, hostStats(t, s, "a").Limit)
		require.Zero(t, load(s, 9, 20*time.Millisecond, time.Second, 5*time.Second))
		require.Greater(t, hostStats(t, s, "a").Limit, 9)
	})
}

// Leases that go on for long once held all that a limit allowed, and callers waited until one
// ended.
func TestOneTimeoutBesideLongLeasesDoesNotKeepCallersWaiting(t *testing.T) {
	for _, long := range []int{1, 8} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{}, "a")
			var held []*pooly.Conn
			for range long {
				held = append(held, get(t, s))
			}
			require.Error(t, useFor(s, time.Minute, 100*time.Millisecond))
			require.NoError(t, useFor(s, time.Millisecond, 2*time.Second))
			time.Sleep(10 * time.Second)
			require.Equal(t, pooly.DefaultMaxConns, hostStats(t, s, "a").Limit)
			for _, c := range held {
				release(t, c)
			}
		})
	}
}

// Failures that are no time-outs are not cured by fewer leases.
func TestLimitIsNotCutByOtherFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		for range 100 {
			c := get(t, s)
			time.Sleep(10 * time.Millisecond)
			require.NoError(t, c.Release(errFatal, pooly.HostUp))
		}
		require.Equal(t, pooly.DefaultMaxConns, hostStats(t, s, "a").Limit)
	})
}

// Connections of DialContext do not count in the limit. Those that have ended must not count
// either.
func TestLimitHoldsAfterManyConnectionsOfDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 20
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: most}}, "a")
		for range most {
			require.NoError(t, dial(t, s).Close())
		}
		require.Zero(t, load(s, most, 20*time.Millisecond, time.Second, time.Second))
		load(s, most, time.Minute, 100*time.Millisecond, time.Second) // nothing ends in time
		limit := hostStats(t, s, "a").Limit
		require.Less(t, limit, most/2)
		held := make(chan *pooly.Conn, most)
		for range most {
			go func() {
				if c, err := s.GetConn(); err == nil {
					held <- c
				}
			}()
		}
		synctest.Wait()
		require.Equal(t, limit, s.Stats().InUse)
		for range most {
			release(t, <-held)
		}
	})
}

// A large limit that grew by one per lease would take as long to come back as it is large.
func TestLargeLimitIsBackSoonAfterTheLastTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 400
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: most}}, "a")
		require.Zero(t, load(s, most, 20*time.Millisecond, time.Second, time.Second))
		load(s, most, time.Minute, 100*time.Millisecond, time.Second) // nothing ends in time
		require.Less(t, hostStats(t, s, "a").Limit, most/10)
		load(s, 2*most, 20*time.Millisecond, time.Second, 3*time.Second)
		require.Equal(t, most, hostStats(t, s, "a").Limit)
	})
}

// A limit that is not in use does not grow. It must not stay for ever.
func TestLimitIsLiftedTenSecondsAfterTheLastTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		for range 2 { // the second limit, too
			require.Error(t, useFor(s, time.Minute, 100*time.Millisecond))
			require.Equal(t, 1, hostStats(t, s, "a").Limit)
			time.Sleep(9 * time.Second)
			held := get(t, s)
			time.Sleep(2 * time.Second)
			require.Equal(t, pooly.DefaultMaxConns, hostStats(t, s, "a").Limit)
			release(t, held)
			require.Equal(t, pooly.DefaultMaxConns, hostStats(t, s, "a").Limit)
		}
	})
}

// Callers with short deadlines blame nobody, but not if nobody else is served either.
func TestHostThatServesNobodyIsBlamedHoweverShortTheDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "good", "hangs")
		for range 10 {
			require.NoError(t, useFor(s, 100*time.Millisecond, time.Second))
		}
		use := func(lasting time.Duration) {
			for end := time.Now().Add(lasting); time.Now().Before(end); {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				_ = s.Do(ctx, func(c *pooly.Conn) error {
					if c.Address() == "hangs" {
						<-ctx.Done()
						return ctx.Err()
					}
					time.Sleep(10 * time.Millisecond)
					return nil
				})
				cancel()
			}
		}
		use(time.Second)
		require.False(t, hostStats(t, s, "hangs").Ejected)
		use(3 * time.Second)
		require.True(t, hostStats(t, s, "hangs").Ejected)
	})
}
