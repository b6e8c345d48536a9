//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// horizon is the number of trials of the classic experiment.
const horizon = 250

// learningRuns is how often each strategy goes through each scenario.
func learningRuns() int { return 50 * *runs }

// simulatedService returns a service with hosts numbered from 0, registered in random order so that
// no strategy profits from the place of the best.
func simulatedService(b pooly.Bandit, hosts int, decay time.Duration, seed uint64) *pooly.Service {
	s := pooly.NewService("simulated", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: memoryDriver{}},
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

// A scenario is a world of hosts that are tried one lease at a time.
type scenario struct {
	name   string
	title  string
	best   string // what the best hosts are called
	hosts  int
	length int           // trials, in horizons
	step   time.Duration // between two trials
	decay  time.Duration // DecayDuration; 0: its default
	mean   func(host int, progress float64) float64
	draw   func(rng *rand.Rand, host int, progress float64) (score float64, lasts time.Duration)
}

// The time between two trials.
const (
	perTrial   = pooly.DefaultMemoizeScoreDuration + time.Millisecond    // the scores are computed anew for each trial
	manyTrials = pooly.DefaultMemoizeScoreDuration/10 + time.Millisecond // and here for each tenth
)

// unchanging is the DecayDuration for hosts that never change. At one trial per score, a shorter
// one would leave most of its slots without trials, as they are not in a service with traffic.
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

// lognormal makes a scenario's trials take a time with the given median for each host, and rates
// them by it.
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
		best: "the best host", hosts: 5, length: 12, step: manyTrials,
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

// play runs a scenario once and adds to o. tops are the means of the best host in each trial. It
// must be called in a bubble.
func (s *scenario) play(t *testing.T, b pooly.Bandit, seed uint64, tops []float64, o *record) {
	service := simulatedService(b, s.hosts, s.decay, seed)
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
		time.Sleep(lasts)
		synctest.Wait() // for new scores, if any are computed: whether they come first is chance
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

func (s *scenario) simulate(t *testing.T, b func() pooly.Bandit) *record {
	t.Helper()
	trials := s.length * horizon
	tops := make([]float64, trials)
	for trial := range tops {
		tops[trial] = s.top(float64(trial) / float64(trials))
	}
	parts := make([]*record, chunks)
	for i := range parts {
		parts[i] = newRecord(trials)
	}
	inParallel(t, learningRuns(), func(t *testing.T, chunk int, seed uint64) {
		s.play(t, b(), seed, tops, parts[chunk])
	})
	total := newRecord(trials)
	for _, part := range parts {
		total.merge(part)
	}
	return total
}

// results are the records of one scenario by the strategy's name.
type results map[string]*record

// TestMonteCarloLearning has one lease out at a time, so that only the choice matters.
func TestMonteCarloLearning(t *testing.T) {
	report("\nhosts that never fill up, one lease at a time: mean score in the last fifth (regret); %d runs",
		learningRuns())
	all := make(map[string]results)
	head := []string{}
	for i := range scenarios {
		s := &scenarios[i]
		head = append(head, s.name)
		all[s.name] = make(results)
		for _, c := range learners {
			all[s.name][c.name] = s.simulate(t, c.make)
		}
	}
	reportRow("", head...)
	for _, c := range contenders {
		if !c.scored {
			continue // does not learn from scores, or is made for hosts that fill up
		}
		row := []string{}
		for i := range scenarios {
			o := all[scenarios[i].name][c.name]
			row = append(row, fmt.Sprintf("%.3f (%.0f)", o.final.mean(), o.totalRegret().mean()))
		}
		reportRow(c.name, row...)
	}
	if *out != "" {
		writeScenarios(t, all)
	}
	for i := range scenarios {
		scenarios[i].check(t, all[scenarios[i].name])
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
	trials := s.length * horizon
	mean := 0.0
	for trial := range trials {
		for host := range s.hosts {
			mean += s.mean(host, float64(trial)/float64(trials)) / n / float64(trials)
		}
	}
	within(mean, r["round-robin"].overall, 0, "mean reward of round-robin")

	// Whatever learns loses less than what does not, and what explores less loses less once the
	// hosts are known.
	for _, c := range learners {
		if c.name != "round-robin" {
			require.Less(t, r[c.name].totalRegret().mean(), r["round-robin"].totalRegret().mean(), "regret of %s", c.name)
		}
	}

	switch s.name {
	case "classic":
		below("softmax(0.1)", "softmax(0.5)")
		below("epsilon-greedy(0.1)", "epsilon-greedy(0.5)")
		below("UCB(0.5)", "UCB(√2)")
		below("Thompson", "UCB(√2)")
		below("Thompson", "epsilon-greedy(0.1)")
		for name, epsilon := range map[string]float64{
			"epsilon-greedy(0.1)": 0.1, "epsilon-greedy(0.5)": 0.5,
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
			if !c.scored {
				continue // those that weigh load have TestMonteCarloChanges
			}
			o := r[c.name]
			// While the best host is down, the four others are the best. Choosing at random would
			// give them 0.8.
			require.Greater(t, o.share(returnsAt-0.1, returnsAt), 0.8, "%s stays with the host that is down", c.name)
			before := o.share(failsAt-0.1, failsAt)
			require.Greater(t, o.share(0.9, 1), 0.7*before, "%s does not come back", c.name)
		}
	}
}
