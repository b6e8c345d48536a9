package pooly_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// spy is a strategy that picks the first host and shows the arms it was given last.
type spy struct {
	mu   sync.Mutex
	last []pooly.Arm
}

func (s *spy) NewPicker(arms []pooly.Arm) pooly.Picker {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = arms
	return stubborn{}
}

func (s *spy) arms() []pooly.Arm {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// lease has the service lease n connections at once and release them after d, with a score.
func lease(t *testing.T, s *pooly.Service, n int, d time.Duration, score float64) {
	t.Helper()
	leases := make([]*pooly.Conn, n)
	for i := range leases {
		leases[i] = get(t, s)
	}
	time.Sleep(d)
	for _, c := range leases {
		require.NoError(t, c.Release(nil, score))
	}
}

func TestExpectedLatencyIsThatAtTheCurrentLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(spy)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a")
		lease(t, s, 5, time.Second, 1)
		require.Zero(t, b.arms()[0].ExpectedLatency(), "leases are not timed until a strategy asks")

		for range 50 { // each of n leases lasts n · 10 ms
			lease(t, s, 1, 10*time.Millisecond, 1)
			a := get(t, s)
			b := get(t, s)
			time.Sleep(10 * time.Millisecond)
			release(t, a)
			time.Sleep(10 * time.Millisecond)
			release(t, b)
		}
		require.InDelta(t, 10*time.Millisecond, b.arms()[0].ExpectedLatency(), float64(time.Millisecond))
		c := get(t, s)
		require.InDelta(t, 20*time.Millisecond, b.arms()[0].ExpectedLatency(), float64(time.Millisecond))
		require.Equal(t, 1, b.arms()[0].InUse())
		release(t, c)
	})
}

func TestExpectedLatencyFadesWhileAHostIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(spy)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a", "b")
		for range 3 {
			lease(t, s, 1, time.Second, 1)
			b.arms()[0].ExpectedLatency()
		}
		was := b.arms()[0].ExpectedLatency()
		require.InDelta(t, time.Second, was, 0.2*float64(time.Second))
		s.Remove("b") // the first arm is the same host still
		idle := b.arms()[0]
		s.Add("c")
		for range 100 {
			time.Sleep(time.Second)
			s.Stats()
		}
		require.Less(t, idle.ExpectedLatency(), time.Millisecond)
	})
}

func TestMeanDoesNotDriftWhileAHostIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(spy)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a")
		release(t, get(t, s))
		require.Equal(t, 0.5, b.arms()[0].Mean(), "without trials it is the score")
		lease(t, s, 3, 0, 0.9)
		time.Sleep(30 * time.Second)
		s.Stats()
		get := b.arms()[0]
		require.InDelta(t, (1+3*0.9)/4, get.Mean(), 1e-9)
		require.InDelta(t, 0.5, get.Score, 0.1)
		time.Sleep(time.Minute)
		s.Stats()
		require.Zero(t, b.arms()[0].Trials)
		require.Equal(t, b.arms()[0].Score, b.arms()[0].Mean())
	})
}

func TestMeanPassesThroughTheScoreCalculator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(spy)
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy:  b,
			ScoreCalculator: pooly.NewLinearComputer(0.8),
		}, "a")
		lease(t, s, 3, 0, 0.9)
		time.Sleep(time.Second)
		lease(t, s, 1, 0, 0.9)
		require.InDelta(t, 0.5, b.arms()[0].Mean(), 1e-9)
	})
}
