package pooly

import (
	"time"

	"github.com/3XX0/pooly/internal/decay"
)

// How the hosts of a service change. Add, Remove and SetHosts register addresses. With MaxHosts,
// the subset decides which of them are in use. Each change is made under the service's lock, and is
// in effect when the lock is released. Afterwards settle does what takes time.

// Add registers a host. When it returns, GetConn may pick the host. Its first PrespawnConns
// connections are dialled in the background.
//
// Any string is allowed. A host whose address cannot be dialled is ejected, with the cause in the
// log and in GetConn's errors, and does the other hosts no harm. If the driver can tell beforehand,
// the log says so at once (see Driver). Add does nothing if the address is registered already or
// the service is closed. With MaxHosts, pooly may not use this host, or may stop using another.
func (s *Service) Add(address string) {
	s.mu.Lock()
	known := s.registeredLocked(address)
	s.mu.Unlock()
	if known {
		return
	}
	c := s.newChange()
	s.mu.Lock()
	if _, drained := s.drained[address]; drained {
		s.drained[address] = true
	} else if !s.closed && !s.registeredLocked(address) {
		c.enterLocked(address)
	}
	c.commitLocked()
	s.mu.Unlock()
	c.settle()
}

// Remove takes a host out, even if it is drained. When it returns, GetConn no longer picks the
// host. Its idle connections are closed in the background, leased ones when they are released.
// Removing an unknown address does nothing.
//
// If the address is added again while leases are out, the host gets a new pool. The old leases do
// not count there.
func (s *Service) Remove(address string) {
	c := s.newChange()
	s.mu.Lock()
	if _, drained := s.drained[address]; drained {
		delete(s.drained, address)
	} else if s.registeredLocked(address) {
		c.dropLocked(address)
	}
	c.commitLocked()
	s.mu.Unlock()
	c.settle()
}

// SetHosts registers the given hosts and no others, in one change: every GetConn sees either the
// old hosts or the new ones. Hosts that stay keep their connections and scores. Other hosts are
// added and removed, as by Add and Remove. Duplicates count once. It does not wait for the network,
// and it is cheap to call with the full list each time.
//
// Without addresses the service has no host, and GetConn fails with ErrNoHostAvailable.
func (s *Service) SetHosts(addresses ...string) {
	c := s.newChange()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	addresses = s.withoutDrainedLocked(addresses)
	if s.subset != nil {
		addresses = s.subset.Set(addresses)
	}
	c.setLocked(addresses)
	c.commitLocked()
	s.mu.Unlock()
	c.settle()
}

func (s *Service) registeredLocked(address string) bool {
	if s.drained[address] {
		return true
	}
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

// enterLocked registers an address.
func (c *change) enterLocked(address string) {
	if c.service.subset == nil {
		c.joinLocked(address)
		return
	}
	in, out := c.service.subset.Add(address)
	c.replaceLocked(out, in)
}

// dropLocked undoes enterLocked.
func (c *change) dropLocked(address string) {
	if c.service.subset == nil {
		c.leaveLocked(c.service.hosts[address])
		return
	}
	out, in := c.service.subset.Remove(address)
	c.replaceLocked(out, in)
}

func (c *change) joinLocked(address string) {
	s := c.service
	h := s.newHost(address, c.score, c.now)
	h.index = int32(len(s.order))
	s.hosts[address] = h
	s.order = append(s.order, h)
	s.up.Add(1)
	s.gainedAt.Store(int64(c.now))
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
	c.left = append(c.left, h)
}

// replaceLocked takes one host out of use and another one in. nil: none.
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
	for i := len(s.order) - 1; i >= 0; i-- { // backwards, because leaveLocked moves the last host
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

// commitLocked puts the change into effect.
func (c *change) commitLocked() {
	if len(c.joined)+len(c.left) > 0 {
		c.service.size.Store(int32(len(c.service.order)))
		c.service.staleLocked()
		c.service.changed.ring()
	}
}

// settle closes the pools of hosts that left, and dials hosts that joined.
func (c *change) settle() {
	s := c.service
	for _, h := range c.left {
		idle := h.retire()
		h.destroyAll(idle, forRemoval)
		s.forget(h)
	}
	for _, h := range c.joined {
		if err := h.checkAddress(); err != nil {
			s.log.Warn("pooly: address cannot be dialled",
				"service", s.name, "address", h.address, "error", err)
		}
		if !s.direct.Load() {
			h.prespawn(s.config.PrespawnConns)
		}
	}
	if len(c.joined)+len(c.left) == 0 {
		return
	}
	s.queue.match() // waiters of the hosts that left need others
	s.dialAll()
}

// forget drops a removed host that has no connection left, and keeps its counters.
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
