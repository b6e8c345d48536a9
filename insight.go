package pooly

import (
	"fmt"
	"math/rand/v2"
)

// Sharer is implemented by a Picker that can tell how it picks: Shares returns the probability of each arm, in their
// order. It is called while Pick is, and must not change what that does. Those of this package implement it; where
// the choice depends on live figures, the shares are estimates for the figures of the moment.
type Sharer interface {
	Picker
	Shares() []float64
}

// Shares returns how likely each host in use is to be the strategy's next choice, by address. They add up to 1; an
// ejected host has 0. Calls that find their first choice full or gone go elsewhere, which the shares do not tell.
//
// It picks nothing, so it does not disturb the strategy's turns. It returns nil if the strategy cannot tell (see
// Sharer), and while there is no host to choose. It is for people who look at a service: it takes a millisecond or two
// where shares are estimated, else microseconds for each hundred hosts.
func (s *Service) Shares() map[string]float64 {
	s.refresh()
	v := s.view.Load()
	if v == nil {
		v = s.rebuild()
	}
	if v == nil || v.picker == nil {
		return nil
	}
	shares := s.sharesOf(v.picker)
	if len(shares) != len(v.hosts) {
		return nil
	}
	byAddress := make(map[string]float64, len(v.hosts)+len(v.ejected))
	for i, h := range v.hosts {
		byAddress[h.address] = shares[i]
	}
	for _, h := range v.ejected {
		byAddress[h.address] = 0
	}
	return byAddress
}

func (s *Service) sharesOf(p Picker) (shares []float64) {
	sharer, ok := p.(Sharer)
	if !ok {
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			shares = nil
			_ = recovered(s.log, fmt.Sprintf("bandit %T: Shares", s.config.BanditStrategy), r)
		}
	}()
	return sharer.Shares()
}

// History returns what the score of each host in use is made of, by address: the mean of the scores that were released
// in each sixtieth of DecayDuration, oldest first, as many as passed since the host was added. The last is the
// current one. A time in which nothing was released is NaN; in the score it counts as 0.5.
//
// It is for people who look at a service. It costs a lock of each pool in turn.
func (s *Service) History() map[string][]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := s.slotAt(s.clock.now())
	history := make(map[string][]float64, len(s.order))
	for _, h := range s.order {
		h.mu.Lock()
		h.window.Advance(slot)
		history[h.address] = h.window.History()
		h.mu.Unlock()
	}
	return history
}

// strategyName returns what a strategy calls itself, else its type.
func strategyName(b Bandit) string {
	if _, ok := b.(fmt.Stringer); ok {
		return fmt.Sprint(b) // which contains a panic
	}
	return fmt.Sprintf("%T", b)
}

// The strategies' names, as in the README's tables, and how they are configured: for pages and logs.

// String returns "round-robin".
func (*RoundRobin) String() string { return "round-robin" }

// String returns "weighted round-robin".
func (*WeightedRoundRobin) String() string { return "weighted round-robin" }

// String returns "Thompson".
func (*Thompson) String() string { return "Thompson" }

// String returns "power of two".
func (*PowerOfTwo) String() string { return "power of two" }

// String returns "softmax", and in parentheses the temperature.
func (s *SoftMax) String() string { return fmt.Sprintf("softmax(%v)", s.temperature) }

// String returns "epsilon-greedy", and in parentheses epsilon.
func (e *EpsilonGreedy) String() string { return fmt.Sprintf("epsilon-greedy(%v)", e.epsilon) }

// String returns "UCB", and in parentheses the weight of exploration.
func (u *UCB) String() string { return fmt.Sprintf("UCB(%v)", u.exploration) }

// String returns "peak EWMA", and in parentheses the number of choices.
func (e *PeakEWMA) String() string { return fmt.Sprintf("peak EWMA(%v)", e.choices) }

// String returns "hot-cold", and in parentheses the number of choices and the quantile.
func (h *HotCold) String() string { return fmt.Sprintf("hot-cold(%v, %v)", h.choices, h.quantile) }

// The pickers' shares.

// Shares implements Sharer.
func (p roundRobinPicker) Shares() []float64 { return evenly(int(p.n)) }

// Shares implements Sharer.
func (p *weightedPicker) Shares() []float64 {
	if p.ends == nil {
		return evenly(int(p.n))
	}
	shares := make([]float64, len(p.ends))
	began, sum := 0.0, p.ends[len(p.ends)-1]
	for i, end := range p.ends {
		shares[i], began = (end-began)/sum, end
	}
	return shares
}

// Shares implements Sharer.
func (p *epsilonPicker) Shares() []float64 {
	explore := float64(p.explore) / (1 << 32)
	shares := make([]float64, p.n)
	for i := range shares {
		shares[i] = explore / float64(p.n)
	}
	for _, i := range p.best {
		shares[i] += (1 - explore) / float64(len(p.best))
	}
	return shares
}

// Shares implements Sharer.
func (p *ucbPicker) Shares() []float64 { return p.table.Shares() }

// Shares implements Sharer, by drawing.
func (p *powerOfTwoPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

// Shares implements Sharer, by drawing.
func (p *peakPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

// Shares implements Sharer, by drawing.
func (p *hotColdPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

func evenly(n int) []float64 {
	shares := make([]float64, n)
	for i := range shares {
		shares[i] = 1 / float64(n)
	}
	return shares
}

// shareDraws is how often a picker is asked that goes by live figures, which leaves a standard error of 0.008 at most.
const shareDraws = 4096

// drawShares estimates the shares of a picker that depends on nothing but its arms' figures and on rng, so that asking
// it changes nothing.
func drawShares(p Picker, n int) []float64 {
	rng := rand.New(rand.NewPCG(1, 2)) // the same draws each time, so that figures that stand still give the same shares
	shares := make([]float64, n)
	for range shareDraws {
		shares[p.Pick(rng)] += 1.0 / shareDraws
	}
	return shares
}
