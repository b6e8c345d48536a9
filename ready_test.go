package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func readyService(t *testing.T, addresses ...string) (*pooly.Service, *fakeDriver) {
	return newService(t, pooly.ServiceConfig{Logger: slog.New(slog.DiscardHandler)}, addresses...)
}

func TestReadyDialsAndWaitsForSoManyHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := readyService(t, "a", "b", "c") // nothing is prespawned
		d.slow("b", time.Second)
		d.slow("c", time.Minute)
		began := time.Now()
		require.NoError(t, s.Ready(t.Context(), 0))
		require.NoError(t, s.Ready(t.Context(), 1))
		require.Zero(t, time.Since(began))
		require.NoError(t, s.Ready(t.Context(), 2))
		require.Equal(t, time.Second, time.Since(began))
		require.Equal(t, 2, s.Stats().Idle)
		for range 5 {
			require.NoError(t, s.Ready(t.Context(), 2))
		}
		for _, address := range []string{"a", "b", "c"} {
			require.Equal(t, 1, d.host(address).dials, address)
		}
	})
}

func TestReadyWaitsForHostsThatComeUpOrAreAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := readyService(t)
		failure := make(chan error, 1)
		go func() { failure <- s.Ready(t.Context(), 1) }()
		synctest.Wait()
		s.Add("first")
		require.NoError(t, <-failure)
		s.Remove("first")

		d.refuse("down")
		s.Add("down")
		go func() { failure <- s.Ready(t.Context(), 2) }()
		time.Sleep(time.Minute)
		s.Add("a")
		time.Sleep(time.Minute)
		require.Empty(t, failure)
		d.accept("down")
		began := time.Now()
		require.NoError(t, <-failure)
		require.LessOrEqual(t, time.Since(began), pooly.DefaultMaxEjectionTime)
	})
}

func TestReadyNamesEachHostThatIsNotAndWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := readyService(t, "up", "refuses", "silent")
		d.refuse("refuses")
		d.slow("silent", time.Hour)
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errors.New("start-up took too long"))
		defer cancel()
		err := s.Ready(ctx, 2)
		require.EqualError(t, err, "pooly: service test: 1 of 2 hosts are ready: context deadline exceeded: start-up took too long: "+
			"refuses (connection refused); silent (its first dial has not ended)")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		var failure *pooly.GetConnError
		require.ErrorAs(t, err, &failure)
		require.True(t, failure.Timeout())
		require.Len(t, failure.Attempts, 2)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, s.Ready(ctx, 2), "silent (a dial has had no answer for longer than FallbackDelay")
		require.ErrorContains(t, s.Ready(ctx, 4), "1 of 4 hosts are ready", "there are three")
		require.NoError(t, s.Ready(ctx, 1), "it is ready now, and that is not asked of ctx")
	})
}

func TestReadyWaitsForNoDrainedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := readyService(t, "a", "b")
		require.NoError(t, s.Drain("b"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, s.Ready(ctx, 2), "1 of 2 hosts are ready")
		require.Zero(t, d.host("b").dials)
		require.NoError(t, s.Resume("b"))
		require.NoError(t, s.Ready(t.Context(), 2))
	})
}

// A host that is down again, after it was ready, does not count.
func TestReadyCountsHostsThatAreUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := readyService(t, "a")
		require.NoError(t, s.Ready(t.Context(), 1))
		d.refuse("a")
		s.Report("a", errFatal)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, s.Ready(ctx, 1), "a (connection refused)")
		d.accept("a")
		require.NoError(t, s.Ready(t.Context(), 1))
	})
}

// A thousand dials at the same moment would be too many for some networks.
func TestReadyDialsFewHostsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := readyService(t)
		for i := range 200 {
			d.slow(strconv.Itoa(i), time.Second)
			s.Add(strconv.Itoa(i))
		}
		began := time.Now()
		require.NoError(t, s.Ready(t.Context(), 200))
		require.Equal(t, 4*time.Second, time.Since(began))
	})
}

func TestReadyEndsWithTheServiceAndRefusesWhatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{MaxHosts: 2}, "a", "b", "c")
		require.NoError(t, s.Ready(t.Context(), 2))
		err := s.Ready(t.Context(), 3)
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.ErrorContains(t, err, "Ready of 3 hosts, and MaxHosts is 2")

		s, _ = readyService(t)
		failure := make(chan error, 1)
		go func() { failure <- s.Ready(t.Context(), 1) }()
		synctest.Wait()
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-failure, pooly.ErrPoolClosed)
		require.ErrorIs(t, s.Ready(t.Context(), 1), pooly.ErrPoolClosed)
	})
}

func TestReadyOverRealSockets(t *testing.T) {
	up, down := listen(t, echo), closedPort(t)
	for _, direct := range []bool{false, true} {
		s := pooly.NewService("start", &pooly.ServiceConfig{PrespawnConns: -1, Logger: slog.New(slog.DiscardHandler)})
		s.Add(up)
		if direct {
			require.NoError(t, dial(t, s).Close())
		}
		s.Add(down)
		require.NoError(t, s.Ready(t.Context(), 1))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		err := s.Ready(ctx, 2)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.ErrorContains(t, err, down)
		require.NotContains(t, err.Error(), up)

		l, err := net.Listen("tcp", down)
		require.NoError(t, err)
		require.NoError(t, s.Ready(t.Context(), 2))
		if direct {
			eventually(t, func() bool { return s.Stats().Idle == 0 })
		}
		require.NoError(t, s.Close())
		require.NoError(t, l.Close())
	}
}
