package pooly

import (
	"fmt"
	"math/rand/v2"
)

// view is what GetConn needs to choose a host, prepared. It is immutable: calls read it without locks, and a
// change of hosts or scores puts a new one in its place.
type view struct {
	hosts   []*host // those not ejected, as the picker numbers them
	picker  Picker  // nil if there are no hosts
	ejected []*host
	err     error // why there is no picker although there are hosts
}

// pick asks the strategy for a host. It returns neither host nor error if all are ejected.
func (v *view) pick(s *Service) (h *host, err error) {
	if v.picker == nil {
		return nil, v.err
	}
	defer func() {
		if r := recover(); r != nil {
			h, err = nil, recovered(s.log, fmt.Sprintf("bandit %T: Pick", s.config.BanditStrategy), r)
		}
	}()
	if i := v.picker.Pick(s.rng); uint(i) < uint(len(v.hosts)) {
		return v.hosts[i], nil
	} else {
		return nil, fmt.Errorf("bandit %T: Pick returned %d for %d hosts", s.config.BanditStrategy, i, len(v.hosts))
	}
}

// currentView returns the view of now; it refreshes one that has become stale while the service was idle.
func (s *Service) currentView() (*view, error) {
	if !s.busy.Load() && s.wake() {
		s.refresh()
	}
	if v := s.view.Load(); v != nil {
		return v, v.err
	}
	v := s.rebuild()
	if v == nil {
		return nil, ErrPoolClosed
	}
	return v, v.err
}

// rebuild makes a view of the hosts as they are now, nil if the service is closed. It becomes the current one
// unless something has changed meanwhile; then it still holds for a call that began before.
func (s *Service) rebuild() *view {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	generation := s.generation
	v := &view{hosts: make([]*host, 0, len(s.order))}
	arms := make([]Arm, 0, len(s.order))
	for _, h := range s.order {
		h.mu.Lock()
		out := h.health == ejected
		h.mu.Unlock()
		if out {
			v.ejected = append(v.ejected, h)
			continue
		}
		v.hosts = append(v.hosts, h)
		arms = append(arms, Arm{Address: h.address, Score: h.score.Load(), Trials: h.trials, mean: h.mean, host: h})
	}
	s.mu.Unlock()

	if len(arms) > 0 {
		v.picker, v.err = s.newPicker(arms)
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation == generation && !s.closed {
		s.view.Store(v)
	}
	return v
}

func (s *Service) newPicker(arms []Arm) (p Picker, err error) {
	method := fmt.Sprintf("bandit %T: NewPicker", s.config.BanditStrategy)
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, recovered(s.log, method, r)
		}
	}()
	if p = s.config.BanditStrategy.NewPicker(arms); p == nil {
		return nil, fmt.Errorf("%s returned nil", method)
	}
	return p, nil
}

// rebuildSoon replaces the view in the background after a host was ejected or restored. Until then calls that
// pick an ejected host go on to another. However many hosts change at once, one rebuild runs and one waits.
func (s *Service) rebuildSoon() {
	s.mu.Lock()
	s.generation++
	s.mu.Unlock()
	if s.rebuilding.CompareAndSwap(false, true) {
		go func() {
			s.rebuilding.Store(false)
			s.rebuild()
		}()
	}
}

// sharedSource is the runtime's random source, which every goroutine may use at once without a lock.
type sharedSource struct{}

func (sharedSource) Uint64() uint64 { return rand.Uint64() }
