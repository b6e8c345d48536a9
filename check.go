package pooly

import (
	"slices"
	"time"
)

// Hosts that are up and unused are checked after CheckInterval. One timer of the service looks at
// all hosts, checkLooks times in each interval.
const checkLooks = 32

// checkJitter is the largest share by which the interval of a host is lengthened at random.
const checkJitter = 0.1

func (s *Service) startChecks() {
	if s.config.CheckInterval == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkTimer = time.AfterFunc(s.checkPeriod(), s.checkHosts)
}

func (s *Service) checkPeriod() time.Duration {
	return max(time.Millisecond, s.config.CheckInterval/checkLooks)
}

func (s *Service) checkHosts() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.checkTimer.Reset(s.checkPeriod())
	hosts := slices.Clone(s.order)
	s.mu.Unlock()
	now := s.clock.now()
	for _, h := range hosts {
		h.checkUnused(now)
	}
}

// checkUnused checks the host if it is up, and neither was used nor dialled for CheckInterval.
func (h *host) checkUnused(now time.Duration) {
	h.mu.Lock()
	defer h.unlock()
	uses := h.gets + h.dials // a dial, such as for MinIdle, checks the host too
	used := h.checkAt == 0 || uses != h.checkedUses || h.load.Load() > 0 || h.dialing > 0
	if !used && now < h.checkAt || h.closed {
		return
	}
	interval := h.cluster.config.CheckInterval
	jitter := time.Duration(checkJitter * h.cluster.rng.Float64() * float64(interval))
	h.checkAt = later(now, later(interval, jitter))
	h.checkedUses = uses
	if used || h.status == ejected {
		return
	}
	switch coldest := h.idle.bottom(); {
	case h.pinger != nil && coldest != nil:
		h.borrowLocked(coldest)
		go h.checkIdle(coldest)
	case h.mayDialLocked():
		h.startDialLocked(&dial{check: true})
	case h.open-h.apart >= h.most() && coldest != nil:
		h.idle.remove(coldest)
		h.settleLocked()
		go h.destroy(coldest, forSurplus) // without the lock
		h.checkAt = now                   // there will be room at the next look
	}
}
