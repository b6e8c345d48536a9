package pooly

import (
	"context"
	"errors"
	"time"
)

// ejection is what a host remembers of its failures. It is guarded by the pool's lock.
//
// A host is ejected when a dial of it fails, or when ConsecutiveFailures of its leases in a row have ended with a
// fatal error. Then it is probed, later each time that fails, and restored by the first probe that connects. A
// host that was restored is on probation until a lease ends well: one fatal error ejects it again, for twice
// as long as the last time.
type ejection struct {
	fatal      int32         // Releases with a fatal error in a row
	setbacks   int32         // ejections and failed probes since a lease last ended well
	probe      *time.Timer   // nil unless the host is ejected
	probeAt    time.Duration // when probe fires or has fired, by the pool's clock
	cause      error         // what the last dial, or lease, failed with; nil unless the host is ejected
	byFeedback bool          // it is ejected because of its leases: it may well connect
	ejections  uint64        // in all
}

// judgeLocked takes note of how a lease ended, and reports whether that ejected the host.
func (h *host) judgeLocked(c *conn, o outcome) (newly bool) {
	if h.closed || h.health == ejected || c.epoch != h.epoch {
		return false // the lease tells nothing new
	}
	if !o.fatal {
		if o.rated { // or it speaks neither for nor against the host
			h.fatal, h.setbacks, h.doubted = 0, 0, false
		}
		return false
	}
	limit := h.service.config.ConsecutiveFailures
	if limit < 0 || !o.rated || errors.Is(o.cause, context.Canceled) {
		return false
	}
	if h.setbacks > 0 {
		limit = 1
	}
	h.doubted = true
	h.fatal++
	if int(h.fatal) < limit || !h.ejectByFeedbackLocked() {
		return false
	}
	h.fatal, h.cause, h.byFeedback = 0, o.cause, true
	h.scheduleProbeLocked(true)
	return true
}

// ejectByFeedbackLocked ejects the host, unless MaxEjectionPercent of all are ejected.
func (h *host) ejectByFeedbackLocked() bool {
	s := h.service
	s.ejecting.Lock()
	defer s.ejecting.Unlock()
	hosts, available := int(s.size.Load()), int(s.available.Load())
	most := hosts - 1
	if percent := s.config.MaxEjectionPercent; percent > 0 {
		most = min(most, max(1, hosts*percent/100))
	}
	if available <= hosts-most {
		return false
	}
	h.setHealthLocked(ejected)
	return true
}

// scheduleProbeLocked sees to it that an ejected host is probed, later with each setback. What is none, a dial that
// failed for a caller who had no other host, changes nothing.
func (h *host) scheduleProbeLocked(setback bool) {
	if !setback && h.probe != nil {
		return
	}
	h.setbacks++
	h.doubted = true
	config := &h.service.config
	delay := config.MaxEjectionTime
	if doublings := h.setbacks - 1; doublings < 63 && config.BaseEjectionTime <= delay>>doublings {
		delay = config.BaseEjectionTime << doublings
	}
	h.probeInLocked(delay - time.Duration(ejectionJitter*h.service.rng.Float64()*float64(delay)))
}

func (h *host) probeInLocked(delay time.Duration) {
	h.probeAt = h.clock.now() + delay
	if h.probe == nil {
		h.probe = time.AfterFunc(delay, h.runProbe)
	} else {
		h.probe.Reset(delay)
	}
}

// stopProbeLocked ends the probing of a host that is back, removed or closed.
func (h *host) stopProbeLocked() {
	if h.probe != nil {
		h.probe.Stop()
	}
	h.probe = nil
}

// runProbe dials an ejected host once. Its connection stays in the pool. If a dial is in flight already, or there is
// no place for one, that dial or the next probe tells; but a host that was ejected because of its leases, and
// whose connections take all places, is restored for these to tell.
func (h *host) runProbe() {
	h.mu.Lock()
	restored := false
	switch {
	case h.closed || h.health != ejected:
	case h.mayDialLocked():
		h.startDialLocked(dialJob{tries: 1, probe: true})
	case h.byFeedback && h.dialing == 0:
		h.setHealthLocked(healthy)
		h.serveLocked()
		restored = true
	default:
		h.probeInLocked(h.service.config.BaseEjectionTime)
	}
	h.unlock()
	if restored {
		h.reportRestored()
	}
}

// nextProbeLocked returns how long it takes until the next probe; 0 if there will be none, or it is due.
func (h *host) nextProbeLocked() time.Duration {
	if h.probe == nil {
		return 0
	}
	return max(0, h.probeAt-h.clock.now())
}

func (h *host) reportEjected(cause error) {
	h.log.Warn("pooly: host ejected", "service", h.service.name, "address", h.address, "cause", cause)
	h.service.rebuildSoon()
}

func (h *host) reportRestored() {
	h.log.Info("pooly: host restored", "service", h.service.name, "address", h.address)
	h.service.narrow()
	h.service.rebuildSoon()
}
