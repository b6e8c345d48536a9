package pooly

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/3XX0/pooly/internal/decay"
	"github.com/stretchr/testify/require"
)

// hostFigures are what the strategies that weigh load see of a host.
type hostFigures struct {
	inUse          int
	latency        time.Duration
	perLease       time.Duration // what each lease that is out adds to the expected latency
	trials, scores float64       // how many, and their mean
}

func armsOf(figures ...hostFigures) []Arm {
	s := &cluster{group: newGroup(PoolConfig{}.withDefaults(), nil)}
	s.usualScore.Store(HostUp)
	arms := make([]Arm, len(figures))
	for i, f := range figures {
		h := &host{cluster: s}
		h.group = s.group
		h.load.Store(int32(f.inUse))
		h.latency.Store(int64(f.latency))
		h.average.Store(int64(f.latency))
		h.curve.line.Store(uint64(math.Float32bits(float32(f.perLease))))
		arms[i] = Arm{Score: decay.NoTrials, Trials: f.trials, mean: f.scores,
			recent: decay.Segment{Trials: f.trials, Sum: f.trials * f.scores}, host: h, cluster: s}
	}
	return arms
}

func sharesOf(b Bandit, arms []Arm) []float64 {
	const n = 60_000
	rng := rand.New(rand.NewPCG(1, 2))
	p := b.NewPicker(arms)
	s := make([]float64, len(arms))
	for range n {
		s[p.Pick(rng)] += 1.0 / n
	}
	return s
}

func requireShares(t *testing.T, want, got []float64) {
	t.Helper()
	for i := range want {
		require.InDelta(t, want[i], got[i], 0.01, "arm %d: want %v, got %v", i, want, got)
	}
}

func TestPowerOfTwoPicksTheLessLoadedOfTwo(t *testing.T) {
	arms := armsOf(hostFigures{inUse: 1}, hostFigures{inUse: 2}, hostFigures{inUse: 3}, hostFigures{inUse: 4})
	requireShares(t, []float64{3. / 6, 2. / 6, 1. / 6, 0}, sharesOf(NewPowerOfTwo(), arms))
}

func TestPowerOfTwoReadsLiveLoads(t *testing.T) {
	arms := armsOf(hostFigures{}, hostFigures{})
	p := NewPowerOfTwo().NewPicker(arms)
	arms[0].host.load.Store(1)
	require.Equal(t, 1, p.Pick(rand.New(rand.NewPCG(1, 2))))
}

func TestPowerOfTwoWeighsLoadByScore(t *testing.T) {
	arms := armsOf(hostFigures{inUse: 1, trials: 1e9, scores: 0.4}, hostFigures{inUse: 3, trials: 1e9, scores: 1})
	requireShares(t, []float64{0, 1}, sharesOf(NewPowerOfTwo(), arms))
}

func TestLoadStrategiesAvoidFailingHosts(t *testing.T) {
	// It fails fast, so it is idle and its leases are short.
	const fast = 20 * time.Microsecond
	arms := armsOf(
		hostFigures{inUse: 0, latency: fast, perLease: fast, trials: 1000, scores: 0},
		hostFigures{inUse: 9, latency: time.Millisecond, perLease: time.Millisecond, trials: 1000, scores: 1},
	)
	for _, b := range []Bandit{NewPowerOfTwo(), NewPeakEWMA(2), NewLeastLatency(), NewHotCold(2, 0.84), NewHotCold(2, 0)} {
		requireShares(t, []float64{0, 1}, sharesOf(b, arms))
	}
}

func TestLoadStrategiesTryHostsOfWhichNothingIsKnown(t *testing.T) {
	arms := armsOf(
		hostFigures{},
		hostFigures{latency: time.Millisecond, perLease: time.Millisecond, trials: 1000, scores: 1},
	)
	for _, b := range []Bandit{NewPeakEWMA(2), NewHotCold(2, 0.84)} {
		requireShares(t, []float64{1, 0}, sharesOf(b, arms))
	}
	requireShares(t, []float64{0.5, 0.5}, sharesOf(NewPowerOfTwo(), arms))

	arms[0].host.load.Store(1)
	for _, b := range []Bandit{NewPeakEWMA(2), NewHotCold(2, 1)} {
		requireShares(t, []float64{0, 1}, sharesOf(b, arms))
	}
}

// Callers with little time made a slow host look fast.
func TestExchangeThatHadTooLittleTimeDoesNotShortenTheLatency(t *testing.T) {
	h := armsOf(hostFigures{})[0].host
	h.cluster.timing.Store(true)
	h.cluster.fitting.Store(true)
	const usual = 100 * time.Millisecond
	h.timeLocked(&conn{load: 1}, outcome{rated: true, score: 1}, usual, time.Second)
	for range 10 {
		h.timeLocked(&conn{load: 1}, outcome{timeout: true}, usual/10, time.Second)
	}
	require.InDelta(t, usual, h.average.Load(), 1e3)
	for range 10 {
		h.timeLocked(&conn{load: 1}, outcome{timeout: true}, 3*usual, time.Second)
	}
	require.Greater(t, h.average.Load(), int64(2*usual), "it took that long at least")
}

// It became NaN, which looked like no time at all to the first strategy that asked.
func TestLoadCurveOfAHostThatFailedBeforeAnyoneAskedIsEmpty(t *testing.T) {
	arms := armsOf(hostFigures{})
	h := arms[0].host
	h.cluster.timing.Store(true)
	h.timeLocked(&conn{load: 1}, outcome{rated: true}, time.Millisecond, time.Second)
	require.Positive(t, h.latency.Load(), "it looks slow")
	h.cluster.slotLength = time.Second
	h.record(moment{now: 2 * time.Second, fade: 1})
	require.Zero(t, arms[0].ExpectedLatency())
	require.Zero(t, h.average.Load())
}

func TestPeakEWMAPicksTheLowestLatencyTimesLoad(t *testing.T) {
	arms := armsOf(
		hostFigures{inUse: 0, latency: 50 * time.Millisecond}, // 50
		hostFigures{inUse: 3, latency: 10 * time.Millisecond}, // 40
		hostFigures{inUse: 9, latency: 3 * time.Millisecond},  // 30
	)
	requireShares(t, []float64{0, 1. / 3, 2. / 3}, sharesOf(NewPeakEWMA(2), arms))
	requireShares(t, []float64{0, 0, 1}, sharesOf(NewPeakEWMA(5), arms))
}

func TestHotColdPrefersColdHostsThenLatency(t *testing.T) {
	arms := armsOf(
		hostFigures{inUse: 9, perLease: 1 * time.Millisecond}, // hot, and the fastest: 10 ms
		hostFigures{inUse: 2, perLease: 20 * time.Millisecond},
		hostFigures{inUse: 5, perLease: 5 * time.Millisecond},
		hostFigures{inUse: 1, perLease: 50 * time.Millisecond},
	)
	requireShares(t, []float64{0, 0, 1, 0}, sharesOf(NewHotCold(4, 0.84), arms))
	requireShares(t, []float64{0, 2. / 6, 3. / 6, 1. / 6}, sharesOf(NewHotCold(2, 0.84), arms))
	requireShares(t, []float64{1, 0, 0, 0}, sharesOf(NewHotCold(4, 1), arms))
	requireShares(t, []float64{0, 0, 0, 1}, sharesOf(NewHotCold(4, 0), arms))
}

func TestHotColdPicksTheLeastLoadedIfAllAreHot(t *testing.T) {
	arms := armsOf(hostFigures{}, hostFigures{}, hostFigures{})
	p := NewHotCold(3, 0.5).NewPicker(arms)
	for i, inUse := range []int32{4, 2, 3} {
		arms[i].host.load.Store(inUse)
		arms[i].host.curve.line.Store(uint64(math.Float32bits(float32(1000 * (i + 1)))))
	}
	require.Equal(t, 1, p.Pick(rand.New(rand.NewPCG(1, 2))))
}

func TestPicksDoNotAllocate(t *testing.T) {
	arms := armsOf(make([]hostFigures, 20)...)
	rng := rand.New(rand.NewPCG(1, 2))
	for _, b := range []Bandit{
		NewThompson(), NewUCB(1), NewWeightedRoundRobin(), NewPowerOfTwo(), NewPeakEWMA(5), NewHotCold(5, 0.84),
	} {
		p := b.NewPicker(arms)
		require.Zero(t, testing.AllocsPerRun(100, func() { p.Pick(rng) }), "%T", b)
	}
}

func TestLoadCurveTellsWhatALeaseCostsAtAnyLoad(t *testing.T) {
	for name, law := range map[string]func(load int) time.Duration{
		"a queue":                 func(load int) time.Duration { return time.Duration(load) * 10 * time.Millisecond },
		"a queue and a way to it": func(load int) time.Duration { return time.Duration(load+5) * 10 * time.Millisecond },
		"no queue":                func(int) time.Duration { return 10 * time.Millisecond },
	} {
		var c loadCurve
		for i := range 1000 {
			load := 1 + i*7%10
			c.observeLocked(load, law(load), time.Duration(i)*10*time.Millisecond)
		}
		for load := 1; load <= 10; load++ {
			require.InEpsilon(t, law(load), c.latency(load), 0.15, "%s: at %d", name, load)
		}
	}
}

func TestLoadCurveOfOneLoadIsAQueue(t *testing.T) {
	var c loadCurve
	require.Zero(t, c.latency(1))
	for i := range 100 {
		c.observeLocked(4, 40*time.Millisecond, time.Duration(i)*10*time.Millisecond)
	}
	require.InEpsilon(t, 20*time.Millisecond, c.latency(2), 0.01)
	require.InEpsilon(t, 80*time.Millisecond, c.latency(8), 0.01)
}

func TestLoadCurveFollowsAChangeAndForgets(t *testing.T) {
	var c loadCurve
	now := time.Duration(0)
	observe := func(n int, perLease time.Duration) {
		for i := range n {
			now += 10 * time.Millisecond
			c.observeLocked(1+i%3, time.Duration(1+i%3)*perLease, now)
		}
	}
	observe(500, time.Millisecond)
	observe(300, 100*time.Millisecond)
	require.InEpsilon(t, 100*time.Millisecond, c.latency(1), 0.1)
	was := c.latency(1)
	c.fadeLocked(now+100*time.Millisecond, 0.5)
	require.Equal(t, was, c.latency(1), "it was used since the last refresh")
	c.fadeLocked(now+200*time.Millisecond, 0.5)
	require.InEpsilon(t, was/2, c.latency(1), 0.01)
}

func TestLoadCurveStaysFinite(t *testing.T) {
	var c loadCurve
	for i := range 100 {
		c.observeLocked(1+i%2*math.MaxInt32, time.Duration(i%3)*(math.MaxInt64/2), time.Duration(i))
		require.GreaterOrEqual(t, c.latency(math.MaxInt32), time.Duration(0))
	}
}
