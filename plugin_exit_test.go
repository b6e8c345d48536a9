package pooly_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// exitingBandit ends the goroutine in which it is asked first.
type exitingBandit struct {
	pooly.Bandit
	exits bool
}

func (b *exitingBandit) NewPicker(arms []pooly.Arm) pooly.Picker {
	if b.exits {
		b.exits = false
		runtime.Goexit()
	}
	return b.Bandit.NewPicker(arms)
}

func TestStrategyThatExitsItsGoroutineIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: &exitingBandit{pooly.NewRoundRobin(), true},
		}, "a", "b")
		_, err := s.GetConn()
		require.ErrorContains(t, err, "ended the goroutine")
		time.Sleep(time.Second)
		s.Add("c")
		time.Sleep(time.Second)
		began := time.Now()
		release(t, get(t, s))
		require.Zero(t, time.Since(began))
		require.NotNil(t, s.Shares())
	})
}

// exitingComputer ends the goroutine in which it is asked for the last of so many times.
type exitingComputer struct{ left int }

func (c *exitingComputer) Compute(score float64) float64 {
	if c.left > 0 {
		c.left--
		if c.left == 0 {
			runtime.Goexit()
		}
	}
	return score
}

func TestCalculatorThatExitsItsGoroutineIsAskedAgain(t *testing.T) {
	for left := 2; left < 6; left++ {
		synctest.Test(t, func(t *testing.T) {
			c := &exitingComputer{left}
			s, _ := newService(t, pooly.ServiceConfig{ScoreCalculator: c}, "a")
			for range 20 {
				if l, err := s.GetConn(); err == nil {
					release(t, l)
				}
				time.Sleep(time.Second)
			}
			require.Zero(t, c.left)
			began := time.Now()
			s.Add("b")
			release(t, get(t, s))
			require.Zero(t, time.Since(began))
		})
	}
}
