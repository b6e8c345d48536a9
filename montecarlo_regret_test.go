//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A problem is a bandit problem of textbooks: arm i succeeds with its mean, and the best one may
// change.
type problem struct {
	name       string
	arms       int
	best, rest float64 // means
	every      int     // trials after which another arm is the best; 0: never
	horizon    int
	step       time.Duration // between two trials
}

// problems are harder the more arms they have. With -long most horizons are ten times as long.
func problems() []problem {
	horizon := 10_000
	if *long {
		horizon *= 10
	}
	return []problem{
		{"2 arms", 2, 0.9, 0.88, 0, horizon, usualStep},
		{"10 arms", 10, 0.9, 0.8, 0, horizon, usualStep},
		{"100 arms", 100, 0.9, 0.8, 0, horizon, usualStep},
		{"10, 30 s", 10, 0.9, 0.8, 3000, 30_000, usualStep},
		{"10, 3 s", 10, 0.9, 0.8, 3000, 30_000, usualStep / 10},
	}
}

func (p *problem) bestArm(trial int) int {
	if p.every == 0 {
		return 0
	}
	return trial / p.every * 3 % p.arms
}

// bound is that of Lai and Robbins (Asymptotically efficient adaptive allocation rules, 1985): the
// regret of no strategy that suits every problem grows more slowly. It says nothing of few trials.
func (p *problem) bound(trials int) float64 {
	return float64(p.arms-1) * (p.best - p.rest) / divergence(p.rest, p.best) * math.Log(float64(trials))
}

// divergence is that of Kullback and Leibler between Bernoulli distributions.
func divergence(p, q float64) float64 {
	part := func(p, q float64) float64 {
		if p == 0 {
			return 0
		}
		return p * math.Log(p/q)
	}
	return part(p, q) + part(1-p, 1-q)
}

// usualStep is not quite ten milliseconds, so that no trial comes at the same time as a tick of the
// service: the outcome would depend on which is first.
const usualStep = 10*time.Millisecond + time.Microsecond

// regretRuns is how often each strategy plays each problem.
func regretRuns() int { return max(8, *runs/2) }

// powers are how horizons are written.
var powers = map[int]string{10_000: "10⁴", 30_000: "3·10⁴", 100_000: "10⁵"}

// A player chooses an arm for each trial and learns what came of it.
type player interface {
	choose(rng *rand.Rand) int
	learn(arm int, reward float64)
}

// A regretContender is a strategy of pooly, in a service, or one of textbooks.
type regretContender struct {
	name     string
	strategy func() pooly.Bandit
	decay    time.Duration
	textbook func(arms int) player // if strategy is nil
}

// ages is a DecayDuration that nothing outlives.
const ages = 1000 * time.Hour

var regretContenders = []regretContender{
	{"epsilon-greedy(0.1)", func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }, 0, nil},
	{"softmax(0.1)", func() pooly.Bandit { return pooly.NewSoftMax(0.1) }, 0, nil},
	{"UCB(0.5)", func() pooly.Bandit { return pooly.NewUCB(0.5) }, 0, nil},
	{"UCB(0.5), no decay", func() pooly.Bandit { return pooly.NewUCB(0.5) }, ages, nil},
	{"Thompson", func() pooly.Bandit { return pooly.NewThompson() }, 0, nil},
	{"Thompson, no decay", func() pooly.Bandit { return pooly.NewThompson() }, ages, nil},
	{"textbook Thompson", nil, 0, func(arms int) player { return newSampler(arms, 1) }},
	{"KL-UCB", nil, 0, func(arms int) player { return &klUCB{tally: newTally(arms, 1)} }},
	{"discounted UCB", nil, 0, func(arms int) player { return &discountedUCB{newTally(arms, 1-1./700)} }},
	{"discounted Thompson", nil, 0, func(arms int) player { return newSampler(arms, 1-1./1500) }},
}

// play returns the regret after each of the given numbers of trials.
func (p *problem) play(t *testing.T, c regretContender, marks []int, seed uint64) []float64 {
	rng := rand.New(rand.NewPCG(seed, 6))
	regret, at := 0.0, make([]float64, 0, len(marks))
	trial := func(n, arm int) (reward float64) {
		mean := p.rest
		if arm == p.bestArm(n) {
			mean = p.best
		}
		regret += p.best - mean
		if n+1 == marks[len(at)] {
			at = append(at, regret)
		}
		if rng.Float64() < mean {
			return 1
		}
		return 0
	}
	if c.strategy == nil {
		player := c.textbook(p.arms)
		for n := range marks[len(marks)-1] {
			arm := player.choose(rng)
			player.learn(arm, trial(n, arm))
		}
		return at
	}
	s := simulatedService(c.strategy(), p.arms, c.decay, seed)
	defer s.Close()
	for n := range marks[len(marks)-1] {
		lease, err := s.GetConn()
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // for new scores, if any are computed: whether they come first is chance
		if err := lease.Release(nil, trial(n, lease.Interface().(int))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(p.step)
	}
	return at
}

// TestMonteCarloRegret compares strategies with what textbooks have, and with what no strategy can
// beat.
func TestMonteCarloRegret(t *testing.T) {
	all := problems()
	report("\nregret, %d runs; the best of the arms succeeds with 0.9, the others with 0.8, or 0.88 of two; "+
		"or another is the best every 30 s or 3 s, 3,000 trials", regretRuns())
	var head []string
	regrets := make(map[string][]sum) // at the end, of each problem
	var fixed, switching []point
	for _, p := range all {
		head = append(head, fmt.Sprintf("%s, %s", p.name, powers[p.horizon]))
		marks := []int{}
		for x := 100.; x < float64(p.horizon); x *= 1.15 {
			marks = append(marks, int(x))
		}
		if p.every > 0 {
			marks = marks[:0]
			for x := 500; x < p.horizon; x += 500 {
				marks = append(marks, x)
			}
		}
		marks = append(marks, p.horizon)
		for _, c := range regretContenders {
			parts := make([][]float64, regretRuns())
			inParallel(t, len(parts), func(t *testing.T, _ int, seed uint64) {
				parts[uint32(seed)] = p.play(t, c, marks, seed)
			})
			for m, mark := range marks {
				var of sum
				for _, part := range parts {
					of.add(part[m])
				}
				pt := point{panel: p.name, line: c.name, x: float64(mark), y: of.mean()}
				if p.every > 0 {
					pt.panel = "the best changes every" + strings.TrimPrefix(p.name, "10,")
					switching = append(switching, pt)
				} else {
					fixed = append(fixed, pt)
				}
				if mark == p.horizon {
					regrets[c.name] = append(regrets[c.name], of)
				}
			}
		}
		var bound, random sum
		for range 2 {
			random.add(float64(p.horizon) * (p.best - p.rest) * float64(p.arms-1) / float64(p.arms))
			bound.add(math.NaN())
		}
		if p.every == 0 {
			bound = sum{1, p.bound(p.horizon), 0}
			for _, mark := range marks {
				fixed = append(fixed, point{panel: p.name, line: "bound", x: float64(mark), y: p.bound(mark)})
			}
		}
		regrets["bound"] = append(regrets["bound"], bound)
		regrets["at random"] = append(regrets["at random"], random)
	}
	reportRow("", head...)
	table := [][]string{append([]string{"strategy"}, head...)}
	var order []string
	for _, c := range regretContenders {
		order = append(order, c.name)
	}
	for _, name := range append(order, "bound", "at random") {
		row := []string{}
		for i := range all {
			of := &regrets[name][i]
			switch {
			case math.IsNaN(of.total):
				row = append(row, "")
			case name == "bound" || name == "at random":
				row = append(row, fmt.Sprintf("%.0f", of.mean()))
			default:
				row = append(row, of.pm(0))
			}
		}
		if !variant(name) || *long {
			reportRow(name, row...)
		}
		table = append(table, append([]string{name}, row...))
	}
	if *out != "" {
		writeTable(t, "regret", table)
		writeCSV(t, "regret.csv", table)
		writeLines(t, "regret", only(fixed, "UCB(0.5), no decay", "Thompson, no decay", "Thompson", "textbook Thompson", "KL-UCB", "bound"))
		writeLines(t, "regret-switching", only(switching, "epsilon-greedy(0.1)", "Thompson", "UCB(0.5)", "KL-UCB", "discounted UCB", "discounted Thompson"))
	}
	for i, p := range all {
		best := regrets["textbook Thompson"][i]
		if p.every > 0 {
			best = regrets["discounted UCB"][i]
		}
		thompson := regrets["Thompson, no decay"][i]
		require.Less(t, thompson.mean(), 1.5*best.mean()+3*thompson.deviation(),
			"regret of Thompson and of what textbooks have for %s", p.name)
	}
}

// variant reports whether a row is of interest only beside all others.
func variant(name string) bool {
	return strings.HasSuffix(name, "no decay") || strings.HasPrefix(name, "discounted") ||
		strings.HasPrefix(name, "textbook")
}

// only returns the points of some lines.
func only(points []point, lines ...string) (some []point) {
	for _, line := range lines {
		for _, p := range points {
			if p.line == line {
				some = append(some, p)
			}
		}
	}
	return some
}

// A tally is what is known of arms, where each trial makes those before weigh keep times as much.
type tally struct {
	keep    float64
	n, gain []float64
}

func newTally(arms int, keep float64) tally {
	return tally{keep, make([]float64, arms), make([]float64, arms)}
}

func (t *tally) learn(arm int, reward float64) {
	if t.keep < 1 {
		for i := range t.n {
			t.n[i] *= t.keep
			t.gain[i] *= t.keep
		}
	}
	t.n[arm]++
	t.gain[arm] += reward
}

// highest returns the arm with the highest index, at random if several have it.
func (t *tally) highest(rng *rand.Rand, index func(arm int) float64) int {
	best, top, ties := 0, math.Inf(-1), 0
	for arm := range t.n {
		switch x := index(arm); {
		case x > top:
			best, top, ties = arm, x, 1
		case x == top:
			if ties++; rng.IntN(ties) == 0 {
				best = arm
			}
		}
	}
	return best
}

// A sampler is Thompson sampling, discounted if keep is below 1: Raj and Kalyani, Taming
// Non-stationary Bandits, 2017.
type sampler struct{ tally }

func newSampler(arms int, keep float64) *sampler { return &sampler{newTally(arms, keep)} }

func (s *sampler) choose(rng *rand.Rand) int {
	return s.highest(rng, func(arm int) float64 {
		a := gamma(rng, 1+s.gain[arm])
		return a / (a + gamma(rng, 1+s.n[arm]-s.gain[arm]))
	})
}

// gamma draws from a gamma distribution of shape 1 or more: Marsaglia and Tsang, A Simple Method for
// Generating Gamma Variables, 2000.
func gamma(rng *rand.Rand, shape float64) float64 {
	d := max(1, shape) - 1./3
	c := 1 / math.Sqrt(9*d)
	for {
		x := rng.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if u := rng.Float64(); math.Log(u) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// discountedUCB is that of Garivier and Moulines (ALT 2011), with the exploration and the discount
// that lose least where the best arm changes every 3,000 trials.
type discountedUCB struct{ tally }

func (d *discountedUCB) choose(rng *rand.Rand) int {
	const exploration = 0.15

	total := 0.0
	for _, n := range d.n {
		total += n
	}
	log := math.Log(max(math.E, total))
	return d.highest(rng, func(arm int) float64 {
		if d.n[arm] < 1e-6 {
			return math.MaxFloat64
		}
		return d.gain[arm]/d.n[arm] + exploration*math.Sqrt(log/d.n[arm])
	})
}

// klUCB is that of Garivier and Cappé, The KL-UCB Algorithm for Bounded Stochastic Bandits and
// Beyond, COLT 2011, with c = 0. Since ln t changes slowly, indices of arms that were not tried are
// computed again only when t has grown by a hundredth.
type klUCB struct {
	tally
	index     []float64
	t, stable float64
}

func (k *klUCB) choose(rng *rand.Rand) int {
	if k.t++; k.t > 1.01*k.stable {
		k.index = make([]float64, len(k.n))
		for arm := range k.index {
			k.index[arm] = k.bound(arm)
		}
		k.stable = k.t
	}
	return k.highest(rng, func(arm int) float64 { return k.index[arm] })
}

func (k *klUCB) learn(arm int, reward float64) {
	k.tally.learn(arm, reward)
	k.index[arm] = k.bound(arm)
}

func (k *klUCB) bound(arm int) float64 {
	if k.n[arm] == 0 {
		return math.MaxFloat64
	}
	mean := k.gain[arm] / k.n[arm]
	low, high := mean, 1.0
	for high-low > 1e-5 {
		if q := (low + high) / 2; k.n[arm]*divergence(mean, q) > math.Log(k.t) {
			high = q
		} else {
			low = q
		}
	}
	return low
}
