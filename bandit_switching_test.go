package pooly_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// regretOfSwitching returns how much is lost per 1,000 trials, against the best host in every
// trial. Nine of ten hosts succeed with probability 0.8, one with 0.9, and another one is the best
// after each 3,000 trials.
func regretOfSwitching(t *testing.T, b pooly.Bandit, step time.Duration, switches int, seed uint64) (lost float64) {
	const hosts, phase = 10, 3000
	synctest.Test(t, func(t *testing.T) {
		w := newTraffic(t, pooly.ServiceConfig{BanditStrategy: b}, hosts, 0, 0)
		pooly.SeedService(w.service, seed)
		rng := rand.New(rand.NewPCG(seed, 3))
		best := 0
		for trial := range switches * phase {
			if trial%phase == 0 {
				best = (best + 1 + rng.IntN(hosts-1)) % hosts
			}
			c := get(t, w.service)
			p := 0.8
			if c.Address() == string(rune('0'+best)) {
				p = 0.9
			}
			lost += 0.9 - p
			score := pooly.HostDown
			if rng.Float64() < p {
				score = pooly.HostUp
			}
			require.NoError(t, c.Release(nil, score))
			time.Sleep(step)
		}
	})
	return lost / float64(switches*phase) * 1000
}

// Choosing at random loses 90.
func TestLearningStrategiesFollowHostsThatChange(t *testing.T) {
	steps := []time.Duration{11 * time.Millisecond, 101 * time.Millisecond}
	for _, s := range strategies[1:5] {
		mean := 0.0
		for _, step := range steps {
			for seed := range uint64(2) {
				lost := regretOfSwitching(t, s.make(), step, 10, 1+seed)
				t.Logf("%-15s one trial each %v: %4.1f lost of 1,000", s.name, step, lost)
				mean += lost / 4
			}
		}
		if s.name == "Thompson" || s.name == "UCB" {
			require.LessOrEqual(t, mean, 35.0, s.name)
		}
	}
}
