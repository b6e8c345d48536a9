package pooly_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Two of six hosts are three times as fast. Learning strategies find them, whatever the scale. A
// third one fails at once.
func TestLatencyScoreWithoutTargetFindsFastHosts(t *testing.T) {
	for _, scale := range []time.Duration{time.Millisecond, time.Second} {
		for _, strategy := range []pooly.Bandit{pooly.NewSoftMax(0.1), pooly.NewThompson()} {
			synctest.Test(t, func(t *testing.T) {
				w := newTraffic(t, pooly.ServiceConfig{
					BanditStrategy: strategy, ConsecutiveFailures: -1, DecayDuration: 60 * 60 * scale,
				}, 6, 20, scale)
				w.reply = func(host int, _ time.Duration, rng *rand.Rand) reply {
					took := time.Duration((0.5 + rng.Float64()) * float64(scale))
					switch host {
					case 0, 1:
						took /= 3
					case 2:
						return reply{scale / 100, errTemporary, pooly.HostDown}
					}
					return reply{took, nil, w.service.LatencyScore(took)}
				}
				end := 1000 * scale
				if scale == time.Millisecond {
					end = 5 * time.Second
				}
				w.run(end)
				fast := w.share(0, end/2, end) + w.share(1, end/2, end)
				require.Greater(t, fast, 0.6, "fair is 0.33")
				require.Less(t, w.share(2, end/2, end), 0.05)
				w.close()
			})
		}
	}
}

func TestLatencyScoreWithoutTargetIsOfTheUsualLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a", "b", "c")
		require.Equal(t, 0.5, s.LatencyScore(time.Hour))
		for range 300 {
			c := get(t, s)
			time.Sleep(20 * time.Millisecond)
			release(t, c)
		}
		require.InDelta(t, 0.5, s.LatencyScore(20*time.Millisecond), 0.02)
		require.InDelta(t, 0.75, s.LatencyScore(20*time.Millisecond/3), 0.02)
		require.InDelta(t, 0.25, s.LatencyScore(60*time.Millisecond), 0.02)
	})
}
