package pooly_test

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// The more callers fail, the more dials a client must not make: the hosts are to come back.
func TestCallersShareTheDialsWhileAllHostsRefuse(t *testing.T) {
	for _, callers := range []int{1, 10, 100} {
		synctest.Test(t, func(t *testing.T) {
			const hosts, seconds = 10, 10
			s, d := newService(t, pooly.ServiceConfig{})
			var addresses []string
			for i := range hosts {
				addresses = append(addresses, strconv.Itoa(i))
			}
			d.refuse(addresses...)
			s.SetHosts(addresses...)
			began := time.Now()
			var wg sync.WaitGroup
			var failed, slow atomic.Int32
			var last atomic.Int64 // when a call began that failed, the last of all
			for range callers {
				wg.Go(func() {
					for {
						at := time.Now()
						c, err := s.GetConn()
						if err == nil {
							_ = c.Release(nil, pooly.HostUp)
							return
						}
						if errors.Is(err, pooly.ErrPoolClosed) {
							return // the test has failed
						}
						failed.Add(1)
						if time.Since(at) > 3*pooly.DefaultRetryDelay {
							slow.Add(1)
						}
						last.Store(int64(time.Since(began)))
					}
				})
			}
			time.Sleep(seconds * time.Second)
			dials := 0
			for _, a := range addresses {
				dials += d.host(a).dials
			}
			rounds := int(seconds * time.Second / pooly.DefaultRetryDelay)
			require.LessOrEqual(t, dials, hosts*(rounds+seconds*5), "%d callers", callers) // some by probes
			if callers == 100 {
				require.LessOrEqual(t, dials, int(failed.Load()))
			}
			require.Zero(t, slow.Load())

			d.accept("3")
			back := time.Now()
			wg.Wait()
			require.LessOrEqual(t, time.Since(back), pooly.DefaultRetryDelay)
		})
	}
}

// Callers who try again at once must not set the pace of the dials.
func TestDialsForFailingCallersKeepRetryDelayApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{GetAttempts: 1, MaxEjectionTime: time.Hour, BaseEjectionTime: time.Hour}, "a")
		d.refuse("a")
		for range 1000 {
			_, err := s.GetConn()
			require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		}
		at := d.host("a").at
		require.LessOrEqual(t, len(at), 1000)
		for i := range len(at) - 1 {
			require.GreaterOrEqual(t, at[i+1].Sub(at[i]), pooly.DefaultRetryDelay)
		}
		time.Sleep(time.Minute)
		d.accept("a")
		began := time.Now()
		release(t, get(t, s))
		require.Zero(t, time.Since(began), "failures of long ago tell nothing")
	})
}

// One host swallows connection requests. The others are dialled again all the same.
func TestBlackHoleDoesNotKeepOthersFromBeingDialledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{MaxEjectionTime: time.Hour, BaseEjectionTime: time.Hour}, "hole", "down")
		d.refuse("hole", "down")
		_, err := s.GetConn()
		require.Error(t, err)
		time.Sleep(time.Second)
		dials := d.host("hole").dials
		d.slow("hole", time.Hour)
		served := make(chan *pooly.Conn)
		go func() {
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
			}
			served <- c
		}()
		time.Sleep(time.Second)
		d.accept("down")
		began := time.Now()
		c := <-served
		require.Equal(t, "down", c.Address())
		require.LessOrEqual(t, time.Since(began), pooly.DefaultFallbackDelay)
		require.Equal(t, dials+1, d.host("hole").dials, "one at a time")
		release(t, c)
	})
}

// A client of a thousand hosts that are all down must not dial them all at once.
func TestFewHostsAreDialledAtOnceWhileAllAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PrespawnConns: 1, BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour,
		})
		addresses := names(100)
		d.refuse(addresses...)
		s.SetHosts(addresses...)
		time.Sleep(time.Minute)
		for _, a := range addresses {
			require.True(t, hostStats(t, s, a).Ejected)
			d.slow(a, 50*time.Millisecond)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = s.GetConn()
		}()
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 64, s.Stats().Dialing)
		<-ended
	})
}

// Who comes in the pause between two rounds must not wait for one round more than those who were
// there.
func TestCallerWhoComesBetweenTwoRoundsFailsAfterTheNextOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			GetAttempts:      2,
			BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour,
			PoolConfig: pooly.PoolConfig{RetryDelay: time.Second},
		}, "a")
		d.refuse("a")
		began := time.Now()
		first := make(chan time.Duration, 1)
		go func() {
			_, _ = s.GetConn()
			first <- time.Since(began)
		}()
		time.Sleep(500 * time.Millisecond)
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.Equal(t, 2*time.Second, time.Since(began), "after the rounds at 1 s and 2 s")
		require.Equal(t, time.Second, <-first)
	})
}

// In a round that a host ends by being up, nobody failed. It counted as one of the caller's
// attempts all the same.
func TestRoundThatAHostEndsByBeingUpIsNoAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			GetAttempts:      3,
			BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour,
			PoolConfig: pooly.PoolConfig{RetryDelay: time.Second, MaxConns: 1},
		}, "down", "flaps")
		d.refuse("down", "flaps")
		began := time.Now()
		served, failed := make(chan *pooly.Conn, 2), make(chan error, 2)
		for range 2 {
			go func() {
				if c, err := s.GetConn(); err == nil {
					served <- c
				} else {
					failed <- err
				}
			}()
		}
		time.Sleep(500 * time.Millisecond)
		d.accept("flaps")
		c := <-served
		require.Equal(t, time.Second, time.Since(began), "in the second round")
		d.refuse("flaps")
		require.NoError(t, c.Release(errFatal, pooly.HostUp))
		require.ErrorIs(t, <-failed, pooly.ErrNoHostAvailable)
		require.Equal(t, 2*time.Second, time.Since(began), "after the first, the third and the fourth")
		require.Equal(t, 3, d.host("down").dials)
	})
}
