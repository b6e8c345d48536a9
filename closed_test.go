package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Each connection that was dialled is open, or is counted as closed once, for the reason for which it was closed.
func TestStatsCountClosedConnectionsByReason(t *testing.T) {
	type closed = pooly.ClosedStats
	for name, tt := range map[string]struct {
		config pooly.ServiceConfig
		do     func(*testing.T, *pooly.Service, *fakeDriver, *pooly.Conn)
		want   closed
	}{
		"idle": {
			pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{ConnIdleTimeout: time.Second, MaxConnLifetime: time.Minute}},
			func(t *testing.T, _ *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, c)
				time.Sleep(2 * time.Second)
			}, closed{Idle: 1},
		},
		"too old while idle": {
			pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{ConnIdleTimeout: time.Hour, MaxConnLifetime: time.Minute}},
			func(t *testing.T, _ *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, c)
				time.Sleep(2 * time.Minute)
			}, closed{Lifetime: 1},
		},
		"too old while leased": {
			pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConnLifetime: time.Minute}},
			func(t *testing.T, _ *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				time.Sleep(2 * time.Minute)
				release(t, c)
			}, closed{Lifetime: 1},
		},
		"fatal error": {
			pooly.ServiceConfig{},
			func(t *testing.T, _ *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				require.NoError(t, c.Release(errFatal, pooly.HostDown))
			}, closed{Failed: 1},
		},
		"Do whose function panics": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, c)
				require.Panics(t, func() { _ = s.Do(t.Context(), func(*pooly.Conn) error { panic("no") }) })
			}, closed{Failed: 1},
		},
		"unfit when it is leased": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, c)
				fakeOf(c).die()
				release(t, get(t, s))
			}, closed{Unfit: 1},
		},
		"ejected": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, d *fakeDriver, c *pooly.Conn) {
				release(t, get(t, s)) // is idle
				s.Report("a", errFatal)
				release(t, c)
			}, closed{Ejected: 1}, // c restores the host
		},
		"evicted": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				require.NoError(t, s.Evict("a"))
				release(t, c)
			}, closed{Evicted: 1},
		},
		"CloseIdle": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, c)
				s.CloseIdle()
			}, closed{Evicted: 1},
		},
		"surplus": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, get(t, s))
				require.NoError(t, s.Resize(1))
				release(t, c)
			}, closed{Surplus: 1},
		},
		"CloseOnRelease": {
			pooly.ServiceConfig{},
			func(t *testing.T, _ *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				require.NoError(t, c.CloseOnRelease())
				release(t, c)
			}, closed{Asked: 1},
		},
		"removed": {
			pooly.ServiceConfig{},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, get(t, s))
				s.Remove("a")
				release(t, c)
			}, closed{Removed: 2},
		},
		"Close, also at its deadline": {
			pooly.ServiceConfig{CloseDeadline: time.Second},
			func(t *testing.T, s *pooly.Service, _ *fakeDriver, c *pooly.Conn) {
				release(t, get(t, s))
				require.ErrorIs(t, s.Close(), pooly.ErrOpTimeout)
				require.ErrorIs(t, c.Release(nil, pooly.HostUp), pooly.ErrPoolClosed)
			}, closed{Removed: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.config.Logger = slog.New(slog.DiscardHandler)
				s, d := newService(t, tt.config, "a")
				tt.do(t, s, d, get(t, s))
				synctest.Wait()
				stats := s.Stats()
				require.Equal(t, tt.want, stats.Closed)
				requireAllCounted(t, stats.PoolStats)
				require.EqualValues(t, d.host("a").closed, stats.Closed.Total())
				_ = s.Close()
				stats = s.Stats()
				require.Zero(t, stats.Open)
				requireAllCounted(t, stats.PoolStats)
			})
		})
	}
}

func TestStatsCountConnectionsThatClientsClose(t *testing.T) {
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, echo))
	eventually(t, func() bool { return s.Stats().Idle == 1 })
	require.NoError(t, dial(t, s).Close())
	eventually(t, func() bool { return s.Stats().Open == 0 })
	require.Equal(t, pooly.ClosedStats{Asked: 1, Surplus: 1}, s.Stats().Closed, "what was prespawned is of no use")
	requireAllCounted(t, s.Stats().PoolStats)
}

func TestClosedStatsNameEachReason(t *testing.T) {
	s := pooly.ClosedStats{Idle: 1, Lifetime: 2, Failed: 3, Unfit: 4, Ejected: 5, Evicted: 6, Surplus: 7, Asked: 8, Removed: 9}
	var names []string
	for name, n := range s.All() {
		names = append(names, name)
		require.EqualValues(t, len(names), n, name)
	}
	require.Equal(t, []string{"idle", "lifetime", "failed", "unfit", "ejected", "evicted", "surplus", "asked", "removed"}, names)
	require.EqualValues(t, 45, s.Total())
	for range s.All() {
		break
	}
}

// The place of a connection is its own until the driver has closed it, although Release does not wait.
func TestAPlaceIsFreeOnceTheDriverHasClosedTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeDriver()
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{MaxConns: 1, Driver: slowToClose(fake, 500*time.Millisecond)},
			PrespawnConns: -1,
		})
		s.Add("a")
		c := get(t, s)
		began := time.Now()
		require.NoError(t, c.Release(errFatal, pooly.HostDown))
		require.Zero(t, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		_, err := s.GetConnContext(ctx)
		require.True(t, errors.Is(err, context.DeadlineExceeded))
		next := get(t, s)
		require.Equal(t, 500*time.Millisecond, time.Since(began))
		require.NoError(t, next.Release(errFatal, pooly.HostDown))
		require.NoError(t, s.Close(), "it waits for the driver")
		require.Equal(t, time.Second, time.Since(began))
		require.Zero(t, fake.host("a").open)
	})
}
