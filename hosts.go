package pooly

import (
	"time"

	"github.com/3XX0/pooly/internal/decay"
)

// Which hosts a service has: Add, Remove and SetHosts register addresses, and the subset, if there is one, says which
// of these are in use. Each is one change under the service's lock, in effect when that is let go, and afterwards
// settle does what takes time.

// Add registers a host. When it returns, GetConn may pick the host; its first PrespawnConns connections are
// dialled in the background.
//
// Any string is taken: an address that cannot be dialled makes a host that is ejected, with the cause in the
// log and in GetConn's errors, and does the others no harm. Adding an address that is registered, or to a closed
// service, does nothing. With MaxHosts set, the host may be left out, or another for it.
func (s *Service) Add(address string) {
	s.mu.Lock()
	known := s.registeredLocked(address)
	s.mu.Unlock()
	if known {
		return
	}
	c := s.newChange()
	s.mu.Lock()
	switch {
	case s.closed || s.registeredLocked(address):
	case s.subset == nil:
		c.joinLocked(address)
	default:
		in, out := s.subset.Add(address)
		c.replaceLocked(out, in)
	}
	c.commitLocked()
	s.mu.Unlock()
	c.settle()
}

// Remove takes a host out. When it returns, no GetConn picks the host any more. Its idle connections are closed
// in the background, and leased ones when they are released. Removing an unknown address does nothing.
//
// An address that is added again while leases of its former connections are out gets a new pool, to which these
// do not count.
func (s *Service) Remove(address string) {
	c := s.newChange()
	s.mu.Lock()
	switch {
	case !s.registeredLocked(address):
	case s.subset == nil:
		c.leaveLocked(s.hosts[address])
	default:
		out, in := s.subset.Remove(address)
		c.replaceLocked(out, in)
	}
	c.commitLocked()
	s.mu.Unlock()
	c.settle()
}

// SetHosts registers the given hosts and no others, in one change: every GetConn finds either those before or those
// after. Hosts that stay keep their connections and scores; for the others it is as Add and Remove. Duplicates count
// once. It does not wait for the network, and costs no more per host than one Add; nor does a change of one host among
// many, so a discovery that always tells the whole list needs no differences.
//
// Without addresses the service has no host, and GetConn fails with ErrNoHostAvailable.
func (s *Service) SetHosts(addresses ...string) {
	c := s.newChange()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	if s.subset != nil {
		addresses = s.subset.Set(addresses)
	}
	c.setLocked(addresses)
	c.commitLocked()
	s.mu.Unlock()
	c.settle()
}

func (s *Service) registeredLocked(address string) bool {
	if s.subset != nil {
		return s.subset.Has(address)
	}
	_, known := s.hosts[address]
	return known
}

// change is one change of the hosts in use.
type change struct {
	service *Service
	score   float64       // of new hosts
	now     time.Duration // when they join
	joined  []*host
	left    []*host
}

// newChange calls the ScoreCalculator, so it must be called without a lock.
func (s *Service) newChange() *change {
	return &change{service: s, score: s.calculate(decay.NoTrials), now: s.clock.now()}
}

func (c *change) joinLocked(address string) {
	s := c.service
	h := &host{service: s}
	h.init(address, &s.poolEnv, h)
	h.score.Store(c.score)
	h.mean = decay.NoTrials
	h.window = decay.New(s.slotAt(c.now))
	h.index = int32(len(s.order))
	s.hosts[address] = h
	s.order = append(s.order, h)
	s.size.Add(1)
	s.available.Add(1)
	c.joined = append(c.joined, h)
}

func (c *change) leaveLocked(h *host) {
	s := c.service
	delete(s.hosts, h.address)
	last := s.order[len(s.order)-1]
	last.index = h.index
	s.order[h.index] = last
	s.order[len(s.order)-1] = nil
	s.order = s.order[:len(s.order)-1]
	s.draining[h] = struct{}{}
	s.size.Add(-1)
	c.left = append(c.left, h)
}

// replaceLocked takes one host out of use and another in; nil stands for none.
func (c *change) replaceLocked(out, in *string) {
	if out != nil {
		c.leaveLocked(c.service.hosts[*out])
	}
	if in != nil {
		c.joinLocked(*in)
	}
}

// setLocked has exactly the given hosts in use.
func (c *change) setLocked(addresses []string) {
	s := c.service
	wanted := make(map[string]bool, len(addresses))
	for _, a := range addresses {
		wanted[a] = true
	}
	for i := len(s.order) - 1; i >= 0; i-- { // backwards, since leaving puts the last in the place of the one
		if h := s.order[i]; !wanted[h.address] {
			c.leaveLocked(h)
		}
	}
	for _, address := range addresses {
		if _, known := s.hosts[address]; !known {
			c.joinLocked(address)
		}
	}
}

// commitLocked puts the change in effect for the next call.
func (c *change) commitLocked() {
	if len(c.joined)+len(c.left) > 0 {
		c.service.staleLocked()
	}
}

// settle closes what left, and connects what joined.
func (c *change) settle() {
	s := c.service
	for _, h := range c.left {
		idle, _ := h.shut()
		go h.destroyAll(idle)
		s.forget(h)
	}
	for _, h := range c.joined {
		h.prespawn(s.config.PrespawnConns)
		h.serve()
	}
	if len(c.joined) > 0 {
		s.news.tell()
	}
	if len(c.left) > 0 {
		s.queue.wakeChoosy()
		if s.available.Load() == 0 {
			s.queue.wakeAll(nil, nil) // those who waited for these hosts must look for another
		}
	}
}

// staleLocked has the next call make a new view.
func (s *Service) staleLocked() {
	s.generation.Add(1)
	s.view.Store(nil)
}

// forget lets go of a removed host once it has no connection left, and keeps its counters.
func (s *Service) forget(h *host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.draining[h]; !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == 0 {
		delete(s.draining, h)
		s.retired.add(h.statsLocked())
	}
}
