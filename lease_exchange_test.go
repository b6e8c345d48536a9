package pooly_test

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Tests of what protocols build on: Lease, Rate, End and CloseOnRelease.

func leaseWith(t *testing.T, s *pooly.Service, options pooly.LeaseOptions) *pooly.Conn {
	t.Helper()
	c, err := s.Lease(t.Context(), options)
	require.NoError(t, err)
	return c
}

func TestRateCountsEachExchangeOfALeaseOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		require.NoError(t, c.Rate(pooly.Outcome{Score: 1}))
		require.NoError(t, c.Rate(pooly.Outcome{Score: 0.4}))
		require.Equal(t, 1, s.Stats().InUse, "the lease goes on")
		require.NoError(t, c.End())
		score, trials := mean(t, s, "a")
		require.InDelta(t, 0.7, score, 1e-9)
		require.InDelta(t, 2, trials, 1e-9)
		require.Equal(t, 1, s.Stats().Idle)
		require.ErrorIs(t, c.Rate(pooly.Outcome{Score: 1}), pooly.ErrConnReleased)
		require.ErrorIs(t, c.End(), pooly.ErrConnReleased)
		require.ErrorIs(t, c.CloseOnRelease(), pooly.ErrConnReleased)
		require.NoError(t, s.Close())
	})
}

func TestRateRefusesWhatIsNoScoreOrNoLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		for _, score := range []float64{-0.1, 1.1, math.NaN()} {
			require.ErrorIs(t, c.Rate(pooly.Outcome{Score: score}), pooly.ErrInvalidArg)
		}
		require.NoError(t, c.End())
		_, trials := mean(t, s, "a")
		require.Zero(t, trials)
		for _, none := range []*pooly.Conn{new(pooly.Conn), pooly.NewConn(1)} {
			require.ErrorIs(t, none.Rate(pooly.Outcome{}), pooly.ErrInvalidArg)
			require.ErrorIs(t, none.End(), pooly.ErrInvalidArg)
			require.ErrorIs(t, none.CloseOnRelease(), pooly.ErrInvalidArg)
		}
		require.NoError(t, s.Close())
	})
}

// The time wrapped around, so that the slowest host looked like the fastest.
func TestRateTakesAnyElapsedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.ServiceConfig{BanditStrategy: pooly.NewLeastLatency()}
		s, _ := newService(t, config, "a")
		require.NoError(t, leaseWith(t, s, pooly.LeaseOptions{}).End(), "it begins the timing")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		for _, score := range []float64{pooly.HostUp, pooly.HostDown} {
			o := pooly.Outcome{Score: score, Elapsed: math.MaxInt64}
			require.NoError(t, c.Rate(o))
			require.Greater(t, hostStats(t, s, "a").Latency, time.Hour)
			time.Sleep(pooly.DefaultMemoizeScoreDuration)
			require.Greater(t, hostStats(t, s, "a").Latency, time.Hour, "after a refresh")
		}
		require.NoError(t, c.End())
		require.NoError(t, s.Close())
	})
}

func TestFailedExchangesEjectTheHostAndLeaveTheConnectionOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"a"}, ConsecutiveFailures: 3}, "a", "b")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		for range 2 {
			require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostDown, Err: errTemporary}))
		}
		require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostDown, Err: context.Canceled}))
		require.False(t, hostStats(t, s, "a").Ejected, "a cancelled exchange is the caller's own wish")
		require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostUp}))
		for range 3 {
			require.False(t, hostStats(t, s, "a").Ejected, "an exchange that ends well starts the count anew")
			require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostDown, Err: errTemporary}))
		}
		require.True(t, hostStats(t, s, "a").Ejected)
		require.ErrorIs(t, hostStats(t, s, "a").Cause, errTemporary)
		require.Zero(t, d.host("a").closed)
		require.NoError(t, c.End())
		require.NoError(t, s.Close())
	})
}

func TestAnExchangeThatItsUserGaveUpShowsNeitherAWorkingNorAFailingHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.ServiceConfig{BanditStrategy: &pooly.LeastLatency{}, ConsecutiveFailures: 3}
		s, _ := newService(t, config, "a", "b")
		require.NoError(t, leaseWith(t, s, pooly.LeaseOptions{}).End(), "it begins the timing")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		latency := func() time.Duration { return hostStats(t, s, c.Address()).Latency }
		givenUp := func(elapsed time.Duration) {
			t.Helper()
			o := pooly.Outcome{Score: pooly.HostDown, Err: context.Canceled, Elapsed: elapsed}
			require.NoError(t, c.Rate(o))
		}
		require.NoError(t, c.Rate(pooly.Outcome{Score: 1, Elapsed: 10 * time.Millisecond}))
		givenUp(time.Millisecond)
		require.Equal(t, 10*time.Millisecond, latency(), "it would have taken longer")
		givenUp(20 * time.Millisecond)
		require.Equal(t, 20*time.Millisecond, latency(), "it took at least so long")

		for range 2 {
			require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostDown, Err: errTemporary}))
		}
		givenUp(0)
		require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostDown, Err: errTemporary}))
		require.True(t, hostStats(t, s, c.Address()).Ejected, "the third failure in a row")
		require.NoError(t, c.End())
		require.NoError(t, s.Close())
	})
}

func TestExchangesThatTimeOutForLackOfTimeBlameNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		require.NoError(t, c.Rate(pooly.Outcome{Score: 1, Elapsed: 100 * time.Millisecond}))
		late := pooly.Outcome{Err: context.DeadlineExceeded, Elapsed: 10 * time.Millisecond}
		require.NoError(t, c.Rate(late))
		_, trials := mean(t, s, "a")
		require.InDelta(t, 1, trials, 1e-9)
		late.Elapsed = 200 * time.Millisecond
		require.NoError(t, c.Rate(late))
		time.Sleep(pooly.DefaultMemoizeScoreDuration)
		_, trials = mean(t, s, "a")
		require.InDelta(t, 2, trials, 1e-9)
		require.Equal(t, 1, hostStats(t, s, "a").Limit, "the limit below MaxConns learns from exchanges")
		require.NoError(t, c.End())
		require.NoError(t, s.Close())
	})
}

// A lease may go on long after its last exchange, as one does whose body is read slowly.
func TestStrategiesSeeTheTimeOfExchangesAndNotOfTheirLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: pooly.NewPeakEWMA(5)}, "a")
		require.NoError(t, leaseWith(t, s, pooly.LeaseOptions{}).End(), "it begins the timing")
		c := leaseWith(t, s, pooly.LeaseOptions{})
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, c.Rate(pooly.Outcome{Score: 1, Elapsed: 20 * time.Millisecond}))
		time.Sleep(time.Hour)
		require.NoError(t, c.End())
		require.LessOrEqual(t, hostStats(t, s, "a").Latency, 20*time.Millisecond)
		require.NoError(t, s.Close())
	})
}

func TestCloseOnReleaseClosesTheConnectionWhateverTheOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		for _, end := range []func(*pooly.Conn) error{
			func(c *pooly.Conn) error { return c.End() },
			func(c *pooly.Conn) error { return c.Release(nil, pooly.HostUp) },
			func(c *pooly.Conn) error { return c.Release(errTemporary, pooly.HostUp) },
		} {
			c := leaseWith(t, s, pooly.LeaseOptions{})
			require.NoError(t, c.CloseOnRelease())
			require.False(t, fakeOf(c).isClosed())
			require.NoError(t, end(c))
			synctest.Wait()
			require.True(t, fakeOf(c).isClosed())
		}
		require.NoError(t, s.Close())
	})
}

func TestLeaseAvoidsHostsWhileAnotherCanBeReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"a"}}, "a", "b")
		c := leaseWith(t, s, pooly.LeaseOptions{Avoid: []string{"a", "unknown"}})
		require.Equal(t, "b", c.Address())
		d.refuse("b")
		require.NoError(t, c.Release(errFatal, pooly.HostUp))
		began := time.Now()
		c = leaseWith(t, s, pooly.LeaseOptions{Avoid: []string{"a"}})
		require.Equal(t, pooly.DefaultFallbackDelay, time.Since(began))
		require.NoError(t, c.End())
		require.True(t, hostStats(t, s, "b").Ejected)
		began = time.Now()
		c = leaseWith(t, s, pooly.LeaseOptions{Avoid: []string{"a"}})
		require.Equal(t, 10*time.Millisecond, time.Since(began), "RetryDelay")
		require.NoError(t, c.End())
		began = time.Now()
		c = leaseWith(t, s, pooly.LeaseOptions{Avoid: []string{"a", "b", "a"}})
		require.Zero(t, time.Since(began), "there is no other host")
		require.NoError(t, c.End())
		require.NoError(t, s.Close())
	})
}

func TestLeaseOfARetryIsChargedToTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		retries := func() (n int) {
			for ; ; n++ {
				c, err := s.Lease(t.Context(), pooly.LeaseOptions{Retry: true})
				if err != nil {
					require.ErrorIs(t, err, pooly.ErrRetriesSpent)
					return n
				}
				require.NoError(t, c.End())
			}
		}
		require.Equal(t, 10, retries())
		for range 100 {
			require.NoError(t, leaseWith(t, s, pooly.LeaseOptions{}).End())
		}
		require.Equal(t, 20, retries(), "a fifth of the others")
		require.EqualValues(t, 30, s.Stats().Retries)
		require.EqualValues(t, 2, s.Stats().RetriesRefused)
		require.NoError(t, s.Close())
	})
}

func TestCloseIdleClosesWhatIsIdleAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		leased, idle := leaseWith(t, s, pooly.LeaseOptions{}), leaseWith(t, s, pooly.LeaseOptions{})
		require.NoError(t, idle.End())
		s.CloseIdle()
		synctest.Wait()
		require.Equal(t, 1, d.host("a").closed)
		require.False(t, fakeOf(leased).isClosed())
		require.NoError(t, leased.End())
		require.Equal(t, 1, s.Stats().Idle)
		require.NoError(t, s.Close())
	})
}

func TestHasKnowsHostsThatAreRegistered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{MaxHosts: 1}, "a", "b")
		require.True(t, s.Has("a"))
		require.True(t, s.Has("b"), "although only one of them is in use")
		require.False(t, s.Has("c"))
		s.Remove("a")
		require.False(t, s.Has("a"))
		require.Same(t, d, s.Driver())
		require.NoError(t, s.Close())
	})
}

func TestDriversLearnThatADialIsAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, fake, probes := notingProbes()
		s := pooly.NewService("t", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1})
		s.Add("a")
		fake.refuse("a")
		_, err := s.GetConn()
		require.Error(t, err)
		require.False(t, <-probes)
		fake.accept("a")
		time.Sleep(time.Second)
		require.True(t, <-probes)
		require.NoError(t, s.Close())
	})
}

type roomy struct{ *fakeDriver }

func (roomy) DefaultMaxConns() int { return 500 }

func TestADriverHasAMaxConnsOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ configured, want int }{{0, 500}, {7, 7}} {
			s := pooly.NewService("t", &pooly.ServiceConfig{
				PoolConfig:    pooly.PoolConfig{Driver: roomy{newFakeDriver()}, MaxConns: tt.configured},
				PrespawnConns: -1,
			})
			s.Add("a")
			require.Equal(t, tt.want, hostStats(t, s, "a").MaxConns)
			require.NoError(t, s.Close())
		}
	})
}
