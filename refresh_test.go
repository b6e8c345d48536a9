package pooly_test

import (
	"math/rand/v2"
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

func TestRefreshComputesTheScoresOfRatedHostsUntilASlotEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts = 100
		var computed atomic.Int32
		s, _ := newService(t, pooly.ServiceConfig{
			ScoreCalculator: computerFunc(func(score float64) float64 { computed.Add(1); return score }),
		})
		for i := range hosts {
			s.Add(strconv.Itoa(i))
		}
		rate(t, s, 1)
		time.Sleep(slot / 4)
		computed.Store(0)
		rate(t, s, 1, 1, 1)
		time.Sleep(slot / 4)
		require.EqualValues(t, 3, computed.Load())
		time.Sleep(slot)
		rate(t, s, 1)
		time.Sleep(slot / 4)
		require.GreaterOrEqual(t, int(computed.Load()), hosts, "of all, when a slot has ended")
	})
}

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
				stats := s.Stats() // computes the scores if they are due
				if c, err := s.GetConn(); err == nil {
					require.NoError(t, c.Release(nil, 1)) // makes the picker if hosts have changed
				}
				synctest.Wait()
				arms, _ := told.told()
				scores := map[string]pooly.HostStats{}
				for _, h := range stats.Hosts {
					if !h.Ejected {
						scores[h.Address] = h
					}
				}
				if len(scores) != len(arms) {
					continue // a host was ejected or restored by the last call
				}
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

func TestRefreshTakesAHundredthOfTheTimeAtMost(t *testing.T) {
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
		require.InDelta(t, 20, after-before, 2)
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
		vandal := new(vandal)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: vandal}, "a", "b")
		for range 20 {
			rate(t, s, 1)
			time.Sleep(pooly.DefaultMemoizeScoreDuration)
			for _, a := range vandal.told {
				require.Contains(t, []string{"a", "b"}, a.Address)
				require.NotEqual(t, -1.0, a.Score)
			}
		}
	})
}

type vandal struct{ told []pooly.Arm }

func (v *vandal) NewPicker(arms []pooly.Arm) pooly.Picker {
	v.told = append([]pooly.Arm(nil), arms...)
	for i := range arms {
		arms[i] = pooly.Arm{Address: "z", Score: -1}
	}
	return uniform(len(arms))
}
