package pooly_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// telling is how a caller tells that a request failed.
type telling struct {
	name  string
	err   error
	score float64
}

var tellings = []telling{
	{"HostDown", nil, pooly.HostDown},
	{"by degrees", nil, 0.2},
	{"temporary error", errTemporary, pooly.HostUp},
}

// crowds are services in use, from busy to rarely used.
var crowds = []struct {
	name    string
	clients int
	pause   time.Duration
}{
	{"800 requests a second", 20, 5 * time.Millisecond},
	{"never two at once", 1, 5 * time.Millisecond},
}

// blind are the strategies that look at no score: a host that fails keeps its share, unless it is ejected.
var blind = []string{"RoundRobin"}

// weighLoad are the strategies that weigh load: a host that fails fast has none, so it could attract traffic.
var weighLoad = []string{"PowerOfTwo", "PeakEWMA", "LeastLatency", "HotCold"}

// Ten hosts take 20 ms. After a while one begins to fail in 0.5 ms, and later it is well again.
func TestNoHostAttractsTrafficByFailing(t *testing.T) {
	const fails, well, end = 15 * time.Second, 45 * time.Second, 52 * time.Second
	for _, crowd := range crowds {
		for _, how := range tellings {
			for _, s := range strategies {
				t.Run(fmt.Sprintf("%s/%s/%s", crowd.name, how.name, s.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newTraffic(t, pooly.ServiceConfig{BanditStrategy: s.make()}, 10, crowd.clients, crowd.pause)
						w.reply = func(host int, at time.Duration, _ *rand.Rand) reply {
							if host == 0 && at >= fails && at < well {
								return reply{500 * time.Microsecond, how.err, how.score}
							}
							return reply{20 * time.Millisecond, nil, pooly.HostUp}
						}
						w.run(end)
						const fair = 0.1
						first := w.share(0, fails, fails+time.Second)
						next := w.share(0, fails+time.Second, fails+5*time.Second)
						later := w.share(0, fails+5*time.Second, well)
						back := w.reaches(0, 0.8*fair, well, end)
						t.Logf("%-20s first second %5.1f %%, to five %5.1f %%, later %5.2f %%; back after %v",
							s.name, 100*first, 100*next, 100*later, back)
						w.close()
						if slices.Contains(blind, s.name) || s.name == "WeightedRoundRobin" && how.score == 0.2 {
							return
						}
						require.LessOrEqual(t, next, fair)
						if crowd.clients > 1 {
							require.LessOrEqual(t, first, fair)
							require.LessOrEqual(t, later, fair/5)
						}
						if slices.Contains(weighLoad, s.name) {
							require.LessOrEqual(t, back, 5*time.Second)
						}
					})
				})
			}
		}
	}
}
