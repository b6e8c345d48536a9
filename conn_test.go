package pooly_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestReleaseTwiceReturnsErrConnReleasedAndTouchesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		c := get(t, s)
		release(t, c)
		before := hostStats(t, s, "a")
		require.ErrorIs(t, c.Release(errFatal, pooly.HostDown), pooly.ErrConnReleased)
		require.ErrorIs(t, c.Release(nil, 7), pooly.ErrConnReleased)
		require.Equal(t, before, hostStats(t, s, "a"))
		require.Zero(t, d.host("a").closed)
	})
}

func TestReleaseTwiceLeavesTheOtherLeaseAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		first := get(t, s)
		release(t, first)
		second := get(t, s)
		require.Same(t, fakeOf(first), fakeOf(second), "one connection")
		require.NotSame(t, first, second, "two leases")

		require.ErrorIs(t, first.Release(errFatal, pooly.HostDown), pooly.ErrConnReleased)
		require.Zero(t, d.host("a").closed)
		require.Equal(t, 1, s.Stats().InUse)
		release(t, second)
	})
}

func TestReleaseConcurrentlyTakesEffectOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		for range 100 {
			c := get(t, s)
			var effective atomic.Int32
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if c.Release(nil, pooly.HostUp) == nil {
						effective.Add(1)
					}
				})
			}
			wg.Wait()
			require.EqualValues(t, 1, effective.Load())
		}
		require.EqualValues(t, 100, s.Stats().Puts)
	})
}

func TestReleaseWithAFatalErrorClosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		c := get(t, s)
		require.NoError(t, c.Release(errFatal, pooly.HostUp))
		next := get(t, s) // waits for the place
		require.True(t, fakeOf(c).isClosed())
		require.NotSame(t, fakeOf(c), fakeOf(next))
		require.NoError(t, next.Release(errTemporary, pooly.HostUp))
		require.False(t, fakeOf(next).isClosed(), "a temporary error is not fatal")
		require.Equal(t, 1, d.host("a").closed)
	})
}

func TestReleaseOfAConnThatCameFromNoPool(t *testing.T) {
	c := pooly.NewConn("anything")
	require.Equal(t, "anything", c.Interface())
	require.Nil(t, c.NetConn())
	require.Empty(t, c.Address())
	require.ErrorIs(t, c.Release(nil, pooly.HostUp), pooly.ErrInvalidArg)
	zero := new(pooly.Conn)
	require.ErrorIs(t, zero.Release(nil, pooly.HostUp), pooly.ErrInvalidArg)
	require.Nil(t, zero.Interface())
	require.Nil(t, zero.NetConn())
	require.Empty(t, zero.Address())
}

// No two leases may ever hold the same connection, whatever happens around them.
func TestLeaseIsExclusive(t *testing.T) {
	s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 3}}, "a", "b")
	var holders sync.Map // *fakeConn → struct{}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 500 {
				c, err := s.GetConn()
				if err != nil {
					t.Error(err)
					return
				}
				if _, shared := holders.LoadOrStore(fakeOf(c), nil); shared {
					t.Error("a connection is leased twice")
				}
				var outcome error
				if (i+j)%10 == 0 {
					outcome = errFatal
				}
				if (i+j)%7 == 0 {
					fakeOf(c).die()
				}
				holders.Delete(fakeOf(c))
				_ = c.Release(outcome, pooly.HostUp)
				_ = c.Release(nil, pooly.HostUp)
			}
		})
	}
	wg.Wait()
}
