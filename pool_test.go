package pooly_test

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newPool(t *testing.T, config pooly.PoolConfig) (*pooly.Pool, *fakeDriver) {
	t.Helper()
	d := newFakeDriver()
	config.Driver = d
	p := pooly.NewPool("a", &config)
	t.Cleanup(func() { _ = p.Close() })
	return p, d
}

func TestPoolNeverExceedsMaxConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PrespawnConns: 10,
			PoolConfig:    pooly.PoolConfig{MaxConns: 4},
		})
		d.slow("a", 10*time.Millisecond)
		s.Add("a")
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				for j := range 20 {
					c := getApart(t, s)
					time.Sleep(time.Millisecond)
					var outcome error
					if (i+j)%4 == 0 {
						outcome = errFatal
					}
					assert.NoError(t, c.Release(outcome, pooly.HostUp))
				}
			})
		}
		wg.Wait()
		require.Equal(t, 4, d.host("a").peak)
	})
}

func TestPoolIsAStackSoThatTheSurplusAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newPool(t, pooly.PoolConfig{})
		var leases []*pooly.Conn
		for range 3 {
			c, err := p.Get()
			require.NoError(t, err)
			leases = append(leases, c)
		}
		for _, c := range leases {
			release(t, c)
		}
		for range 5 {
			c, err := p.Get()
			require.NoError(t, err)
			require.Same(t, fakeOf(leases[2]), fakeOf(c))
			release(t, c)
		}
	})
}

func TestPoolDialsOnlyForMoreWaitersThanDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1})
		d.slow("a", time.Second)
		s.Add("a")
		time.Sleep(time.Millisecond)
		c := get(t, s)
		require.Equal(t, 1, d.host("a").dials, "the prespawned connection is the caller's")

		// A released connection comes first; the dial that was begun for the caller stays in the
		// pool.
		time.AfterFunc(100*time.Millisecond, func() { release(t, c) })
		began := time.Now()
		next := get(t, s)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		require.Equal(t, 2, d.host("a").dials)
		third := get(t, s)
		require.Equal(t, time.Second, time.Since(began), "the next caller waits for that dial")
		require.Equal(t, 2, d.host("a").dials)
		release(t, next)
		release(t, third)
	})
}

func TestPoolPrespawnsOneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 5})
		d.slow("a", time.Second)
		s.Add("a")
		time.Sleep(2500 * time.Millisecond)
		require.Equal(t, 3, d.host("a").dials)
		time.Sleep(time.Minute)
		require.Equal(t, 5, d.host("a").dials)
		require.Equal(t, map[string]int32{"a": 5}, s.Status())

		_, d = newService(t, pooly.ServiceConfig{PrespawnConns: -1}, "a")
		time.Sleep(time.Minute)
		require.Zero(t, d.host("a").dials)
	})
}

func TestPoolDialsAFailingAddressConnRetriesTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{ConnRetries: 5, RetryDelay: 20 * time.Millisecond})
		d.refuse("a")
		began := time.Now()
		_, err := p.Get()
		require.Equal(t, 80*time.Millisecond, time.Since(began))
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Equal(t, 5, d.host("a").dials)

		time.AfterFunc(30*time.Millisecond, func() { d.accept("a") })
		c, err := p.Get()
		require.NoError(t, err, "the third dial connects")
		release(t, c)
		stats := p.Stats()
		require.EqualValues(t, 8, stats.Dials)
		require.EqualValues(t, 7, stats.Failures)
	})
}

func TestPoolAloneSharesAFailedDialAmongItsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{ConnRetries: 1})
		d.refuse("a")
		d.slow("a", time.Second)
		var wg sync.WaitGroup
		began := time.Now()
		for range 100 {
			wg.Go(func() {
				_, err := p.Get()
				assert.ErrorIs(t, err, syscall.ECONNREFUSED)
				assert.Equal(t, time.Second, time.Since(began))
			})
		}
		wg.Wait()
		require.Equal(t, 1, d.host("a").dials)
	})
}

func TestPoolAloneKeepsWaitersWhileALeaseMayComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{ConnRetries: 1, MaxConns: 2})
		held, err := p.Get()
		require.NoError(t, err)
		d.refuse("a")
		_, err = p.Get()
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "who had it dialled is told")
		d.slow("a", time.Second)
		var wg sync.WaitGroup
		for range 2 { // one waits for a dial that will fail, one for whatever comes
			wg.Go(func() {
				if c, err := p.Get(); err == nil {
					release(t, c)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		release(t, held)
		wg.Wait()
		require.EqualValues(t, p.Stats().Gets, p.Stats().Puts)
		require.EqualValues(t, 3, p.Stats().Gets)
	})
}

func TestPoolGetEndsWithItsContextAndWaitTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newPool(t, pooly.PoolConfig{MaxConns: 1, WaitTimeout: time.Second})
		require.Equal(t, "a", p.Address())
		c, err := p.Get()
		require.NoError(t, err)
		_, err = p.Get()
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.EqualError(t, err, "pooly: pool a: operation timed out: waited 1s "+
			"(1 connections of 1 hosts in use, at most 1 each; 0 callers waiting)")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err = p.GetContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		release(t, c)
	})
}

func TestPoolCloseWaitsForLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{MaxConns: 1})
		c, err := p.Get()
		require.NoError(t, err)
		waiting := make(chan error)
		go func() {
			_, err := p.Get()
			waiting <- err
		}()
		synctest.Wait()
		time.AfterFunc(time.Second, func() { release(t, c) })
		began := time.Now()
		closed := make(chan error)
		go func() { closed <- p.Close() }()
		require.ErrorIs(t, <-waiting, pooly.ErrPoolClosed)
		require.NoError(t, <-closed)
		require.Equal(t, time.Second, time.Since(began))
		require.Zero(t, d.host("a").open)
		require.ErrorIs(t, p.Close(), pooly.ErrPoolClosed)
		_, err = p.Get()
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
	})
}

func TestIdleConnectionsAreReaped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{ConnIdleTimeout: time.Minute},
		}, "a")
		var leases []*pooly.Conn
		for range 5 {
			leases = append(leases, get(t, s))
		}
		time.Sleep(time.Hour)
		require.Equal(t, 5, d.host("a").open, "leased connections are not idle")
		for _, c := range leases {
			release(t, c)
		}
		for range 59 { // one is in use all the time, and it is the same one
			time.Sleep(time.Second)
			release(t, get(t, s))
		}
		require.Equal(t, 5, d.host("a").open)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 1, d.host("a").open, "the surplus is closed when its time is up")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, d.host("a").open)
		require.Equal(t, 5, d.host("a").dials)
	})
}

// Whether or not the reaper has come by, what is too old is not handed out.
func TestIdleConnectionIsNotHandedOutAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = time.Minute
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{ConnIdleTimeout: timeout}}, "a", "b")
		for i := range 40 {
			c := get(t, s)
			time.Sleep(time.Duration(i) * time.Millisecond)
			release(t, c)
			idleSince := time.Now()
			time.Sleep(timeout - time.Duration(i%2)*time.Nanosecond)
			next := get(t, s)
			for next.Address() != c.Address() {
				release(t, next)
				next = get(t, s)
			}
			if time.Since(idleSince) >= timeout {
				require.NotSame(t, fakeOf(c), fakeOf(next))
			}
			require.NoError(t, next.Release(errFatal, 1))
		}
		require.Positive(t, d.host("a").closed)
	})
}

func TestConnectionsEndAfterMaxConnLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConnLifetime: time.Minute},
		}, "a")
		first := get(t, s)
		release(t, first)
		for range 53 { // the last tenth is jitter
			time.Sleep(time.Second)
			c := get(t, s)
			require.Same(t, fakeOf(first), fakeOf(c), "however much it is used")
			release(t, c)
		}
		c := get(t, s)
		time.Sleep(7 * time.Second)
		require.False(t, fakeOf(c).isClosed(), "never under its lease")
		release(t, c)
		synctest.Wait()
		require.True(t, fakeOf(c).isClosed())

		release(t, get(t, s))
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, d.host("a").open, "idle ones too")
	})
}

func TestNewPoolAndNewServicePanicOnImpossibleValues(t *testing.T) {
	for field, config := range map[string]pooly.ServiceConfig{
		"MaxConns":             {PoolConfig: pooly.PoolConfig{MaxConns: -1}},
		"ConnRetries":          {PoolConfig: pooly.PoolConfig{ConnRetries: -1}},
		"ConnIdleTimeout":      {PoolConfig: pooly.PoolConfig{ConnIdleTimeout: -1}},
		"MaxConnLifetime":      {PoolConfig: pooly.PoolConfig{MaxConnLifetime: -1}},
		"WaitTimeout":          {PoolConfig: pooly.PoolConfig{WaitTimeout: -time.Second}},
		"RetryDelay":           {PoolConfig: pooly.PoolConfig{RetryDelay: -1}},
		"GetAttempts":          {GetAttempts: -3},
		"CloseDeadline":        {CloseDeadline: -1},
		"DecayDuration":        {DecayDuration: -1},
		"MemoizeScoreDuration": {MemoizeScoreDuration: -1},
		"StatsdSampleRate":     {StatsdSampleRate: 1.5},
		"StatsdAddr":           {StatsdAddr: "garbage"},
	} {
		err := config.Validate()
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.ErrorContains(t, err, field)
		require.PanicsWithError(t, err.Error(), func() { pooly.NewService("s", &config) })
		if err := config.PoolConfig.Validate(); err != nil {
			require.PanicsWithError(t, err.Error(), func() { pooly.NewPool("a", &config.PoolConfig) })
		}
	}
	require.NoError(t, new(pooly.ServiceConfig).Validate())
}

func TestNewServiceCopiesItsConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFakeDriver()
		config := &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d, MaxConns: 1}}
		s := pooly.NewService("copied", config)
		require.Equal(t, 1, config.MaxConns)
		require.Zero(t, config.GetAttempts, "the defaults are filled in elsewhere")
		config.MaxConns, config.Driver = 5, nil
		s.Add("a")
		c := get(t, s)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.GetConnContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		release(t, c)
		require.NoError(t, s.Close())
	})
}

func TestGetConnErrorNamesAFewHostsOfVeryMany(t *testing.T) {
	err := &pooly.GetConnError{Service: "many", Reason: pooly.ErrNoHostAvailable}
	for i := range 10_000 {
		err.Attempts = append(err.Attempts, pooly.Attempt{Address: fmt.Sprint("host", i), Err: syscall.EPIPE})
	}
	require.Less(t, len(err.Error()), 2000)
	require.Contains(t, err.Error(), "and 9968 more")
	require.ErrorIs(t, err, syscall.EPIPE)

	err = &pooly.GetConnError{Service: "s", Reason: pooly.ErrNoHostAvailable, Attempts: []pooly.Attempt{
		{Address: "", Err: errDead}, {Address: "a b", Err: errFatal}, {Address: "10.0.0.1:80", Err: errDead},
	}}
	require.EqualError(t, err, `pooly: service s: no host available: "" (connection died while idle); `+
		`"a b" (fatal for the connection); 10.0.0.1:80 (connection died while idle)`)
}

func TestPoolWaiterDoesNotFailWhileADialIsInFlightForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{ConnRetries: 1})
		held, err := p.Get()
		require.NoError(t, err)
		d.slow("a", time.Second)
		go func() { // begins the first dial, and gives up
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			defer cancel()
			_, _ = p.GetContext(ctx)
		}()
		time.Sleep(500 * time.Millisecond)
		time.AfterFunc(400*time.Millisecond, func() { d.refuse("a") })
		time.AfterFunc(700*time.Millisecond, func() { d.accept("a") })
		c, err := p.Get() // begins the second, which connects after the first has failed
		require.NoError(t, err)
		release(t, c)
		release(t, held)
	})
}
