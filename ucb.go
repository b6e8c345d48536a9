package pooly

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/3XX0/pooly/internal/sample"
)

// defaultExploration is the exploration of the zero value.
const defaultExploration = 0.5

// UCB picks the host with the highest upper confidence bound: the mean of its scores plus a bonus.
// The less a host was tried, the larger its bonus. It is for hosts that change:
//   - Trials are discounted, as in Garivier and Moulines, On Upper-Confidence Bound Policies for
//     Switching Bandit Problems, ALT 2011.
//   - Trials are forgotten when newer ones contradict them, as in Liu, Lee and Shroff, A
//     Change-Detection Based Framework for Piecewise-Stationary Multi-Armed Bandit Problem, AAAI
//     2018.
//
// The bound of host i is mean_i + exploration · √(ln N / N_i). N_i is the number of its trials that
// count, as in [Thompson], mean_i is their mean score, and N is the sum of all N_i.
//
// Until scores are computed again the bounds stay the same, and the plain rule would send every
// call to one host. So UCB expects as many picks as there were since the last computation, and
// spreads them such that the highest bounds become equal. Hosts that are equally good get equal
// shares. A host gets at most a fair share of the picks, or 15 % of its trials if that is more. So
// a host that joins is not flooded. A service with little traffic picks by the plain rule. A pick
// is O(1).
//
// It counts its picks, so a value belongs to one service. The zero value is NewUCB(0.5).
type UCB struct {
	exploration float64
	last        atomic.Pointer[ucbPicker]
}

// NewUCB returns a UCB. exploration is the weight of the bonus: √2 is the classic UCB1, made for
// the worst case; 0.5 loses less on most hosts. It panics if exploration is not a positive number.
func NewUCB(exploration float64) *UCB {
	if !(exploration > 0 && exploration <= math.MaxFloat32) {
		panic(fmt.Errorf("%w: NewUCB: exploration %v is not a positive number",
			ErrInvalidArg, exploration))
	}
	return &UCB{exploration: exploration}
}

// NewPicker implements Bandit in O(n).
func (u *UCB) NewPicker(arms []Arm) Picker {
	picks := 1.0
	if last := u.last.Load(); last != nil {
		picks = max(picks, float64(last.picks.Load()))
	}
	p := &ucbPicker{table: sample.NewAlias(scout(arms, u.spread(arms, picks)))}
	u.last.Store(p)
	return p
}

// ucbGrowth is the share by which a host's trials may grow between two computations, if that is
// more than a fair share of the picks. So a host that joins is not flooded.
const ucbGrowth = 0.15

// leastBonus is below the bonus of any host that can be told from the best.
const leastBonus = 1e-6

// spread divides picks among the arms so that the highest bounds become equal, at some level. An
// arm whose bound is above the level gets the picks that bring it down to the level,
//
//	exploration² · ln N / (level - mean)² - N_i
//
// and the other arms get none. An arm of a host gets no more than lets it grow by ucbGrowth.
func (u *UCB) spread(arms []Arm, picks float64) []float64 {
	means, trials := make([]float64, len(arms)), make([]float64, len(arms))
	total := 0.0
	for i, a := range arms {
		means[i], trials[i] = a.evidence()
		total += trials[i]
	}
	exploration := u.exploration
	if exploration == 0 { // the zero value
		exploration = defaultExploration
	}
	bonus := exploration * exploration * math.Log(max(math.E, total+picks))
	best := slices.Max(means)
	parts, most := make([]float64, len(arms)), make([]float64, len(arms))
	for i, a := range arms {
		most[i] = math.Inf(1)
		if a.host != nil {
			most[i] = max(1, picks/float64(len(arms)), trials[i]*ucbGrowth)
		}
	}
	fill := func(level float64) (sum, slope float64) {
		for i := range parts {
			gap := level - means[i]
			parts[i] = 0
			switch part := bonus/(gap*gap) - trials[i]; {
			case part >= most[i]:
				parts[i] = most[i]
				sum += most[i]
			case part > 0:
				parts[i] = part
				sum += part
				slope -= 2 * bonus / (gap * gap * gap)
			}
		}
		return sum, slope
	}
	low := best + math.Sqrt(bonus/(total+picks)) // the best arm alone would take all picks
	if slices.Max(most) < math.Inf(1) {
		low = best + leastBonus
	}
	// No arm takes more than 1/n of the picks.
	high := best + math.Sqrt(bonus*float64(len(arms))/picks) + 1e-12
	if sum := levelOff(fill, picks, low, high); !(sum > 0) {
		// There are more trials than the precision of the level can tell apart.
		for i := range parts {
			parts[i] = means[i]
		}
		parts[slices.Index(means, best)] = 1
	}
	return parts
}

// levelOff searches for the level, between low and high, at which fill hands out the given number
// of picks. It returns how many the last call of fill handed out. fill returns how many picks a
// level takes, and the slope. A higher level takes fewer picks.
//
// It is Newton's method for 1/√sum. That is nearly a straight line, so few steps are needed.
// Bisection alone would take more of them (BenchmarkNewPicker).
func levelOff(fill func(level float64) (sum, slope float64), picks, low, high float64) float64 {
	const precision = 1e-6
	level := low
	for step := range 50 {
		sum, slope := fill(level)
		if math.Abs(sum-picks) <= precision*picks {
			return sum
		}
		if sum > picks {
			low = level
		} else {
			high = level
		}
		level -= 2 * sum * (math.Sqrt(sum/picks) - 1) / slope
		// Bisect where the step leaves the bounds or is NaN, and each fourth time, so that the
		// steps cannot creep.
		if !(level > low && level < high) || step%4 == 3 {
			level = (low + high) / 2
		}
	}
	sum, _ := fill(low)
	return sum
}

type ucbPicker struct {
	table sample.Alias
	picks atomic.Int64
}

// Pick counts itself, for the next NewPicker.
func (p *ucbPicker) Pick(rng *rand.Rand) int {
	p.picks.Add(1)
	return p.table.Pick(rng)
}
