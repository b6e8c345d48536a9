package pooly

import (
	"math/rand/v2"
	"sync/atomic"
)

// RoundRobin picks the hosts in turn, whatever their scores. It suits hosts that are alike: it
// spreads the load evenly, and leaves out only ejected hosts. A host that is slow, or that fails
// after it has accepted the connection, keeps its share.
//
// When hosts or scores change, it goes on where it was. So a value belongs to one service: two
// services that share a value would make each other skip hosts. A pick is O(1).
type RoundRobin struct {
	turn atomic.Uint64
}

// NewRoundRobin returns a RoundRobin, the default strategy.
func NewRoundRobin() *RoundRobin {
	return new(RoundRobin)
}

// NewPicker implements Bandit in O(1).
func (r *RoundRobin) NewPicker(arms []Arm) Picker {
	return roundRobinPicker{&r.turn, uint64(len(arms))}
}

type roundRobinPicker struct {
	turn *atomic.Uint64
	n    uint64
}

func (p roundRobinPicker) Pick(*rand.Rand) int {
	return int((p.turn.Add(1) - 1) % p.n)
}
