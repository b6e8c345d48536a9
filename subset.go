package pooly

import (
	"math/rand/v2"

	"github.com/3XX0/pooly/internal/rendezvous"
)

// newSubset returns nil, which means that all hosts are in use, if max is 0. A seed of 0 stands for
// a random one.
func newSubset(max int, seed uint64) *rendezvous.Subset {
	if max == 0 {
		return nil
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	return rendezvous.New(max, seed)
}

// widen brings more hosts into use if all hosts in use have been ejected. So the client is not cut
// off while its subset is down.
//
// The subset widens to four times MaxHosts at most. The limit is for the case in which everything
// is down: without it each client would probe each host, which MaxHosts is there to prevent.
func (s *Service) widen() {
	if s.config.MaxHosts == 0 {
		return
	}
	c := s.newChange()
	s.mu.Lock()
	if s.up.Load() > 0 || s.closed || !s.subset.Widen() {
		s.mu.Unlock()
		return
	}
	c.setLocked(s.subset.InUse())
	c.commitLocked()
	s.mu.Unlock()
	s.log.Warn("pooly: all hosts of the subset are ejected, using more",
		"service", s.name, "hosts", len(c.joined))
	c.settle()
}

// narrow undoes widen once half of the first MaxHosts are up.
func (s *Service) narrow() {
	if s.config.MaxHosts == 0 {
		return
	}
	c := s.newChange()
	s.mu.Lock()
	if s.closed || !s.subset.Widened() {
		s.mu.Unlock()
		return
	}
	first := s.subset.First()
	up := 0
	for _, address := range first {
		if s.hosts[address].isUp() {
			up++
		}
	}
	if 2*up >= len(first) {
		s.subset.Narrow()
		c.setLocked(s.subset.InUse())
		c.commitLocked()
	}
	s.mu.Unlock()
	c.settle()
}

// isUp reports whether the host is not ejected.
func (h *host) isUp() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.status != ejected
}
