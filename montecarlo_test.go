//go:build montecarlo_simulation

package pooly_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// The simulations put strategies before a real Service, over a network in memory and in virtual time:
//
//	go test -tags montecarlo_simulation -v .
//
// They print what the strategies reach and check what theory says of it. With -out they also draw the figures and
// write the tables; this is how those in docs are made:
//
//	go test -tags montecarlo_simulation -v . -out docs/simulations
//
// What becomes of a whole service in trouble is simulated beside them, in montecarlo_overload*_test.go:
//
//	go test -tags montecarlo_simulation -run MonteCarloOverload -v . -out docs/simulations
var (
	runs    = flag.Int("runs", 1000, "how often to simulate each strategy in each scenario")
	horizon = flag.Int("horizon", usualHorizon, "trials of the shortest scenario; the others have multiples of it")
	seed    = flag.Uint64("seed", 1, "of the random numbers: the same seed gives the same results")
	out     = flag.String("out", "", "the directory for figures and tables; none are written without it")
)

// usualHorizon is that of the classic experiment.
const usualHorizon = 250

// memoryDriver connects to hosts whose addresses are numbers, at once. A connection is its host's number.
type memoryDriver struct{}

func (memoryDriver) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	host, err := strconv.Atoi(address)
	return pooly.NewConn(host), err
}
func (memoryDriver) Close(*pooly.Conn)              {}
func (memoryDriver) TestOnBorrow(*pooly.Conn) error { return nil }
func (memoryDriver) Temporary(error) bool           { return true }

// simulatedService returns a service with hosts numbered from 0, registered in random order so that no strategy
// profits from the place of the best.
func simulatedService(b pooly.Bandit, hosts int, decay time.Duration, seed uint64) *pooly.Service {
	s := pooly.NewService("simulated", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: memoryDriver{}, MaxConns: 1 << 16},
		PrespawnConns:  -1,
		DecayDuration:  decay,
		BanditStrategy: b,
	})
	pooly.SeedService(s, seed)
	for _, host := range rand.New(rand.NewPCG(seed, 1)).Perm(hosts) {
		s.Add(strconv.Itoa(host))
	}
	return s
}

// A contender is a strategy in the simulations.
type contender struct {
	name   string
	family string // those of one family share a figure
	kind   string // those of one kind share a colour
	chief  bool   // whether it represents its kind in figures that compare
	make   func() pooly.Bandit
}

var contenders = []contender{
	{"softmax(0.1)", "softmax", "softmax", true, func() pooly.Bandit { return pooly.NewSoftMax(0.1) }},
	{"softmax(0.5)", "softmax", "softmax", false, func() pooly.Bandit { return pooly.NewSoftMax(0.5) }},
	{"softmax(0.9)", "softmax", "softmax", false, func() pooly.Bandit { return pooly.NewSoftMax(0.9) }},
	{"epsilon-greedy(0.1)", "epsilon", "epsilon", true, func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }},
	{"epsilon-greedy(0.5)", "epsilon", "epsilon", false, func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.5) }},
	{"epsilon-greedy(0.9)", "epsilon", "epsilon", false, func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.9) }},
	{"round-robin", "turns", "roundrobin", true, func() pooly.Bandit { return pooly.NewRoundRobin() }},
	{"weighted round-robin", "turns", "weighted", true, func() pooly.Bandit { return pooly.NewWeightedRoundRobin() }},
	{"Thompson", "confidence", "thompson", true, func() pooly.Bandit { return pooly.NewThompson() }},
	{"UCB(0.5)", "confidence", "ucb", true, func() pooly.Bandit { return pooly.NewUCB(0.5) }},
	{"UCB(√2)", "confidence", "ucb", false, func() pooly.Bandit { return pooly.NewUCB(math.Sqrt2) }},
	{"power of two", "load", "poweroftwo", true, func() pooly.Bandit { return pooly.NewPowerOfTwo() }},
	{"peak EWMA(2)", "load", "peakewma", false, func() pooly.Bandit { return pooly.NewPeakEWMA(2) }},
	{"peak EWMA(5)", "load", "peakewma", true, func() pooly.Bandit { return pooly.NewPeakEWMA(5) }},
	{"hot-cold(5, 0.84)", "load", "hotcold", true, func() pooly.Bandit { return pooly.NewHotCold(5, 0.84) }},
}

// A scenario is a world of hosts that are tried one lease at a time.
type scenario struct {
	name   string
	title  string
	best   string // what the best hosts are called
	hosts  int
	length int           // trials, in horizons
	step   time.Duration // between two trials
	decay  time.Duration // DecayDuration at the default horizon, in proportion at others; 0 is its default
	mean   func(host int, progress float64) float64
	draw   func(rng *rand.Rand, host int, progress float64) (score float64, lasts time.Duration)
}

// The time between two trials.
const (
	perTrial   = pooly.DefaultMemoizeScoreDuration + time.Millisecond    // the scores are computed anew for each trial
	manyTrials = pooly.DefaultMemoizeScoreDuration/10 + time.Millisecond // and here for each tenth
)

// unchanging is the DecayDuration for hosts that never change. At one trial per score, a shorter one would leave
// most of its slots without trials, as they are not in a service with traffic.
const unchanging = time.Hour

// bernoulli makes a scenario's trials succeed or fail with the probability that is their mean.
func bernoulli(s scenario) scenario {
	s.draw = func(rng *rand.Rand, host int, progress float64) (float64, time.Duration) {
		if rng.Float64() < s.mean(host, progress) {
			return pooly.HostUp, 0
		}
		return pooly.HostDown, 0
	}
	return s
}

// lognormal makes a scenario's trials take a time with the given median for each host, and rates them by it.
func lognormal(target time.Duration, median func(host int) time.Duration, s scenario) scenario {
	const sigma = 0.5
	means := make([]float64, s.hosts)
	for host := range means {
		const n = 1000
		for i := range n { // the mean over the quantiles of the distribution
			z := math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/n-1)
			x := float64(median(host)) * math.Exp(sigma*z)
			means[host] += pooly.LatencyScore(time.Duration(x), target) / n
		}
	}
	s.mean = func(host int, _ float64) float64 { return means[host] }
	s.draw = func(rng *rand.Rand, host int, _ float64) (float64, time.Duration) {
		x := time.Duration(float64(median(host)) * math.Exp(sigma*rng.NormFloat64()))
		return pooly.LatencyScore(x, target), x
	}
	return s
}

// The failure scenario's best host is down in this part of the horizon.
const failsAt, returnsAt = 0.5, 0.75

var scenarios = []scenario{
	bernoulli(scenario{
		name: "classic", title: "three hosts that succeed with 0.1, 0.1 and 0.9",
		best: "the best host", hosts: 3, length: 1, step: perTrial, decay: unchanging,
		mean: func(host int, _ float64) float64 { return []float64{0.1, 0.1, 0.9}[host] },
	}),
	bernoulli(scenario{
		name: "hard", title: "nine hosts that succeed with 0.8, one with 0.9",
		best: "the best host", hosts: 10, length: 2, step: manyTrials, decay: unchanging,
		mean: func(host int, _ float64) float64 {
			if host == 0 {
				return 0.9
			}
			return 0.8
		},
	}),
	bernoulli(scenario{
		name: "failure", title: "the best host (0.9; four others 0.4) is down from half to three quarters",
		best: "the best host", hosts: 5, length: 3, step: manyTrials, decay: 2 * time.Second,
		mean: func(host int, progress float64) float64 {
			switch {
			case host != 0:
				return 0.4
			case progress >= failsAt && progress < returnsAt:
				return 0
			}
			return 0.9
		},
	}),
	lognormal(4*time.Millisecond, func(host int) time.Duration { return time.Millisecond << host }, scenario{
		name: "latency", title: "five hosts with latencies around 1, 2, 4, 8 and 16 ms, scored against 4 ms",
		best: "the fastest host", hosts: 5, length: 1, step: manyTrials,
	}),
	lognormal(2*time.Millisecond, func(host int) time.Duration {
		if host < 30 {
			return 10 * time.Millisecond
		}
		return time.Millisecond
	}, scenario{
		name: "fleet", title: "100 hosts of which 30 are slow: around 10 ms, the others 1 ms, scored against 2 ms",
		best: "a fast host", hosts: 100, length: 2, step: manyTrials / 4,
	}),
}

// top returns the mean of the best host.
func (s *scenario) top(progress float64) float64 {
	top := 0.0
	for host := range s.hosts {
		top = max(top, s.mean(host, progress))
	}
	return top
}

// A sum collects one figure of each run.
type sum struct{ n, total, squares float64 }

func (s *sum) add(x float64) {
	s.n++
	s.total += x
	s.squares += x * x
}

func (s *sum) merge(t sum) {
	s.n += t.n
	s.total += t.total
	s.squares += t.squares
}

func (s *sum) mean() float64 { return s.total / s.n }

// deviation returns the standard error of the mean.
func (s *sum) deviation() float64 {
	if s.n < 2 {
		return 0
	}
	return math.Sqrt(max(0, s.squares/s.n-s.mean()*s.mean()) / (s.n - 1))
}

// A record is what a strategy reached in a scenario.
type record struct {
	// One for each trial.
	reward []sum
	regret []sum // up to the trial
	best   []sum // 1 if the host was a best one

	overall   sum // mean reward of all trials
	final     sum // mean reward of the last fifth
	finalBest sum // share of the last fifth that went to a best host
}

func newRecord(trials int) *record {
	return &record{reward: make([]sum, trials), regret: make([]sum, trials), best: make([]sum, trials)}
}

func (o *record) merge(p *record) {
	for i := range o.reward {
		o.reward[i].merge(p.reward[i])
		o.regret[i].merge(p.regret[i])
		o.best[i].merge(p.best[i])
	}
	o.overall.merge(p.overall)
	o.final.merge(p.final)
	o.finalBest.merge(p.finalBest)
}

// share returns the share of the best host in a part of the trials.
func (o *record) share(from, to float64) float64 {
	n := float64(len(o.best))
	part := o.best[int(from*n):int(to*n)]
	total := 0.0
	for i := range part {
		total += part[i].mean()
	}
	return total / float64(len(part))
}

func (o *record) totalRegret() *sum { return &o.regret[len(o.regret)-1] }

// play runs a scenario once and adds to o. tops are the means of the best host in each trial. It must be called in
// a bubble.
func (s *scenario) play(t *testing.T, b pooly.Bandit, seed uint64, tops []float64, o *record) {
	service := simulatedService(b, s.hosts, s.decay*time.Duration(*horizon)/usualHorizon, seed)
	defer service.Close()
	rng := rand.New(rand.NewPCG(seed, 2))
	trials := len(o.reward)
	var overall, final, finalBest, regret float64
	last := trials - max(1, trials/5)
	for trial := range trials {
		progress := float64(trial) / float64(trials)
		c, err := service.GetConn()
		if err != nil {
			t.Fatal(err)
		}
		host := c.Interface().(int)
		score, lasts := s.draw(rng, host, progress)
		if lasts > 0 {
			time.Sleep(lasts)
		}
		if err := c.Release(nil, score); err != nil {
			t.Fatal(err)
		}
		time.Sleep(s.step)

		loss, best := tops[trial]-s.mean(host, progress), 0.0
		if loss < 1e-9 {
			best = 1
		}
		regret += loss
		overall += score
		if trial >= last {
			final += score
			finalBest += best
		}
		o.reward[trial].add(score)
		o.regret[trial].add(regret)
		o.best[trial].add(best)
	}
	o.overall.add(overall / float64(trials))
	o.final.add(final / float64(trials-last))
	o.finalBest.add(finalBest / float64(trials-last))
}

// chunks is into how many parts runs are divided. It does not depend on the machine, so that sums come out the
// same on any.
const chunks = 16

// inParallel calls run for each of n runs, with a seed of its own, on as many cores as there are; those of one
// chunk one after the other, in one bubble.
func inParallel(t *testing.T, n int, run func(t *testing.T, chunk int, seed uint64)) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(2000)) // the heap is tiny, so it would be swept all the time
	next := make(chan int, chunks)
	for chunk := range min(n, chunks) {
		next <- chunk
	}
	close(next)
	var workers sync.WaitGroup // a worker whose test fails ends at once
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for chunk := range next {
				synctest.Test(t, func(t *testing.T) {
					for i := chunk; i < n; i += chunks {
						run(t, chunk, *seed<<32+uint64(i))
					}
				})
			}
		})
	}
	workers.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func (s *scenario) simulate(t *testing.T, b func() pooly.Bandit) *record {
	t.Helper()
	trials := s.length * *horizon
	tops := make([]float64, trials)
	for trial := range tops {
		tops[trial] = s.top(float64(trial) / float64(trials))
	}
	parts := make([]*record, chunks)
	for i := range parts {
		parts[i] = newRecord(trials)
	}
	inParallel(t, *runs, func(t *testing.T, chunk int, seed uint64) {
		s.play(t, b(), seed, tops, parts[chunk])
	})
	total := newRecord(trials)
	for _, part := range parts {
		total.merge(part)
	}
	return total
}

// results are the records of one scenario by the contender's name.
type results map[string]*record

func TestMonteCarlo(t *testing.T) {
	all := make(map[string]results)
	for i := range scenarios {
		s := &scenarios[i]
		r := make(results)
		all[s.name] = r
		t.Run(s.name, func(t *testing.T) {
			t.Logf("%s: %d runs of %d trials", s.title, *runs, s.length**horizon)
			for _, c := range contenders {
				began := time.Now()
				o := s.simulate(t, c.make)
				r[c.name] = o
				t.Logf("%-21s score %.3f ± %.3f, in the last fifth %.3f ± %.3f with %3.0f%% on %s; regret %6.2f ± %.2f  (%.1f s)",
					c.name, o.overall.mean(), 1.96*o.overall.deviation(), o.final.mean(), 1.96*o.final.deviation(),
					100*o.finalBest.mean(), s.best, o.totalRegret().mean(), 1.96*o.totalRegret().deviation(),
					time.Since(began).Seconds())
			}
			if *horizon < usualHorizon || *runs < 20 {
				t.Log("not checked: too few runs, or too short for the strategies to learn")
				return
			}
			s.check(t, r)
		})
	}
	if *out != "" {
		drawScenarios(t, all)
		writeScenarios(t, all)
	}
}

// check asserts what must hold in every scenario, and what theory says of this one.
func (s *scenario) check(t *testing.T, r results) {
	n := float64(s.hosts)
	within := func(want float64, got sum, slack float64, what string) {
		t.Helper()
		require.InDelta(t, want, got.mean(), 3*got.deviation()+slack, what)
	}
	below := func(low, high string) {
		t.Helper()
		a, b := r[low].totalRegret(), r[high].totalRegret()
		require.Less(t, a.mean(), b.mean()+3*math.Hypot(a.deviation(), b.deviation()), "regret of %s and %s", low, high)
	}

	// A round-robin earns the mean of the arms.
	trials := s.length * *horizon
	mean := 0.0
	for trial := range trials {
		for host := range s.hosts {
			mean += s.mean(host, float64(trial)/float64(trials)) / n / float64(trials)
		}
	}
	within(mean, r["round-robin"].overall, 0, "mean reward of round-robin")

	// Whatever learns loses less than what does not, and what explores less loses less once the hosts are known.
	for _, c := range contenders {
		if c.name != "round-robin" {
			require.Less(t, r[c.name].totalRegret().mean(), r["round-robin"].totalRegret().mean(), "regret of %s", c.name)
		}
	}

	switch s.name {
	case "classic":
		below("softmax(0.1)", "softmax(0.5)")
		below("softmax(0.5)", "softmax(0.9)")
		below("epsilon-greedy(0.1)", "epsilon-greedy(0.5)")
		below("epsilon-greedy(0.5)", "epsilon-greedy(0.9)")
		below("UCB(0.5)", "UCB(√2)")
		below("Thompson", "UCB(√2)")
		below("Thompson", "epsilon-greedy(0.1)")
		for name, epsilon := range map[string]float64{
			"epsilon-greedy(0.1)": 0.1, "epsilon-greedy(0.5)": 0.5, "epsilon-greedy(0.9)": 0.9,
		} {
			within(1-epsilon+epsilon/n, r[name].finalBest, 0.02, "share of the best host with "+name)
		}
		// What an older implementation reached.
		for name, reward := range map[string]float64{
			"epsilon-greedy(0.1)": 0.847, "softmax(0.1)": 0.893, "round-robin": 0.362,
			"UCB(0.5)": 0.829, "Thompson": 0.882,
		} {
			require.Greater(t, r[name].final.mean()+3*r[name].final.deviation(), reward, name)
		}
	case "failure":
		for _, c := range contenders {
			if c.name == "round-robin" {
				continue
			}
			o := r[c.name]
			// While the best host is down, the four others are the best. Choosing at random would give them 0.8.
			require.Greater(t, o.share(returnsAt-0.1, returnsAt), 0.8, "%s stays with the host that is down", c.name)
			before := o.share(failsAt-0.1, failsAt)
			require.Greater(t, o.share(0.9, 1), 0.7*before, "%s does not come back", c.name)
		}
	}
}

// boltzmannSpy is softmax as its formula has it: for each picker, the probability of the host with the best mean.
type boltzmannSpy struct {
	*pooly.SoftMax
	temperature float64
	probability []float64 // of each arm, for the current picker
	addresses   []string
}

func (b *boltzmannSpy) NewPicker(arms []pooly.Arm) pooly.Picker {
	b.probability, b.addresses = make([]float64, len(arms)), make([]string, len(arms))
	total := 0.0
	for i, a := range arms {
		b.addresses[i] = a.Address
		b.probability[i] = math.Exp(a.Score / b.temperature)
		total += b.probability[i]
	}
	for i := range b.probability {
		b.probability[i] /= total
	}
	return b.SoftMax.NewPicker(arms)
}

// TestMonteCarloSoftMaxFollowsBoltzmann compares how often each host was picked with the probabilities that the
// scores of the time gave it.
func TestMonteCarloSoftMaxFollowsBoltzmann(t *testing.T) {
	s := &scenarios[0]
	for _, temperature := range []float64{0.1, 0.5, 0.9} {
		parts := make([]sum, chunks) // of the difference, for the best host
		inParallel(t, max(chunks, *runs/10), func(t *testing.T, chunk int, seed uint64) {
			b := &boltzmannSpy{SoftMax: pooly.NewSoftMax(temperature), temperature: temperature}
			service := simulatedService(b, s.hosts, s.decay, seed)
			defer service.Close()
			rng := rand.New(rand.NewPCG(seed, 2))
			for range *horizon {
				c, err := service.GetConn()
				require.NoError(t, err)
				host := c.Interface().(int)
				difference := 0.0
				for i, address := range b.addresses {
					if address == strconv.Itoa(s.hosts-1) {
						difference -= b.probability[i]
					}
				}
				if host == s.hosts-1 {
					difference++
				}
				parts[chunk].add(difference)
				score, _ := s.draw(rng, host, 0)
				require.NoError(t, c.Release(nil, score))
				time.Sleep(s.step)
			}
		})
		var total sum
		for _, part := range parts {
			total.merge(part)
		}
		t.Logf("softmax(%v): the share of the best host is off by %+.4f ± %.4f", temperature, total.mean(), 1.96*total.deviation())
		require.InDelta(t, 0, total.mean(), 3.5*total.deviation(), fmt.Sprintf("temperature %v", temperature))
	}
}
