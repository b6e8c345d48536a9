package pooly_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// What the model of model_test.go found, each in as few steps as show it.

// getWithin is get for a call that must not take long.
func getWithin(t *testing.T, s *pooly.Service, d time.Duration) *pooly.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	c, err := s.GetConnContext(ctx)
	require.NoError(t, err)
	require.LessOrEqual(t, time.Since(began), d)
	return c
}

// The connection that DialContext dials is for nobody else.
func TestGetConnDoesNotWaitForADialOfDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		d.slow("a", 50*time.Millisecond)
		go func() { _, _ = s.DialContext(t.Context(), "", "") }()
		synctest.Wait()
		release(t, getWithin(t, s, 100*time.Millisecond)) // a host that has not connected yet gets one dial at a time
	})
}

func TestRemoveEndsTheDialsOfDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		d.slow("a", time.Hour)
		began := time.Now()
		go func() {
			time.Sleep(time.Millisecond)
			s.Remove("a")
		}()
		_, err := s.DialContext(t.Context(), "", "")
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.LessOrEqual(t, time.Since(began), time.Millisecond+pooly.DefaultRetryDelay)
		synctest.Wait()
		require.Zero(t, d.host("a").dialing)
	})
}

func TestDialContextGivesUpADriverThatDoesNotReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			GetAttempts: 1,
			PoolConfig:  pooly.PoolConfig{DialTimeout: time.Second},
		}, "a")
		d.slow("a", time.Minute)
		d.on("a", func(h *fakeHost) { h.deaf = true })
		began := time.Now()
		_, err := s.DialContext(t.Context(), "", "")
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.Equal(t, 2*time.Second, time.Since(began), "DialTimeout, and a second for the driver")
		synctest.Wait()
		require.Zero(t, s.Stats().Open)

		s.Remove("a")
		time.Sleep(time.Minute)
		require.Equal(t, 1, d.host("a").closed, "what came too late")
	})
}

func TestDialContextAsksEjectedHostsOnceTheOthersHaveFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1, ConsecutiveFailures: 1}, "a", "b")
		c := get(t, s)
		answers, refuses := c.Address(), map[string]string{"a": "b", "b": "a"}[c.Address()]
		_ = c.Release(errFatal, pooly.HostDown)
		require.True(t, hostStats(t, s, answers).Ejected)
		d.refuse(refuses)
		require.NoError(t, dial(t, s).Close())
		require.Equal(t, 2, d.host(answers).dials)
	})
}

func TestDialContextDoesNotGiveUpForAHostThatIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1}, "slow")
		d.slow("slow", time.Hour)
		go func() {
			time.Sleep(time.Millisecond)
			s.SetHosts("other")
		}()
		require.NoError(t, dial(t, s).Close())
		require.Equal(t, 1, d.host("other").dials)
	})
}

// A pool whose idle connections have expired has nothing to offer while they are being closed. If
// it offered all the same, a caller would find eight such pools and look no further.
func TestExpiredConnectionsDoNotHideAnIdleOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("test", &pooly.ServiceConfig{
			BanditStrategy: stubborn{},
			PoolConfig: pooly.PoolConfig{
				Driver:          slowToClose(newFakeDriver(), 500*time.Millisecond),
				MaxConns:        1,
				ConnIdleTimeout: 100 * time.Millisecond,
			},
		})
		defer s.Close()
		const hosts = 30
		for i := range hosts {
			s.Add(fmt.Sprint(i))
		}
		synctest.Wait()
		var leases []*pooly.Conn
		for range hosts {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases[:hosts-1] {
			release(t, c)
		}
		time.Sleep(80 * time.Millisecond)
		release(t, leases[hosts-1])
		time.Sleep(30 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, 1, s.Stats().Idle)
		release(t, getWithin(t, s, 0))
	})
}

// The reaper comes up to a sixty-fourth of the timeout late. Callers from the queue did not look at
// the time.
func TestNoExpiredConnectionIsHandedToTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy: inOrder{"full", "b"},
			PoolConfig:     pooly.PoolConfig{MaxConns: 2, ConnIdleTimeout: 100 * time.Millisecond},
		}, "b")
		first, second := get(t, s), get(t, s)
		s.Add("full")
		defer release(t, get(t, s))
		defer release(t, get(t, s))
		release(t, first)
		time.Sleep(time.Millisecond)
		release(t, second)
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		c := getWithin(t, s, 0)
		require.Equal(t, "b", c.Address())
		require.Equal(t, 3, d.host("b").dials, "a new one")
		release(t, c)
	})
}

// A call tests what was dialled for it once. That must not be what was dialled long ago and died.
func TestHoweverManyIdleConnectionsDiedNoneIsHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy: stubborn{},
			PrespawnConns:  2,
			PoolConfig:     pooly.PoolConfig{MaxConns: 2},
		})
		died := false
		d.test = func(c *fakeConn) error {
			if died && c.id < 2 {
				return errDead
			}
			return nil
		}
		s.Add("full")
		synctest.Wait()
		get(t, s)
		get(t, s)
		s.Add("a")
		synctest.Wait()
		died = true
		c := getWithin(t, s, 0)
		require.Equal(t, "a", c.Address())
		require.Equal(t, 2, fakeOf(c).id, "a new one")
		go func() { _ = s.Close() }()
		time.Sleep(time.Minute)
	})
}

// A waiter stands in the queue, and one host dials for it. The lease of another host that ends
// serves it at once.
func TestReleaseServesAWaiterForWhomAnotherHostDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy: inOrder{"c", "b", "a"},
			PoolConfig:     pooly.PoolConfig{MaxConns: 2},
		}, "a")
		leases := map[string]*pooly.Conn{"a": get(t, s)}
		s.Add("b")
		leases["b"] = get(t, s)
		d.slow("a", 100*time.Millisecond)
		d.slow("b", 100*time.Millisecond)
		d.slow("c", time.Millisecond)
		d.refuse("c")
		s.Add("c")
		served := make(chan *pooly.Conn)
		go func() {
			c, _ := s.GetConn()
			served <- c
		}()
		time.Sleep(10 * time.Millisecond) // c has refused, and a or b dials for the caller

		idle := "a"
		if hostStats(t, s, "a").Dialing > 0 {
			idle = "b"
		}
		require.Zero(t, hostStats(t, s, idle).Dialing)
		began := time.Now()
		release(t, leases[idle])
		c := <-served
		require.Equal(t, idle, c.Address())
		require.Zero(t, time.Since(began))
	})
}

// The pause after a dial that failed for want of a file was as long as the service was old.
func TestAHostIsDialledAgainSoonAfterThisProcessRanOutOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		time.Sleep(24 * time.Hour)
		first := get(t, s)
		d.on("a", func(h *fakeHost) { h.err, h.delay = syscall.EMFILE, time.Millisecond })
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Microsecond)
		defer cancel()
		_, err := s.GetConnContext(ctx) // whose dial fails after it
		require.ErrorIs(t, err, context.DeadlineExceeded)
		release(t, first)
		time.Sleep(time.Millisecond)

		d.accept("a")
		first = get(t, s)
		release(t, getWithin(t, s, pooly.DefaultFallbackDelay+time.Millisecond))
		release(t, first)
	})
}

// A waiter that avoids a host was left out when the last dial that was promised to the queue ended
// there.
func TestAWaiterThatAvoidsAHostIsDialledForWhenItsDialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy: stubborn{},
			PoolConfig:     pooly.PoolConfig{MaxConns: 2},
		}, "a")
		other := get(t, s)
		var took time.Duration
		done := make(chan error, 1)
		again := make(chan struct{})
		go func() {
			ran := false
			done <- s.Do(t.Context(), func(c *pooly.Conn) error {
				if !ran {
					ran = true
					<-again
					took = -time.Duration(time.Now().UnixNano())
					return pooly.Retry(errTemporary)
				}
				took += time.Duration(time.Now().UnixNano())
				if c.Address() != "b" {
					return fmt.Errorf("run again on %s", c.Address())
				}
				return nil
			})
		}()
		synctest.Wait()
		s.Add("b")
		var atB []*pooly.Conn
		for range 2 {
			atB = append(atB, get(t, s)) // a is full
		}
		d.slow("a", 50*time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, _ = s.GetConnContext(ctx) }()
		synctest.Wait()
		_ = other.Release(errFatal, pooly.HostDown) // a dials for that caller,
		synctest.Wait()
		cancel() // who leaves
		synctest.Wait()
		close(again) // Do wants another host
		synctest.Wait()
		_ = atB[0].Release(errFatal, pooly.HostDown) // there is room at b
		require.NoError(t, <-done)
		require.LessOrEqual(t, took, 50*time.Millisecond)
		release(t, atB[1])
	})
}

// Neither for its own connection, nor for those that were idle at a host that it has ejected. But Close waits for both.
func TestReleaseWaitsForNoConnectionToBeClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PrespawnConns:       -1,
			ConsecutiveFailures: 1,
			BanditStrategy:      stubborn{},
			PoolConfig:          pooly.PoolConfig{Driver: slowToClose(newFakeDriver(), 500*time.Millisecond)},
		})
		s.Add("a")
		s.Add("b")
		c, idle := get(t, s), get(t, s)
		release(t, idle)
		began := time.Now()
		_ = c.Release(errFatal, pooly.HostDown)
		require.Zero(t, time.Since(began))
		require.Equal(t, 2, s.Stats().Open, "they have their places until they are closed")
		require.NoError(t, s.Close())
		require.Equal(t, 500*time.Millisecond, time.Since(began))
	})
}

// A host that is removed at the moment when it is ejected was taken from the count of those up
// twice. The tag yield makes that moment likely.
func TestRemoveOfAHostThatIsBeingEjectedKeepsTheCountOfHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{ConsecutiveFailures: 1, BanditStrategy: stubborn{}}, "a", "b")
		for range 2000 {
			c := get(t, s)
			go func() { _ = c.Release(errFatal, pooly.HostDown) }()
			go s.Remove(c.Address())
			synctest.Wait()
			in := pooly.LookInside(s)
			require.Empty(t, in.Fault)
			s.SetHosts("a", "b")
			time.Sleep(time.Second)
			synctest.Wait()
		}
	})
}

// DialContext closes an idle connection of GetConn's callers for its place. The driver's Close was
// waited for whatever the context said.
func TestDialContextHeedsItsContextWhileTheDriverIsSlowToClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{
				Driver: slowToClose(newFakeDriver(), 500*time.Millisecond), MaxConns: 1,
			},
			PrespawnConns: -1,
		})
		defer s.Close()
		s.Add("a")
		require.NoError(t, get(t, s).Release(nil, pooly.HostUp))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := s.DialContext(ctx, "", "")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}
