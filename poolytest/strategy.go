package poolytest

import (
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/3XX0/pooly"
)

// Strategy is a pooly.Bandit that records which hosts it picks. [Record] makes a Strategy from
// another strategy, and [Script] makes a Strategy that picks by a script. A Strategy belongs to one
// service.
//
// A GetConn may pick several times: it picks again if the host has no room. Calls that wait, or
// for which no host is up, do without the strategy.
//
// All methods may be called concurrently. A pick takes a lock, unlike the picks of pooly's own
// strategies.
type Strategy struct {
	bandit pooly.Bandit // immutable; nil: script decides
	script []string     // immutable

	mu    sync.Mutex
	next  int // in script
	picks []string
	arms  []pooly.Arm
}

// Record returns a strategy that picks as another strategy does. It panics if bandit is nil.
func Record(bandit pooly.Bandit) *Strategy {
	if bandit == nil {
		panic("poolytest: Record(nil)")
	}
	return &Strategy{bandit: bandit}
}

// Script returns a strategy that picks addresses in the given order, again and again. It skips
// addresses that cannot be picked at the time, such as addresses of ejected hosts. If no address of
// the script can be picked, it picks the first arm. It panics if there is no address.
func Script(addresses ...string) *Strategy {
	if len(addresses) == 0 {
		panic("poolytest: Script without an address")
	}
	return &Strategy{script: slices.Clone(addresses)}
}

// Picks returns the addresses that were picked so far, in order.
func (s *Strategy) Picks() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.picks)
}

// Arms returns the hosts that can be picked, as of the last call of NewPicker.
func (s *Strategy) Arms() []pooly.Arm {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.arms)
}

// NewPicker implements pooly.Bandit.
func (s *Strategy) NewPicker(arms []pooly.Arm) pooly.Picker {
	p := &picker{strategy: s, arms: arms}
	if s.bandit != nil {
		if p.inner = s.bandit.NewPicker(arms); p.inner == nil {
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arms = arms
	return p
}

type picker struct {
	strategy *Strategy
	inner    pooly.Picker // nil: the script decides
	arms     []pooly.Arm
}

// Pick implements pooly.Picker.
func (p *picker) Pick(rng *rand.Rand) int {
	i := 0
	if p.inner != nil {
		i = p.inner.Pick(rng)
	}
	s := p.strategy
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.inner == nil {
		i = s.follow(p.arms)
	}
	if i >= 0 && i < len(p.arms) {
		s.picks = append(s.picks, p.arms[i].Address)
	}
	return i
}

// follow returns the next arm of the script. s.mu is held.
func (s *Strategy) follow(arms []pooly.Arm) int {
	for range s.script {
		address := s.script[s.next]
		s.next = (s.next + 1) % len(s.script)
		i := slices.IndexFunc(arms, func(a pooly.Arm) bool { return a.Address == address })
		if i >= 0 {
			return i
		}
	}
	return 0
}
