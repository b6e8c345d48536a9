package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Code that knows net.Error alone must not take an outage for something that passes, nor overload
// for an outage.
func TestGetConnErrorIsANetError(t *testing.T) {
	timedOut := []pooly.Attempt{{Address: "a", Err: context.DeadlineExceeded}}
	for _, tt := range []struct {
		reason             error
		timeout, temporary bool
	}{
		{fmt.Errorf("%w: waited 1s", pooly.ErrOpTimeout), true, true},
		{context.DeadlineExceeded, true, true},
		{pooly.ErrOverloaded, false, true},
		{pooly.ErrNoHostAvailable, false, false},
		{pooly.ErrPoolClosed, false, false},
		{context.Canceled, false, false},
	} {
		var err net.Error
		require.ErrorAs(t, &pooly.GetConnError{Service: "s", Reason: tt.reason, Attempts: timedOut}, &err)
		require.Equal(t, tt.timeout, err.Timeout(), "%v", tt.reason)
		require.Equal(t, tt.temporary, err.(interface{ Temporary() bool }).Temporary(), "%v", tt.reason)
	}
}

// failure leases a connection in vain, for a second.
func failure(t *testing.T, s *pooly.Service) *pooly.GetConnError {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := s.GetConnContext(ctx)
	var failed *pooly.GetConnError
	require.ErrorAs(t, err, &failed)
	return failed
}

func TestErrorTellsAnExhaustedPoolFromABlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, "a")
		held := []*pooly.Conn{get(t, s), get(t, s)}
		time.Sleep(time.Minute)
		var v served
		v.call(s, 1, time.Hour)
		err := failure(t, s)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Empty(t, err.Attempts)
		oldest := err.Usage.OldestLease
		require.InDelta(t, (time.Minute + time.Second).Seconds(), oldest.Seconds(), 0.2)
		err.Usage.OldestLease = 0
		require.Equal(t, pooly.Usage{Hosts: 1, MaxConns: 2, Leased: 2, Waiting: 1}, err.Usage)
		err.Usage.OldestLease = oldest
		require.EqualError(t, err, "pooly: service test: context deadline exceeded "+
			"(2 connections of 1 hosts in use, at most 2 each, the oldest for 1m1s; 1 callers waiting)")
		release(t, held[0])
		v.wg.Wait()
		release(t, held[1])

		s, d := newService(t, pooly.ServiceConfig{}, "hole")
		d.slow("hole", time.Hour)
		err = failure(t, s)
		require.Equal(t, pooly.Usage{Hosts: 1, MaxConns: pooly.DefaultMaxConns, Dialing: 1}, err.Usage)
		require.Len(t, err.Attempts, 1)
		require.ErrorContains(t, err, "hole (a dial has had no answer for longer than FallbackDelay")
		require.ErrorContains(t, err, "1 dials under way")
	})
}

func TestErrorTellsAPoolWithoutHostsFromHostsThatRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{})
		err := failure(t, s)
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.EqualError(t, err, "pooly: service test: no host available: no host is registered")
		require.Zero(t, err.Usage)

		d.refuse("a", "b")
		s.SetHosts("a", "b")
		err = failure(t, s)
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Len(t, err.Attempts, 2)
		require.NotContains(t, err.Error(), "registered")
		require.Equal(t, 2, err.Usage.Ejected)

		s.SetHosts()
		require.ErrorContains(t, failure(t, s), "no host is registered")
		require.NoError(t, s.Close())
		require.ErrorIs(t, failure(t, s), pooly.ErrPoolClosed)
		require.False(t, errors.Is(failure(t, s), pooly.ErrNoHostAvailable))
		ended, end := context.WithCancel(t.Context())
		end()
		_, ofClosed := s.GetConnContext(ended)
		require.ErrorIs(t, ofClosed, pooly.ErrPoolClosed)
	})
}

func TestErrorOfAPoolUsedAloneTellsAnExhaustedOneFromABlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{MaxConns: 1, WaitTimeout: time.Second})
		held, err := p.Get()
		require.NoError(t, err)
		var failed *pooly.GetConnError
		_, err = p.Get()
		require.ErrorAs(t, err, &failed)
		require.Equal(t, pooly.Usage{Hosts: 1, MaxConns: 1, Leased: 1}, failed.Usage)
		require.NoError(t, held.Release(errFatal, pooly.HostUp))
		d.slow("a", time.Hour)
		_, err = p.Get()
		require.ErrorAs(t, err, &failed)
		require.Equal(t, pooly.Usage{Hosts: 1, MaxConns: 1, Dialing: 1}, failed.Usage)
	})
}

// Below MaxConns, the limit is what keeps callers waiting: "at most 10 each" explained nothing.
func TestErrorTellsTheLimitThatKeepsCallersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.PoolConfig{MaxConns: 10, WaitTimeout: 100 * time.Millisecond}
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: config}, "a")
		p, _ := newPool(t, config)
		for name, get := range map[string]func() (*pooly.Conn, error){"service": s.GetConn, "pool": p.Get} {
			var held []*pooly.Conn
			for range 5 {
				c, err := get()
				require.NoError(t, err)
				held = append(held, c)
			}
			for _, c := range held {
				require.NoError(t, c.Release(context.DeadlineExceeded, pooly.HostUp))
			}
			var err error
			for err == nil {
				_, err = get()
			}
			var failed *pooly.GetConnError
			require.ErrorAs(t, err, &failed, name)
			require.ErrorIs(t, err, pooly.ErrOpTimeout)
			require.Equal(t, failed.Usage.Leased, failed.Usage.Limit, name)
			require.Less(t, failed.Usage.Limit, 5)
			require.Positive(t, failed.Usage.Limit)
			require.ErrorContains(t, err, fmt.Sprintf("at most 10 each and after timeouts %d;", failed.Usage.Limit))
		}
		require.Error(t, s.Close())
		require.Error(t, p.Close())
	})
}
