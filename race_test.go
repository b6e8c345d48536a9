package pooly_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A host whose SYNs vanish costs the first caller the fallback delay, and no other anything.
func TestBlackHoleCostsOneCallerTheFallbackDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b", "hole")
		d.slow("hole", 24*time.Hour)
		delayed := 0
		for range 3000 {
			began := time.Now()
			c := get(t, s)
			if took := time.Since(began); took > 0 {
				require.Equal(t, pooly.DefaultFallbackDelay, took)
				delayed++
			}
			require.NotEqual(t, "hole", c.Address())
			time.Sleep(10 * time.Millisecond)
			release(t, c)
		}
		require.Equal(t, 1, delayed)
		require.True(t, hostStats(t, s, "hole").Ejected)
		require.ErrorIs(t, hostStats(t, s, "hole").Cause, context.DeadlineExceeded)
	})
}

func TestSeveralBlackHolesCostOneDelayEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		holes := inOrder{"1", "2", "3", "4", "5", "6", "7"}
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: append(holes, "good")}, append(holes, "good")...)
		for _, address := range holes {
			d.slow(address, 24*time.Hour)
		}
		began := time.Now()
		for range 100 {
			c := get(t, s)
			require.Equal(t, "good", c.Address())
			release(t, c)
		}
		require.LessOrEqual(t, time.Since(began), time.Duration(len(holes))*pooly.DefaultFallbackDelay)
	})
}

// The first to connect serves the caller, whichever was dialled first; the connection of the other
// is kept.
func TestFirstOfTwoDialsToConnectWins(t *testing.T) {
	for _, tt := range []struct {
		first, second time.Duration
		winner        string
		after         time.Duration
	}{
		{time.Second, 300 * time.Millisecond, "second", 550 * time.Millisecond},
		{400 * time.Millisecond, time.Second, "first", 400 * time.Millisecond},
		{200 * time.Millisecond, 0, "first", 200 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"first", "second"}}, "first", "second")
			d.slow("first", tt.first)
			d.slow("second", tt.second)
			began := time.Now()
			c := get(t, s)
			require.Equal(t, tt.winner, c.Address())
			require.Equal(t, tt.after, time.Since(began))
			time.Sleep(2 * time.Second)
			synctest.Wait()
			stats := s.Stats()
			require.Equal(t, d.host("first").dials+d.host("second").dials, stats.Open)
			require.Equal(t, stats.Open-1, stats.Idle)
			require.Zero(t, stats.Dialing)
			require.EqualValues(t, 1, stats.Gets)
			release(t, c)
		})
	}
}

// All that a call waits for may come at once, also what it has given up to look further.
func TestManyDialsThatConnectAtOnceServeOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := inOrder{"1", "2", "3", "4", "5", "6", "7", "8"}
		s, d := newService(t, pooly.ServiceConfig{}, hosts...)
		at := time.Now().Add(3 * time.Second)
		d.test = func(*fakeConn) error { return nil }
		slow := func(delay time.Duration) {
			for _, address := range hosts {
				d.slow(address, delay)
			}
		}
		slow(time.Until(at))
		go func() { // each dial begins when the one before has taken the fallback delay
			time.Sleep(pooly.DefaultFallbackDelay / 2)
			for range hosts {
				slow(time.Until(at) - pooly.DefaultFallbackDelay/2)
				time.Sleep(pooly.DefaultFallbackDelay)
			}
		}()
		synctest.Wait()
		c := get(t, s)
		require.Equal(t, at, time.Now())
		synctest.Wait()
		require.Equal(t, 8, s.Stats().Open)
		require.Equal(t, 7, s.Stats().Idle)
		release(t, c)
	})
}

// Callers too impatient to see a dial stall must not start one each.
func TestBlackHoleGetsOneDialFromImpatientCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy: inOrder{"hole", "good"},
			PoolConfig:     pooly.PoolConfig{WaitTimeout: 100 * time.Millisecond},
		}, "hole", "good")
		held := get(t, s)
		require.Equal(t, "hole", held.Address())
		d.slow("hole", 24*time.Hour)
		failures := 0
		for range 100 {
			if c, err := s.GetConn(); err != nil {
				failures++
			} else {
				require.Equal(t, "good", c.Address())
				release(t, c)
			}
		}
		require.Equal(t, 2, failures, "those that wait for the dial before it passes for stalled")
		require.Equal(t, 2, d.host("hole").dials)
		release(t, held)
	})
}

// The failure of a dial raced against others is part of the error, and both have their places given
// back.
func TestRacedDialsThatFailAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1, PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a", "b")
		for _, address := range []string{"a", "b"} {
			d.slow(address, time.Second)
			d.refuse(address)
		}
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorContains(t, err, "a (connection refused)")
		require.ErrorContains(t, err, "b (connection refused)")
		for _, address := range []string{"a", "b"} {
			d.slow(address, 0)
			d.accept(address)
		}
		time.Sleep(20 * time.Second)
		x, y := get(t, s), get(t, s)
		release(t, x)
		release(t, y)
	})
}

// The caller waits at a black hole and at a full host; it is served by whichever comes first, in
// its turn.
func TestCallerAtABlackHoleQueuesForFullHostsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig:     pooly.PoolConfig{MaxConns: 1},
			BanditStrategy: inOrder{"full"},
		}, "full")
		held := get(t, s)
		d.slow("hole", 24*time.Hour)
		s.Add("hole")
		served := make(chan *pooly.Conn)
		go func() { served <- getApart(t, s) }()
		time.Sleep(time.Second)
		require.Equal(t, 1, s.Stats().Waiting)
		release(t, held)
		c := <-served
		require.Equal(t, "full", c.Address())
		release(t, c)
		require.Zero(t, s.Stats().Waiting)
	})
}

// A call that waits for a dial that has stalled, with no other host left to try, is served by the
// next that comes.
func TestCallerAtABlackHoleTakesAHostThatComes(t *testing.T) {
	for name, come := range map[string]func(s *pooly.Service, d *fakeDriver){
		"added":    func(s *pooly.Service, _ *fakeDriver) { s.Add("good") },
		"set":      func(s *pooly.Service, _ *fakeDriver) { s.SetHosts("hole", "good") },
		"restored": func(_ *pooly.Service, d *fakeDriver) { d.accept("down") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{
					BanditStrategy:  inOrder{"hole"},
					MaxEjectionTime: time.Second,
				}, "hole", "down")
				d.slow("hole", time.Hour)
				d.refuse("down")
				served := make(chan *pooly.Conn)
				go func() { served <- getApart(t, s) }()
				time.Sleep(3 * time.Second)
				synctest.Wait()
				require.Empty(t, served)
				began := time.Now()
				come(s, d)
				c := <-served
				require.NotEqual(t, "hole", c.Address())
				require.LessOrEqual(t, time.Since(began), time.Second, "the longest time between two probes")
				release(t, c)
			})
		})
	}
}

// A host that comes has room for one of two callers: they take it in their order.
func TestCallersAtABlackHoleQueueForAHostThatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "hole")
		d.slow("hole", time.Hour)
		served := make(chan string, 2)
		call := func(name string) {
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
				return
			}
			served <- name + " at " + c.Address()
			time.Sleep(time.Second)
			_ = c.Release(nil, pooly.HostUp)
		}
		go call("who had the hole dialled")
		time.Sleep(100 * time.Millisecond)
		go call("who found it full")
		time.Sleep(time.Second)
		require.Equal(t, 2, s.Stats().Waiting)
		began := time.Now()
		s.Add("good")
		require.Equal(t, "who had the hole dialled at good", <-served)
		require.Equal(t, "who found it full at good", <-served)
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestCallerWhoGivesUpARaceLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b", "c")
		for _, address := range []string{"a", "b", "c"} {
			d.slow(address, 3*time.Second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.GetConnContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		stats := s.Stats()
		require.Equal(t, 3, stats.Idle, "what was dialled serves others")
		require.Zero(t, stats.InUse+stats.Dialing+stats.Waiting)
		require.Zero(t, stats.Gets)
	})
}

// A dial that has stalled is not counted on: who waits for it gets a dial of its own once another
// connects.
func TestStalledDialHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		held := get(t, s)
		d.slow("a", 24*time.Hour)
		began := time.Now()
		served := make(chan time.Duration)
		call := func() {
			c := getApart(t, s)
			served <- time.Since(began)
			time.Sleep(time.Minute)
			release(t, c)
		}
		go call()
		time.Sleep(200 * time.Millisecond)
		d.slow("a", 100*time.Millisecond)
		go call()
		require.Equal(t, 300*time.Millisecond, <-served, "by the second dial")
		require.Equal(t, 400*time.Millisecond, <-served, "by a third, since the first has stalled")
		go call()
		require.Equal(t, 500*time.Millisecond, <-served)
		release(t, held)
		time.Sleep(time.Hour)
	})
}

func TestDialThatNeverReturnsGivesItsPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		s, d := newService(t, pooly.ServiceConfig{
			GetAttempts: 1,
			Logger:      slog.New(slog.NewTextHandler(&log, nil)),
			PoolConfig:  pooly.PoolConfig{MaxConns: 1},
		}, "a")
		d.slow("a", time.Hour)
		d.on("a", func(h *fakeHost) { h.deaf = true })
		began := time.Now()
		_, err := s.GetConn()
		require.ErrorContains(t, err, "does not return")
		require.Equal(t, pooly.DefaultDialTimeout+time.Second, time.Since(began))
		require.Equal(t, 1, strings.Count(log.String(), "driver does not return from Dial"))
		d.slow("a", 0)
		release(t, get(t, s))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Equal(t, 1, d.host("a").open, "what comes late is closed")
		stats := s.Stats()
		require.Equal(t, 1, stats.Open)
		require.EqualValues(t, d.host("a").dials, stats.Dials)
	})
}

// The driver gives up long after the pool did. That must not hold up who comes next.
func TestDialThatFailsAfterItWasAbandonedChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "a")
		d.slow("a", time.Hour)
		d.on("a", func(h *fakeHost) { h.deaf = true })
		_, err := s.GetConn()
		require.ErrorContains(t, err, "does not return")
		d.slow("a", 0)
		release(t, get(t, s))
		failures := s.Stats().Failures
		d.refuse("a")
		time.Sleep(2 * time.Hour)
		release(t, get(t, s))
		require.Equal(t, failures, s.Stats().Failures)
		require.False(t, hostStats(t, s, "a").Ejected)
	})
}

// A Pool used alone tries several times. It must not go on for a dial that it gave up.
func TestPoolAloneMakesNoFurtherTryOfADialThatItAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{ConnRetries: 3})
		d.slow("a", time.Hour)
		d.refuse("a")
		d.on("a", func(h *fakeHost) { h.deaf = true })
		_, err := p.Get()
		require.ErrorContains(t, err, "does not return")
		time.Sleep(2 * time.Hour)
		require.Equal(t, 1, d.host("a").dials)
		d.slow("a", 0)
		d.accept("a")
		c, err := p.Get()
		require.NoError(t, err)
		release(t, c)
	})
}

func TestTestThatNeverReturnsLosesOnlyItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 2, TestTimeout: time.Second},
		}, "a")
		x, y := get(t, s), get(t, s)
		hung := fakeOf(y)
		d.test = func(c *fakeConn) error {
			if c == hung {
				<-hang
			}
			return nil
		}
		release(t, x)
		release(t, y)
		began := time.Now()
		c := get(t, s)
		require.Equal(t, time.Second, time.Since(began))
		require.Same(t, fakeOf(x), fakeOf(c))
		next := get(t, s) // its place has come back
		release(t, c)
		release(t, next)
		close(hang)
	})
}

// Connections dialled together do not end together.
func TestMaxConnLifetimeIsSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConnLifetime: 100 * time.Second, MaxConns: 100},
		}, "a")
		var leases []*pooly.Conn
		for range 100 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases {
			release(t, c)
		}
		time.Sleep(89 * time.Second)
		synctest.Wait()
		require.Equal(t, 100, d.host("a").open)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		require.InDelta(t, 50, d.host("a").open, 25)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		require.Zero(t, d.host("a").open)
	})
}

// A caller in the queue may be sent to a host that just got room, and just became a black hole.
func TestGetConnThatCameFromTheQueueDoesNotWaitForABlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "good", "hole")
		leases := make(map[string]*pooly.Conn)
		for range 2 {
			c := get(t, s)
			leases[c.Address()] = c
		}
		served := make(chan *pooly.Conn, 1)
		go func() {
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
			}
			served <- c
		}()
		synctest.Wait()
		d.slow("hole", time.Hour)
		began := time.Now()
		require.NoError(t, leases["hole"].Release(errFatal, pooly.HostDown))
		time.Sleep(100 * time.Millisecond)
		release(t, leases["good"])
		c := <-served
		require.Equal(t, "good", c.Address())
		require.Equal(t, 100*time.Millisecond, time.Since(began))
		release(t, c)
	})
}

// The hosts that a race does not dial must not take turns of the strategy.
func TestDialContextDialsTheHostsThatTheStrategyPicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addresses := []string{"a", "b", "c"}
		s, d := newService(t, pooly.ServiceConfig{}, addresses...)
		for range 30 {
			require.NoError(t, dial(t, s).Close())
		}
		for _, address := range addresses {
			require.Equal(t, 10, d.host(address).dials)
		}
	})
}

// The dials that lost the race are called off. One that connects all the same must not keep its
// place.
func TestDialContextClosesWhatLosesTheRace(t *testing.T) {
	for name, deaf := range map[string]bool{"heeds its context": false, "does not": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{
					PoolConfig:     pooly.PoolConfig{MaxConns: 1},
					BanditStrategy: inOrder{"slow", "fast"},
				}, "slow", "fast")
				d.on("slow", func(h *fakeHost) { h.delay, h.deaf = time.Second, deaf })
				began := time.Now()
				require.NoError(t, dial(t, s).Close())
				require.Equal(t, pooly.DefaultFallbackDelay, time.Since(began))
				require.Equal(t, 1, d.host("fast").dials)
				synctest.Wait()
				require.Equal(t, deaf, d.host("slow").dialing == 1)
				time.Sleep(2 * time.Second)
				require.Equal(t, 1, d.host("slow").dials)
				require.Zero(t, d.host("slow").open+d.host("fast").open)
				require.Zero(t, s.Stats().Open+s.Stats().Dialing)
				require.False(t, hostStats(t, s, "slow").Ejected, "a dial that was called off tells nothing")
				d.slow("slow", 0)
				release(t, get(t, s))
			})
		})
	}
}

func TestDialContextCountsItsDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "a", "b")
		d.refuse("a", "b")
		_, err := s.DialContext(t.Context(), "", "")
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.EqualValues(t, 2, s.Stats().Dials)
		require.EqualValues(t, 2, s.Stats().Failures)
	})
}

// It restored the host, although it had begun before.
func TestDialOfDialContextFromBeforeAnEjectionByLeasesProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy:   inOrder{"a", "b"},
			FallbackDelay:    -1,
			BaseEjectionTime: time.Minute,
		}, "a", "b")
		var leases []*pooly.Conn
		for range 5 {
			leases = append(leases, get(t, s))
		}
		d.slow("a", time.Second)
		dialled := make(chan net.Conn)
		go func() {
			c, err := s.DialContext(t.Context(), "", "")
			assert.NoError(t, err)
			dialled <- c
		}()
		synctest.Wait()
		for _, c := range leases {
			require.NoError(t, c.Release(errFatal, pooly.HostDown))
		}
		require.True(t, hostStats(t, s, "a").Ejected)
		require.NoError(t, (<-dialled).Close())
		require.True(t, hostStats(t, s, "a").Ejected)
		time.Sleep(2 * time.Minute)
		require.False(t, hostStats(t, s, "a").Ejected)
	})
}

// Open connections gave hope, counted from the end of the dial, and it took a second dial.
func TestDialOfDialContextThatHasNoAnswerEjectsTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "a")
		c := dial(t, s)
		d.slow("a", time.Hour)
		_, err := s.DialContext(t.Context(), "", "")
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.NoError(t, c.Close())
	})
}
