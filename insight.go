package pooly

import (
	"context"
	"fmt"
	"math/rand/v2"
)

// Sharer is a Picker that can tell how it picks. The Pickers of this package implement it.
//
// Shares returns the probability of each arm, in the order of arms. It may be called concurrently
// with Pick, and must not change what Pick does. If the choice depends on live figures, the shares
// are estimates for the figures of the moment.
type Sharer interface {
	Picker
	Shares() []float64
}

// Shares returns, by address, how likely each host in use is to be the strategy's next choice. The
// shares add up to 1; an ejected host has 0. They leave out that a call goes elsewhere if its first
// choice is full or gone.
//
// It returns nil if the strategy cannot tell (see Sharer), and while there is no host to choose. It
// picks nothing, so it does not change which host is next.
//
// It is for pages that people look at: it is O(n), and if shares are estimated it asks the strategy
// thousands of times. It may be called concurrently.
func (s *Service) Shares() map[string]float64 {
	s.refresh()
	v := s.snapshot.Load()
	if v == nil {
		if b := s.rebuild(false); b != nil {
			v = b.wait(context.Background())
		}
	}
	if v == nil || v.picker == nil {
		return nil
	}
	shares := s.sharesOf(v.picker)
	if len(shares) != len(v.hosts) {
		return nil
	}
	byAddress := make(map[string]float64)
	for _, h := range s.all() {
		byAddress[h.address] = 0
	}
	for i, h := range v.hosts {
		byAddress[h.address] = shares[i]
	}
	return byAddress
}

// sharesOf returns the picker's shares, nil if it cannot tell or panics.
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

// History returns, by address, what the score of each host in use is made of. There is one value
// for each slot, a sixtieth of DecayDuration: the mean of the scores that were released in it. The
// slots are in order, oldest first, the current one last. There are 60, or fewer for a host that
// was added later than that.
//
// A slot in which nothing was released is NaN. In the score it counts as 0.5.
//
// It is for pages that people look at: it locks each pool in turn. It may be called concurrently.
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

// strategyName returns the strategy's String, or its type if it has none.
func strategyName(b Bandit) string {
	if _, ok := b.(fmt.Stringer); ok {
		return fmt.Sprint(b) // which recovers from a panic in String
	}
	return fmt.Sprintf("%T", b)
}

// The strategies' names, as in the README's tables, with their configuration: for pages and logs.

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

// String returns "least latency".
func (*LeastLatency) String() string { return "least latency" }

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

// Shares implements Sharer with an estimate.
func (p *powerOfTwoPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

// Shares implements Sharer with an estimate.
func (p *peakPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

// Shares implements Sharer with an estimate.
func (p *leastLatencyPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

// Shares implements Sharer with an estimate.
func (p *hotColdPicker) Shares() []float64 { return drawShares(p, len(p.hosts)) }

// evenly returns n equal shares.
func evenly(n int) []float64 {
	shares := make([]float64, n)
	for i := range shares {
		shares[i] = 1 / float64(n)
	}
	return shares
}

// shareDraws is how many picks drawShares makes. The standard error of a share is
// √(p·(1-p)/shareDraws), 0.008 at most.
const shareDraws = 4096

// drawShares estimates the shares of a picker by picking. The picker must keep no state, so that
// picking changes nothing.
func drawShares(p Picker, n int) []float64 {
	rng := rand.New(rand.NewPCG(1, 2)) // a fixed seed: the same figures give the same shares
	shares := make([]float64, n)
	for range shareDraws {
		shares[p.Pick(rng)] += 1.0 / shareDraws
	}
	return shares
}
