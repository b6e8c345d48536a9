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

// A caller with 5 ms left who ejected a host that needs 100 was how an outage stayed.
func TestLeaseThatHadLessTimeThanLeasesTakeTellsNothingOfTheHost(t *testing.T) {
	for name, tt := range map[string]struct {
		wait    time.Duration // in the queue
		timeout time.Duration
		blamed  bool
	}{
		"a short deadline":                       {0, 50 * time.Millisecond, false},
		"a deadline of which the queue ate most": {150 * time.Millisecond, 200 * time.Millisecond, false},
		"a deadline that left enough":            {50 * time.Millisecond, 200 * time.Millisecond, true},
	} {
		for _, parts := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, d := newService(t, pooly.ServiceConfig{
						PoolConfig:          pooly.PoolConfig{MaxConns: 1},
						ConsecutiveFailures: 1,
						BanditStrategy:      inOrder{"a"},
					}, "a")
					for range 3 {
						require.NoError(t, useFor(s, 100*time.Millisecond, time.Second))
					}
					s.Add("other") // so that ejection is possible
					other := get(t, s)
					if other.Address() == "a" {
						other, _ = get(t, s), other.Release(nil, pooly.HostUp)
					}
					require.Equal(t, "other", other.Address())
					time.Sleep(pooly.DefaultMemoizeScoreDuration)
					before := hostStats(t, s, "a")
					held := get(t, s)
					require.Equal(t, "a", held.Address())
					time.AfterFunc(tt.wait, func() { _ = held.Release(nil, pooly.HostUp) })
					if tt.wait == 0 {
						time.Sleep(time.Millisecond)
					}
					if parts {
						ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
						defer cancel()
						c, err := s.GetConnContext(ctx)
						require.NoError(t, err)
						require.Equal(t, "a", c.Address())
						<-ctx.Done()
						require.NoError(t, c.Release(ctx.Err(), pooly.HostUp))
					} else {
						err := useFor(s, time.Minute, tt.timeout)
						if !tt.blamed && tt.wait > 0 { // it waits, and is told that it has too little left
							require.ErrorIs(t, err, pooly.ErrOverloaded)
						}
						require.ErrorIs(t, err, context.DeadlineExceeded)
					}
					synctest.Wait()
					time.Sleep(pooly.DefaultMemoizeScoreDuration - 10*time.Millisecond)
					after := hostStats(t, s, "a")
					if tt.blamed {
						require.EqualValues(t, 1, after.Ejections)
						require.Equal(t, 1, d.host("a").closed)
						return
					}
					require.Zero(t, after.Ejections)
					require.Equal(t, before.Limit, after.Limit)
					require.GreaterOrEqual(t, after.Score, before.Score)
					if parts || tt.wait == 0 {
						require.Equal(t, 1, d.host("a").closed, "its connection may get the answer yet")
					}
					require.NoError(t, other.Release(nil, pooly.HostUp))
				})
			})
		}
	}
}

// After a failover without FIN, each idle connection is a black hole: the first few show that the
// rest is stale.
func TestStaleIdleConnectionsCostFewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a", "b")
		stale := make(map[*fakeConn]bool)
		for _, c := range idle(t, s, 40) {
			stale[c] = true
		}
		time.Sleep(time.Second)
		var failed atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 100 {
					ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
					if s.Do(ctx, func(c *pooly.Conn) error {
						if stale[fakeOf(c)] {
							<-ctx.Done()
							return ctx.Err()
						}
						time.Sleep(5 * time.Millisecond)
						return nil
					}) != nil {
						failed.Add(1)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		require.LessOrEqual(t, failed.Load(), int32(25), "of 40")
	})
}
