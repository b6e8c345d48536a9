package pooly_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// observer is a strategy that keeps what it was told last, and takes its time for it.
type observer struct {
	delay time.Duration

	mu    sync.Mutex // guards the fields below
	arms  []pooly.Arm
	calls int
}

func (o *observer) NewPicker(arms []pooly.Arm) pooly.Picker {
	time.Sleep(o.delay)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	o.arms = arms
	return uniform(len(arms))
}

func (o *observer) told() (arms []pooly.Arm, calls int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.arms, o.calls
}

type uniform int

func (n uniform) Pick(rng *rand.Rand) int { return rng.IntN(int(n)) }

// Whatever happens between two refreshes, the strategy goes by the figures that Stats tells.
func TestStrategiesGoByTheScoresOfStats(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			const hosts = 20
			rng := rand.New(rand.NewPCG(seed, 0))
			told := new(observer)
			s, d := newService(t, pooly.ServiceConfig{BanditStrategy: told, ConsecutiveFailures: 1})
			for i := range hosts {
				s.Add(strconv.Itoa(i))
			}
			for range 300 {
				switch address := strconv.Itoa(rng.IntN(hosts)); rng.IntN(20) {
				case 0:
					s.Add(address)
				case 1:
					s.Remove(address)
				case 2:
					d.refuse(address)
				case 3:
					d.accept(address)
				case 4:
					time.Sleep(time.Duration(rng.Int64N(int64(3 * slot))))
				case 5:
					if c, err := s.GetConn(); err == nil {
						require.NoError(t, c.Release(errFatal, 0)) // ejects
					}
				default:
					if c, err := s.GetConn(); err == nil {
						require.NoError(t, c.Release(nil, rng.Float64()))
					}
				}
				if rng.IntN(10) > 0 {
					continue
				}
				time.Sleep(pooly.DefaultMemoizeScoreDuration)
				synctest.Wait()
				if c, err := s.GetConn(); err == nil { // makes the picker if hosts have changed
					require.Error(t, c.Release(nil, math.NaN())) // rates nothing
				}
				time.Sleep(pooly.DefaultMemoizeScoreDuration)
				synctest.Wait()
				stats := s.Stats() // computes the scores if they are due
				arms, _ := told.told()
				scores := map[string]pooly.HostStats{}
				for _, h := range stats.Hosts {
					if !h.Ejected {
						scores[h.Address] = h
					}
				}
				if len(scores) == 0 {
					continue // the last picker was for hosts that have all been ejected since
				}
				require.Len(t, arms, len(scores))
				for _, a := range arms {
					require.Equal(t, scores[a.Address].Score, a.Score, a.Address)
					require.Equal(t, scores[a.Address].Trials, a.Trials, a.Address)
				}
			}
		})
	}
}

func TestScoresOfEjectedHostsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{ConsecutiveFailures: 1}, "bad", "good")
		d.refuse("bad") // from its first connection on
		c := get(t, s)
		for c.Address() != "bad" {
			release(t, c)
			d.accept("bad")
			time.Sleep(pooly.DefaultMaxEjectionTime)
			c = get(t, s)
		}
		d.refuse("bad")
		require.NoError(t, c.Release(errFatal, 0))
		time.Sleep(slot)
		was := hostStats(t, s, "bad")
		require.True(t, was.Ejected)
		for range 30 {
			rate(t, s, 1)
			time.Sleep(slot)
		}
		require.True(t, hostStats(t, s, "bad").Ejected)
		require.Greater(t, hostStats(t, s, "bad").Score, was.Score)
	})
}

func TestRefreshTakesAQuarterOfAPercentOfTheTimeAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &observer{delay: 10 * time.Millisecond}
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: slow}, "a")
		use := func(d time.Duration) {
			for began := time.Now(); time.Since(began) < d; time.Sleep(10 * time.Millisecond) {
				rate(t, s, 1)
			}
		}
		use(5 * time.Second)
		_, before := slow.told()
		use(20 * time.Second)
		_, after := slow.told()
		require.InDelta(t, 5, after-before, 1)
	})
}

func TestRefreshThatWasHeldUpOnceIsNoReasonToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := new(observer)
		var once sync.Once
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: held,
			ScoreCalculator: computerFunc(func(score float64) float64 {
				if score == 1 {
					once.Do(func() { time.Sleep(time.Second) })
				}
				return score
			}),
		}, "a")
		rate(t, s, 1)
		time.Sleep(2 * time.Second)
		_, before := held.told()
		for range 100 {
			rate(t, s, 1)
			time.Sleep(pooly.DefaultMemoizeScoreDuration / 10)
		}
		_, after := held.told()
		require.InDelta(t, 10, after-before, 2)
	})
}

// A strategy may do with its arms as it likes.
func TestStrategiesThatChangeTheirArmsChangeNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := new(observer)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: vandal{told}}, "a", "b")
		for range 20 {
			rate(t, s, 1)
			time.Sleep(pooly.DefaultMemoizeScoreDuration)
			arms, _ := told.told()
			require.Len(t, arms, 2)
			for _, a := range arms {
				require.Contains(t, []string{"a", "b"}, a.Address)
			}
		}
	})
}

type vandal struct{ told *observer }

func (v vandal) NewPicker(arms []pooly.Arm) pooly.Picker {
	p := v.told.NewPicker(slices.Clone(arms))
	for i := range arms {
		arms[i] = pooly.Arm{Address: "z", Score: -1}
	}
	return p
}

// No release is lost between two refreshes, however they meet: while no slot ends, each counts as
// one trial.
func TestRefreshLosesNoRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts, callers = 40, 8
		told := new(observer)
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy:       told,
			DecayDuration:        24 * time.Hour,
			MemoizeScoreDuration: time.Millisecond,
		})
		for i := range hosts {
			s.Add(strconv.Itoa(i))
		}
		var counts [hosts]atomic.Int64
		var calling sync.WaitGroup
		for i := range callers {
			calling.Go(func() {
				for n := range 3000 {
					c, err := s.GetConn()
					if err != nil || c.Release(nil, 1) != nil {
						t.Error(err)
						return
					}
					if host, err := strconv.Atoi(c.Address()); err == nil {
						counts[host].Add(1)
					}
					if i == 0 && n%100 == 0 { // a change of hosts, in the midst of it
						s.Add("passing")
						s.Remove("passing")
					}
					if n%10 == 0 {
						time.Sleep(100 * time.Microsecond) // so that all go on as the scores are computed
					}
				}
			})
		}
		calling.Wait()
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		for _, h := range s.Stats().Hosts {
			host, _ := strconv.Atoi(h.Address)
			require.EqualValues(t, counts[host].Load(), h.Trials)
		}
		arms, _ := told.told()
		require.Len(t, arms, hosts)
		for _, a := range arms {
			host, _ := strconv.Atoi(a.Address)
			require.EqualValues(t, counts[host].Load(), a.Trials)
		}
	})
}

// A plug-in may release leases while the scores are computed.
func TestRefreshMeetsReleasesOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 20
		var s *pooly.Service
		var within atomic.Bool
		told := new(observer)
		s, _ = newService(t, pooly.ServiceConfig{
			BanditStrategy: told,
			ScoreCalculator: computerFunc(func(score float64) float64 {
				if s != nil && !within.Swap(true) {
					for range 2 * hosts {
						if c, err := s.GetConn(); err == nil {
							_ = c.Release(nil, 1)
						}
					}
					within.Store(false)
				}
				return score
			}),
		})
		for i := range hosts {
			s.Add(strconv.Itoa(i))
		}
		for range 50 {
			rate(t, s, 1)
			time.Sleep(slot / 8)
		}
		within.Store(true) // no more of them
		time.Sleep(pooly.DefaultMemoizeScoreDuration)
		rate(t, s, 1)
		time.Sleep(pooly.DefaultMemoizeScoreDuration)
		synctest.Wait()
		stats := s.Stats()
		arms, _ := told.told()
		for i, a := range arms {
			require.Equal(t, stats.Hosts[i].Trials, a.Trials)
		}
	})
}

func TestStrategyThatFailedOnceIsAskedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		strategy := new(unreliable)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: strategy, DecayDuration: 24 * time.Hour})
		for i := range 20 {
			s.Add(strconv.Itoa(i))
		}
		for range 2 {
			rate(t, s, 1)
			time.Sleep(2*pooly.DefaultMemoizeScoreDuration + time.Millisecond)
		}
		strategy.fails.Store(true)
		_, err := s.GetConn() // the first call after a pause has the scores computed
		require.ErrorContains(t, err, "NewPicker")
		strategy.fails.Store(false)
		time.Sleep(2 * pooly.DefaultMemoizeScoreDuration)
		rate(t, s, 1)
	})
}

type unreliable struct{ fails atomic.Bool }

func (u *unreliable) NewPicker(arms []pooly.Arm) pooly.Picker {
	if u.fails.Load() {
		return nil
	}
	return uniform(len(arms))
}

// When a host is ejected while the scores are computed, the view with these comes too late, and the
// one without that host was made before all were known.
func TestScoresReachTheStrategyThoughAHostWasEjectedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 20
		told := new(observer)
		var computed atomic.Int32
		var eject atomic.Pointer[pooly.Conn] // the lease to end
		s, d := newService(t, pooly.ServiceConfig{
			BanditStrategy:      told,
			DecayDuration:       time.Hour,
			ConsecutiveFailures: 1,
			ScoreCalculator: computerFunc(func(score float64) float64 {
				if c := eject.Load(); computed.Add(1) == hosts/2 && c != nil {
					_ = c.Release(errFatal, 0)
					time.Sleep(time.Millisecond) // meanwhile the view is made anew
				}
				return score
			}),
		})
		pooly.SeedService(s, 4)
		for i := range hosts {
			s.Add(strconv.Itoa(i))
		}
		for range 10 * hosts {
			rate(t, s, 1)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		lease := get(t, s)
		d.refuse(lease.Address())
		computed.Store(0)
		eject.Store(lease)
		time.Sleep(time.Minute) // a slot
		rate(t, s, 1)           // wakes the service
		time.Sleep(3 * pooly.DefaultMemoizeScoreDuration)
		synctest.Wait()
		require.True(t, hostStats(t, s, lease.Address()).Ejected)
		eject.Store(nil)
		rate(t, s, 1)
		time.Sleep(3 * pooly.DefaultMemoizeScoreDuration)
		synctest.Wait()
		arms, _ := told.told()
		require.Len(t, arms, hosts-1)
		for _, a := range arms {
			require.Equal(t, hostStats(t, s, a.Address).Score, a.Score, a.Address)
		}
	})
}

func TestRefreshesDoNotOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most, calls atomic.Int32
		s, _ := newService(t, pooly.ServiceConfig{
			ScoreCalculator: computerFunc(func(score float64) float64 {
				calls.Add(1)
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(pooly.DefaultMemoizeScoreDuration * 5 / 2)
				running.Add(-1)
				return score
			}),
		}, "a")
		for range 100 {
			rate(t, s, 1)
			_ = s.Stats()
			time.Sleep(pooly.DefaultMemoizeScoreDuration / 2)
		}
		require.Greater(t, calls.Load(), int32(1))
		require.EqualValues(t, 1, most.Load())
	})
}
