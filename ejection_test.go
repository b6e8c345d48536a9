package pooly_test

import (
	"log/slog"
	"strings"
	"sync"
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
		served := make(chan *pooly.Conn)
		go func() { // "down" refuses, "up" is full
			c, err := s.GetConn()
			require.NoError(t, err)
			served <- c
		}()
		synctest.Wait()
		require.True(t, hostStats(t, s, "down").Ejected)
		require.Equal(t, 1, s.Stats().Waiting)
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

// syncBuffer is a log that goroutines share.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
