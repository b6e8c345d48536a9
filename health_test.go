package pooly_test

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A lease remembers which restoration it came after. With eight bits for it, one that was out for
// 256 of them passed for new, and ejected the host.
func TestLeaseFromBeforeManyRestorationsTellsNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy:      inOrder{"bad", "good"},
			ConsecutiveFailures: 1,
			MaxEjectionTime:     pooly.DefaultBaseEjectionTime,
		}, "bad", "good")
		old := get(t, s)
		for i := range 256 {
			require.Equal(t, 1, eject(t, s, "bad"), "%d", i)
			time.Sleep(pooly.DefaultBaseEjectionTime)
			synctest.Wait()
			require.False(t, hostStats(t, s, "bad").Ejected)
		}
		require.NoError(t, old.Release(errFatal, pooly.HostUp))
		require.False(t, hostStats(t, s, "bad").Ejected)
		require.EqualValues(t, 256, hostStats(t, s, "bad").Ejections)
	})
}

// What a host held idle when it was ejected is as suspect as what failed: it may lead to a server
// that is gone.
func TestIdleConnectionsOfAnEjectedHostAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "good", "bad")
		idle(t, s, 20)
		eject(t, s, "bad")
		synctest.Wait()
		require.Zero(t, d.host("bad").open)
		require.Equal(t, 10, d.host("good").open)
		time.Sleep(time.Second)
		require.Equal(t, 1, d.host("bad").open, "the probe's is a new one")

		// Also where a dial fails. Nothing is leased, so nothing speaks for the host.
		s, d = newService(t, pooly.ServiceConfig{}, "a")
		c := get(t, s)
		d.slow("a", 100*time.Millisecond)
		d.refuse("a")
		served := make(chan struct{})
		go func() {
			defer close(served)
			if c, err := s.GetConn(); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}()
		synctest.Wait()
		release(t, c)
		<-served
		require.Equal(t, 1, s.Stats().Idle)
		time.Sleep(150 * time.Millisecond)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.Zero(t, s.Stats().Open)
	})
}

// A host that failed its requests and then does not even connect is down: the reason that is shown
// is the latest.
func TestEjectedHostThatNoLongerConnectsSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "good", "bad")
		eject(t, s, "bad")
		require.ErrorIs(t, hostStats(t, s, "bad").Cause, errFatal)
		d.refuse("bad")
		time.Sleep(pooly.DefaultBaseEjectionTime)
		synctest.Wait()
		require.ErrorIs(t, hostStats(t, s, "bad").Cause, syscall.ECONNREFUSED)
	})
}
