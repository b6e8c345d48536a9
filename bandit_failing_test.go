package pooly_test

import (
	"context"
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

// blind are the strategies that look at no score: a host that fails keeps its share, unless it is
// ejected.
var blind = []string{"RoundRobin"}

// weighLoad are the strategies that weigh load: a host that fails fast has none, so it could
// attract traffic.
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

// One of ten hosts fails a fifth of its requests, as fast as it serves the others.
func TestAHostThatFailsAFifthGetsLess(t *testing.T) {
	for _, s := range strategies {
		if slices.Contains(blind, s.name) || s.name == "WeightedRoundRobin" { // which gives it four fifths of its share
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			w := newTraffic(t, pooly.ServiceConfig{BanditStrategy: s.make()}, 10, 20, 5*time.Millisecond)
			w.reply = func(host int, _ time.Duration, rng *rand.Rand) reply {
				if host == 0 && rng.Float64() < 0.2 {
					return reply{20 * time.Millisecond, nil, pooly.HostDown}
				}
				return reply{20 * time.Millisecond, nil, pooly.HostUp}
			}
			w.run(30 * time.Second)
			share := w.share(0, 5*time.Second, 30*time.Second)
			t.Logf("%-20s share %5.2f %%, errors %5.3f %%", s.name, 100*share, 20*share)
			w.close()
			require.LessOrEqual(t, share, 0.05, s.name)
		})
	}
}

// All of ten hosts fail 2 % of their requests. Those that weigh load spread the traffic as if none
// did.
func TestFailuresThatAllHostsShareChangeNothing(t *testing.T) {
	for _, s := range strategies {
		if !slices.Contains(weighLoad, s.name) {
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			var most [2]float64
			for i, rate := range []float64{0, 0.02} {
				w := newTraffic(t, pooly.ServiceConfig{BanditStrategy: s.make()}, 10, 20, 5*time.Millisecond)
				w.reply = func(_ int, _ time.Duration, rng *rand.Rand) reply {
					took := time.Duration((0.5 + rng.Float64()) * float64(20*time.Millisecond))
					if rng.Float64() < rate {
						return reply{took, nil, pooly.HostDown}
					}
					return reply{took, nil, pooly.HostUp}
				}
				w.run(30 * time.Second)
				for host := range 10 {
					most[i] = max(most[i], w.share(host, 5*time.Second, 30*time.Second))
				}
				w.close()
			}
			t.Logf("%-20s the most used host has %5.2f %% without failures, %5.2f %% with", s.name, 100*most[0], 100*most[1])
			require.InDelta(t, most[0], most[1], 0.04, s.name)
		})
	}
}

// What is released with an error is no success, whatever the score says.
func TestReleaseWithATemporaryErrorIsNoSuccess(t *testing.T) {
	for _, tt := range []struct {
		name          string
		err           error
		score         float64
		want, counted float64
	}{
		{"success", nil, pooly.HostUp, 1, 1},
		{"an error rated up", errTemporary, pooly.HostUp, 0, 1},
		{"an error rated by degrees", errTemporary, 0.8, 0.8, 1},
		{"cancelled by the caller", context.Canceled, pooly.HostUp, 0.5, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{}, "a")
				require.NoError(t, get(t, s).Release(tt.err, tt.score))
				score, trials := mean(t, s, "a")
				require.InDelta(t, tt.want, score, 1e-9)
				require.InDelta(t, tt.counted, trials, 1e-9)
			})
		})
	}
}

func TestZeroValuesOfStrategiesWork(t *testing.T) {
	for _, b := range []pooly.Bandit{
		&pooly.RoundRobin{}, &pooly.WeightedRoundRobin{}, &pooly.SoftMax{}, &pooly.EpsilonGreedy{}, &pooly.Thompson{},
		&pooly.UCB{}, &pooly.PowerOfTwo{}, &pooly.PeakEWMA{}, &pooly.HotCold{}, &pooly.LeastLatency{},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a", "b", "c")
			for range 300 {
				release(t, get(t, s))
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

// Many leases are out at each host when one begins to fail at once. Until the scores are computed
// anew, only its latency keeps traffic away.
func TestAnEmptyHostThatFailsFastIsNoBargainBesideFullOnes(t *testing.T) {
	for name, strategy := range map[string]pooly.Bandit{
		"least latency": pooly.NewLeastLatency(),
		"peak EWMA":     pooly.NewPeakEWMA(5),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTraffic(t, pooly.ServiceConfig{
					BanditStrategy:      strategy,
					ConsecutiveFailures: -1,
				}, 5, 100, time.Microsecond)
				const fails = 3 * time.Second
				w.reply = func(host int, at time.Duration, _ *rand.Rand) reply {
					if host == 0 && at > fails {
						return reply{100 * time.Microsecond, errTemporary, pooly.HostDown}
					}
					return reply{20 * time.Millisecond, nil, pooly.HostUp}
				}
				w.run(fails + tenth)
				share := w.share(0, fails, fails+tenth)
				w.close()
				require.Less(t, share, 0.25, "a fair share is 0.2")
			})
		})
	}
}

// A host stops to answer, is gone, and comes back. What its last requests took must not count when
// it is back.
func TestRestartedHostHasItsShareBackAtOnce(t *testing.T) {
	const (
		hangs = 10 * time.Second
		gone  = 14 * time.Second
		back  = 15 * time.Second
		end   = 25 * time.Second
	)
	for _, s := range strategies {
		if !slices.Contains(weighLoad, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := pooly.ServiceConfig{BanditStrategy: s.make()}
				w := newTraffic(t, config, 3, 8, time.Millisecond)
				driver := w.service.Driver().(*fakeDriver)
				w.reply = func(host int, at time.Duration, _ *rand.Rand) reply {
					if host == 0 && at >= hangs && at < back {
						return reply{3 * time.Second, errFatal, pooly.HostDown}
					}
					return reply{time.Millisecond, nil, pooly.HostUp}
				}
				w.run(gone)
				driver.refuse("0")
				// The strategy may have kept away from it before.
				for !hostStats(t, w.service, "0").Ejected {
					w.service.Report("0", errFatal)
				}
				w.run(back)
				driver.accept("0")
				w.run(end)
				took := w.reaches(0, 0.8/3, back, end)
				t.Logf("%-20s %v", s.name, took)
				require.LessOrEqual(t, took, 2*time.Second)
				w.close()
			})
		})
	}
}
