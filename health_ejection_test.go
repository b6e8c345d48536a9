package pooly_test

import (
	"context"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestEjectedHostTakesNoTrafficUntilAProbeConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1})
		d.refuse("bad")
		s.Add("good")
		s.Add("bad")
		time.Sleep(time.Minute) // far into the backoff
		require.True(t, hostStats(t, s, "bad").Ejected)
		require.ErrorIs(t, hostStats(t, s, "bad").Cause, syscall.ECONNREFUSED)

		dials := d.host("bad").dials
		for range 100 {
			c := get(t, s)
			require.Equal(t, "good", c.Address())
			release(t, c)
		}
		require.Equal(t, dials, d.host("bad").dials, "calls do not dial an ejected host")

		d.accept("bad")
		time.Sleep(10 * time.Second) // the longest backoff
		synctest.Wait()
		stats := hostStats(t, s, "bad")
		require.False(t, stats.Ejected)
		require.NoError(t, stats.Cause)
		require.Equal(t, 1, stats.Idle, "the probe's connection stays")
		require.Equal(t, dials+1, d.host("bad").dials)

		served := make(map[string]int)
		for range 100 {
			c := get(t, s)
			served[c.Address()]++
			release(t, c)
		}
		require.Equal(t, map[string]int{"good": 50, "bad": 50}, served)
		require.Equal(t, dials+1, d.host("bad").dials, "served by the probe's connection")
	})
}

func TestEjectedHostIsProbedWithCappedBackoffAndJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{})
		d.refuse("bad")
		s.Add("good")
		s.Add("bad")
		for d.host("bad").dials == 0 {
			release(t, get(t, s))
		}
		time.Sleep(5 * time.Minute)
		at := d.host("bad").at
		period := 100 * time.Millisecond
		var pauses []time.Duration
		for i := range len(at) - 1 {
			pause := at[i+1].Sub(at[i])
			require.LessOrEqual(t, pause, period, "probe %d", i)
			require.GreaterOrEqual(t, pause, period*8/10, "probe %d", i)
			period = min(2*period, 10*time.Second)
			pauses = append(pauses, pause)
		}
		require.Greater(t, len(pauses), 30)
		require.NotEqual(t, pauses[20], pauses[21], "jitter")
	})
}

func TestEjectedHostsAreAllTriedWhenNoneIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1})
		addresses := []string{"a", "b", "c"}
		d.refuse(addresses...)
		for _, a := range addresses {
			s.Add(a)
		}
		_, err := s.GetConn()
		require.Error(t, err)
		time.Sleep(time.Minute)
		synctest.Wait()
		d.accept("b")
		began := time.Now()
		c := get(t, s)
		require.Equal(t, "b", c.Address())
		require.Zero(t, time.Since(began), "without waiting for a probe")
		release(t, c)
	})
}

func TestEjectedHostKeepsItsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "a")
		c := get(t, s)
		d.refuse("a") // as a server does that has no room for more
		_, err := s.GetConn()
		require.Error(t, err)
		require.True(t, hostStats(t, s, "a").Ejected)
		release(t, c)
		next := get(t, s)
		require.Same(t, fakeOf(c), fakeOf(next), "the only host there is")
		release(t, next)
	})
}

// Who waits for a host that is up must not be sent to one that is not, when that one gets room.
func TestEjectedHostServesNoQueueWhileAnotherIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, "up", "down")
		first, broken := get(t, s), get(t, s)
		require.Equal(t, "down", broken.Address())
		d.refuse("down")
		second := get(t, s)
		require.Equal(t, "up", second.Address())
		served := make(chan *pooly.Conn, 1)
		go func() { // "down" refuses, "up" is full
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
			}
			served <- c
		}()
		time.Sleep(2 * pooly.DefaultFallbackDelay) // so long, the lease of "down" gives hope
		require.True(t, hostStats(t, s, "down").Ejected)
		require.Equal(t, 1, s.Stats().Waiting)
		synctest.Wait()
		dials := d.host("down").dials
		require.NoError(t, broken.Release(errFatal, pooly.HostDown))
		synctest.Wait()
		require.Equal(t, dials, d.host("down").dials)
		release(t, first)
		c := <-served
		require.Equal(t, "up", c.Address())
		release(t, c)
		release(t, second)
	})
}

func TestEjectionIsLoggedOncePerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		s, d := newService(t, pooly.ServiceConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}, "good")
		d.refuse("bad")
		s.Add("bad")
		for range 10 {
			release(t, get(t, s))
			time.Sleep(time.Second)
		}
		d.accept("bad")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 1, strings.Count(log.String(), "host ejected"), log.String())
		require.Equal(t, 1, strings.Count(log.String(), "host restored"), log.String())
		require.Contains(t, log.String(), "address=bad")
		require.Contains(t, log.String(), "connection refused")
	})
}

// eject ends leases of a host with fatal errors until it is ejected.
func eject(t *testing.T, s *pooly.Service, address string) (fatal int) {
	t.Helper()
	for range 1000 {
		c := get(t, s)
		if c.Address() != address {
			release(t, c)
			continue
		}
		require.NoError(t, c.Release(errFatal, pooly.HostUp))
		fatal++
		if hostStats(t, s, address).Ejected {
			return fatal
		}
	}
	require.Fail(t, "not ejected", address)
	return 0
}

func TestHostThatFailsEveryRequestIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		s, _ := newService(t, pooly.ServiceConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}, "good", "bad")
		require.Equal(t, pooly.DefaultConsecutiveFailures, eject(t, s, "bad"))
		stats := hostStats(t, s, "bad")
		require.ErrorIs(t, stats.Cause, errFatal)
		require.EqualValues(t, 1, stats.Ejections)
		require.LessOrEqual(t, stats.NextProbe, pooly.DefaultBaseEjectionTime)
		for range 20 {
			c := get(t, s)
			require.Equal(t, "good", c.Address())
			release(t, c)
		}
		time.Sleep(pooly.DefaultBaseEjectionTime)
		synctest.Wait()
		stats = hostStats(t, s, "bad")
		require.False(t, stats.Ejected)
		require.Zero(t, stats.NextProbe)
		require.Equal(t, 1, strings.Count(log.String(), "host ejected"), log.String())
		require.Equal(t, 1, strings.Count(log.String(), "host restored"), log.String())
	})
}

// A host that connects and fails requests again and again costs one request for each ejection, and
// these become rare.
func TestHostOnProbationIsEjectedByOneFailureForTwiceAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "good", "bad")
		eject(t, s, "bad")
		period := pooly.DefaultBaseEjectionTime
		for range 12 {
			until := hostStats(t, s, "bad").NextProbe
			require.LessOrEqual(t, until, period)
			require.GreaterOrEqual(t, until, period*8/10)
			time.Sleep(until)
			synctest.Wait()
			require.False(t, hostStats(t, s, "bad").Ejected)
			require.Equal(t, 1, eject(t, s, "bad"))
			period = min(2*period, pooly.DefaultMaxEjectionTime)
		}

		time.Sleep(period)
		synctest.Wait()
		for range 2 {
			release(t, get(t, s)) // the host proves itself
		}
		require.Equal(t, pooly.DefaultConsecutiveFailures, eject(t, s, "bad"))
		require.LessOrEqual(t, hostStats(t, s, "bad").NextProbe, pooly.DefaultBaseEjectionTime)
	})
}

func TestHostWhoseDialsFailedIsOnProbationToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"bad", "good"}}, "good", "bad")
		d.refuse("bad")
		release(t, get(t, s))
		d.accept("bad")
		time.Sleep(pooly.DefaultBaseEjectionTime)
		synctest.Wait()
		require.False(t, hostStats(t, s, "bad").Ejected)
		require.Equal(t, 1, eject(t, s, "bad"))
		require.EqualValues(t, 2, hostStats(t, s, "bad").Ejections)
	})
}

func TestOnlyFailuresInARowThatAreTheHostsEject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"bad", "good"}}, "good", "bad")
		for i := range 100 {
			outcome := errFatal
			switch {
			case i%5 == 4:
				outcome = nil
			case i%5 == 2:
				outcome = context.Canceled // neither counts nor ends the row
			}
			c := get(t, s)
			require.Equal(t, "bad", c.Address())
			require.NoError(t, c.Release(outcome, pooly.HostUp))
			synctest.Wait() // or connections being closed take all places
		}
		for range 10 {
			require.ErrorIs(t, get(t, s).Release("no error", pooly.HostUp), pooly.ErrInvalidArg)
		}
		require.Zero(t, hostStats(t, s, "bad").Ejections)
	})
}

// Requests that hang until after the host is back must not eject it again.
func TestLeasesFromBeforeARestorationEjectNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"bad", "good"}}, "bad", "good")
		var old []*pooly.Conn
		for range 12 {
			old = append(old, get(t, s))
		}
		for _, c := range old[:5] {
			require.NoError(t, c.Release(errFatal, pooly.HostUp))
		}
		require.True(t, hostStats(t, s, "bad").Ejected)
		time.Sleep(time.Second)
		synctest.Wait()
		require.False(t, hostStats(t, s, "bad").Ejected)
		for _, c := range old[5:] {
			require.NoError(t, c.Release(errFatal, pooly.HostUp))
		}
		require.False(t, hostStats(t, s, "bad").Ejected)
		require.Equal(t, 1, eject(t, s, "bad"), "on probation all the same")
	})
}

func TestNegativeConsecutiveFailuresNeverEjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{ConsecutiveFailures: -1}, "a", "b")
		for range 100 {
			require.NoError(t, get(t, s).Release(errFatal, pooly.HostUp))
		}
		require.Zero(t, hostStats(t, s, "a").Ejections+hostStats(t, s, "b").Ejections)
	})
}

// Every request fails at every host, so it is no host's fault, however few the requests are.
func TestBadDeployOfTheCallerEjectsNoHost(t *testing.T) {
	for _, hosts := range []int{1, 2, 3, 10} {
		for _, every := range []time.Duration{10 * time.Millisecond, 5 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{})
				for i := range hosts {
					s.Add(string(rune('a' + i)))
				}
				for range 100 * hosts {
					require.NoError(t, get(t, s).Release(errFatal, pooly.HostUp))
					time.Sleep(every)
				}
				for _, h := range s.Stats().Hosts {
					require.Zero(t, h.Ejections, "%d hosts, a request each %v", hosts, every)
				}
				if every < time.Second {
					require.Equal(t, hosts > 1, s.Stats().Panic, "%d hosts", hosts)
				}
			})
		}
	}
}

func TestMaxEjectionPercentBoundsTheHostsThatAreEjectedForTheirReplies(t *testing.T) {
	for _, tt := range []struct{ hosts, failing, percent, ejected int }{
		{1, 1, 0, 0}, {1, 1, 100, 0}, {2, 1, 0, 1}, {2, 1, 1, 1}, {3, 2, 0, 2}, {3, 2, 50, 1},
		{10, 5, 0, 5}, {10, 5, 30, 3}, {10, 5, 1, 1}, {10, 5, 100, 5},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{
				MaxEjectionPercent: tt.percent,
				BaseEjectionTime:   time.Hour,
				MaxEjectionTime:    time.Hour,
			})
			for i := range tt.hosts {
				s.Add(string(rune('a' + i)))
			}
			for range 100 * tt.hosts {
				c := get(t, s)
				if int(c.Address()[0]-'a') < tt.failing {
					require.NoError(t, c.Release(errFatal, pooly.HostUp))
				} else {
					release(t, c)
				}
				time.Sleep(time.Millisecond)
			}
			ejected := 0
			for _, h := range s.Stats().Hosts {
				if h.Ejected {
					ejected++
				}
			}
			require.Equal(t, tt.ejected, ejected, "%+v", tt)
		})
	}
}

// A dial that was under way when a host was ejected for its replies says nothing of these.
func TestOnlyAProbeRestoresAHostEjectedForItsReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy:   inOrder{"bad", "good"},
			BaseEjectionTime: time.Second,
		}, "bad", "good")
		var leases []*pooly.Conn
		for range 5 {
			leases = append(leases, get(t, s))
		}
		d.slow("bad", 200*time.Millisecond)
		served := make(chan *pooly.Conn)
		go func() { served <- getApart(t, s) }()
		synctest.Wait()
		for _, c := range leases {
			require.NoError(t, c.Release(errFatal, pooly.HostUp))
		}
		c := <-served
		require.Equal(t, "good", c.Address())
		release(t, c)
		time.Sleep(300 * time.Millisecond)
		require.Equal(t, 6, d.host("bad").dials, "the dial has connected")
		require.True(t, hostStats(t, s, "bad").Ejected)
		require.Zero(t, hostStats(t, s, "bad").Open, "and what it brought is closed")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.False(t, hostStats(t, s, "bad").Ejected)
	})
}

// The driver is slow to close, so every place is still taken when the first probe is due.
func TestHostEjectedWithAFullPoolComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeDriver()
		d := &rogueDriver{Driver: fake, close: func(c *pooly.Conn) {
			time.Sleep(500 * time.Millisecond)
			fake.Close(c)
		}}
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig:          pooly.PoolConfig{Driver: d, MaxConns: 2},
			PrespawnConns:       -1,
			ConsecutiveFailures: 1,
			BanditStrategy:      inOrder{"bad", "good"},
		})
		s.SetHosts("bad", "good")
		a, b := get(t, s), get(t, s)
		release(t, get(t, s)) // so that there is one to compare with
		release(t, a)
		go func() { _ = b.Release(errFatal, pooly.HostUp) }()
		synctest.Wait()
		require.True(t, hostStats(t, s, "bad").Ejected)
		time.Sleep(400 * time.Millisecond)
		require.Equal(t, 2, fake.host("bad").open)
		require.Equal(t, 2, fake.host("bad").dials, "it found no place")
		require.True(t, hostStats(t, s, "bad").Ejected)
		time.Sleep(time.Second)
		require.False(t, hostStats(t, s, "bad").Ejected)
		require.Equal(t, 2, fake.host("bad").peak)
		require.NoError(t, s.Close())
	})
}

// A host that is back gets connections as they are needed, but not all at once.
func TestRestoredHostIsNotStormed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"back"}}, "back")
		d.refuse("back")
		_, err := s.GetConn()
		require.Error(t, err)
		d.accept("back")
		d.slow("back", 50*time.Millisecond)
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.False(t, hostStats(t, s, "back").Ejected)

		began := time.Now()
		done := make(chan time.Duration)
		for range pooly.DefaultMaxConns {
			go func() {
				c := getApart(t, s)
				done <- time.Since(began)
				time.Sleep(time.Second)
				release(t, c)
			}()
		}
		served := make(map[time.Duration]int)
		for range pooly.DefaultMaxConns {
			served[<-done/(50*time.Millisecond)]++
		}
		require.Equal(t, map[time.Duration]int{0: 1, 1: 1, 2: 2, 3: 4, 4: 8, 5: 14}, served, "each dial allows one more")
	})
}

// What a lease of a removed host ends with must not be counted against those that are left: with
// one too few of these, nobody told callers that the last had gone, and they waited forever.
func TestFatalReleaseOnARemovedHostLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			PoolConfig:          pooly.PoolConfig{MaxConns: 1},
			ConsecutiveFailures: 1,
		}, "removed", "left", "last")
		leases := make(map[string]*pooly.Conn)
		for range 3 {
			c := get(t, s)
			leases[c.Address()] = c
		}
		s.Remove("removed")
		require.NoError(t, leases["removed"].Release(errFatal, pooly.HostDown))
		waiting := make(chan error, 1)
		go func() {
			_, err := s.GetConn()
			waiting <- err
		}()
		synctest.Wait()
		s.Remove("left")
		synctest.Wait()
		s.Remove("last")
		require.ErrorIs(t, <-waiting, pooly.ErrNoHostAvailable)
		release(t, leases["left"])
		release(t, leases["last"])
	})
}

// Nor to one whose requests fail, when a lease of it ends.
func TestEjectedHostHandsNoConnectionToTheQueueWhileAnotherIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			PoolConfig:          pooly.PoolConfig{MaxConns: 3},
			ConsecutiveFailures: 1,
			BaseEjectionTime:    time.Hour,
			MaxEjectionTime:     time.Hour,
		}, "up", "bad")
		leases := make(map[string][]*pooly.Conn)
		for range 6 {
			c := get(t, s)
			leases[c.Address()] = append(leases[c.Address()], c)
		}
		bad := leases["bad"]
		require.NoError(t, bad[0].Release(errFatal, pooly.HostDown))
		require.True(t, hostStats(t, s, "bad").Ejected)
		release(t, bad[1])
		served := make(chan *pooly.Conn, 1)
		go func() {
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
			}
			served <- c
		}()
		synctest.Wait()
		release(t, bad[2])
		synctest.Wait()
		require.Equal(t, 1, s.Stats().Waiting)
		require.Zero(t, hostStats(t, s, "bad").Open, "they are as suspect as what failed")
		release(t, leases["up"][0])
		c := <-served
		require.Equal(t, "up", c.Address())
		release(t, c)
		release(t, leases["up"][1])
		release(t, leases["up"][2])
	})
}
