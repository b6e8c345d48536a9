package pooly_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// lockedIn are the strategies that may keep to the hosts they know while others are as good: those
// by which the best host gets nearly all, and HotCold, which expects a host that had few leases at
// once to become slow with more.
var lockedIn = []string{"Thompson", "UCB", "HotCold"}

// Nine hosts take 20 ms, and a tenth one joins.
func TestAHostThatJoinsIsNeitherFloodedNorForgotten(t *testing.T) {
	const joins, end = 20 * time.Second, 40 * time.Second
	for _, s := range strategies {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTraffic(t, pooly.ServiceConfig{BanditStrategy: s.make()}, 10, 20, 5*time.Millisecond)
				w.reply = func(int, time.Duration, *rand.Rand) reply { return reply{20 * time.Millisecond, nil, pooly.HostUp} }
				w.service.Remove("0")
				w.run(joins)
				w.service.Add("0")
				w.run(end)
				first, later := w.share(0, joins, joins+time.Second), w.share(0, joins+time.Second, end)
				t.Logf("%-20s first second %5.1f %%, later %5.1f %%", s.name, 100*first, 100*later)
				w.close()
				require.LessOrEqual(t, first, 0.3)
				require.Positive(t, later)
				if !slices.Contains(lockedIn, s.name) {
					require.InDelta(t, 0.1, later, 0.03)
				}
			})
		})
	}
}

// Ten hosts take 20 ms. One of them is five times slower for 30 s.
func TestAHostThatWasSlowGetsItsShareBack(t *testing.T) {
	const slow, well, end = 20 * time.Second, 50 * time.Second, 100 * time.Second
	const target = 20 * time.Millisecond
	for _, s := range strategies {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTraffic(t, pooly.ServiceConfig{BanditStrategy: s.make()}, 10, 20, 5*time.Millisecond)
				w.reply = func(host int, at time.Duration, rng *rand.Rand) reply {
					took := time.Duration((0.5 + rng.Float64()) * float64(20*time.Millisecond))
					if host == 0 && at >= slow && at < well {
						took *= 5
					}
					score := pooly.HostUp
					if !slices.Contains(weighLoad, s.name) {
						score = pooly.LatencyScore(took, target)
					}
					return reply{took, nil, score}
				}
				w.run(end)
				before := w.share(0, slow-10*time.Second, slow)
				first := w.share(0, slow, slow+time.Second)
				later := w.share(0, slow+5*time.Second, well)
				back := w.reaches(0, 0.08, well, end)
				t.Logf("%-20s before %5.1f %%, first slow second %5.1f %%, after five %5.2f %%; back after %v",
					s.name, 100*before, 100*first, 100*later, back)
				w.close()
				if slices.Contains(weighLoad, s.name) {
					require.LessOrEqual(t, first, 0.1)
					require.LessOrEqual(t, later, 0.05)
					if !slices.Contains(lockedIn, s.name) {
						require.LessOrEqual(t, back, 15*time.Second)
					}
				}
			})
		})
	}
}
