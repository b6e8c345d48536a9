package pooly

import (
	"slices"
	"time"
)

// Rounds of dials are for callers who wait while no host is up. One goroutine dials for all of
// them, so dials do not multiply with callers. It ends when nobody waits or a host is up.
//
// A round ends when each host has failed once. In the first round, failures of the last roundGrace
// count too. A call fails after GetAttempts rounds. Rounds count that began while the call waited,
// or at most roundGrace before. A round that a host ends by being up does not count.

// roundDials is how many dials of a round may be in flight at once.
const roundDials = 64

// roundGrace is how old a failure may be to count for a caller that comes now.
const roundGrace = DefaultRetryDelay

// dialAll starts rounds of dials if callers wait and no host is up. If there are no hosts, it fails
// the callers.
func (s *Service) dialAll() {
	if s.size.Load() == 0 {
		s.queue.fail(forever, 0, ErrNoHostAvailable)
	}
	if s.stranded() && !s.dialling.Swap(true) {
		s.tasks.start(s.runRounds)
	}
}

// stranded reports whether callers wait and no host is up.
func (s *Service) stranded() bool {
	return s.up.Load() <= 0 && s.queue.length.Load() > 0 && s.size.Load() > 0
}

func (s *Service) runRounds() {
	for grace := roundGrace; s.stranded(); grace = 0 {
		s.widen()
		began := s.clock.now()
		if !s.runRound(began - grace) {
			break
		}
		if s.up.Load() > 0 {
			continue
		}
		s.queue.fail(began+roundGrace, s.config.GetAttempts, ErrNoHostAvailable)
		if !s.pause(s.config.RetryDelay) {
			break
		}
	}
	s.dialling.Store(false)
	s.dialAll() // for a caller who came just before
}

// runRound dials each host that has not failed since the given time. It returns when each has
// failed or one is up. A host that does not answer within FallbackDelay does not keep the others
// from being dialled again. runRound returns false if the service is closed.
func (s *Service) runRound(since time.Duration) bool {
	left := s.all()
	ended := make(chan struct{}, 1)
	d := func() *dial {
		return &dial{ended: func() {
			select {
			case ended <- struct{}{}:
			default:
			}
		}}
	}
	patience := s.fallback
	if patience <= 0 {
		patience = forever
	}
	look := time.NewTicker(min(patience, s.config.RetryDelay)) // for dials already in flight
	defer look.Stop()
	again := time.NewTicker(patience)
	defer again.Stop()
	for s.up.Load() <= 0 {
		dialing := 0
		left = slices.DeleteFunc(left, func(h *host) bool {
			if h.failedSince(since) {
				return true
			}
			if dialing >= roundDials {
				return false
			}
			dialing++
			return !h.dialDown(d())
		})
		if len(left) == 0 {
			return true
		}
		select {
		case <-ended:
		case <-look.C:
		case <-again.C:
			for _, h := range s.all() {
				h.dialDown(d())
			}
		case <-s.done:
			return false
		}
	}
	return true
}

// failedSince reports whether a dial of the host has failed at the given time or later.
func (h *host) failedSince(t time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failedAt > 0 && h.failedAt >= t
}

// pause waits for d. It returns false if the service is closed first.
func (s *Service) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done:
		return false
	}
}
