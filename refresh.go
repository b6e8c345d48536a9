package pooly

import (
	"context"
	"slices"
	"time"
)

// The service keeps time only while it is used. The first call after a pause wakes it. From then on
// a timer ticks when scores are due and when a slot ends. A tick that finds no call since the last
// tick puts the service back to sleep. Calls read the number of the slot, not the clock.

// tickMin bounds the ticks of a service with a tiny MemoizeScoreDuration or DecayDuration.
const tickMin = 100 * time.Microsecond

// awake starts the ticks if they do not run. It reports whether scores are due.
func (s *Service) awake() (due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	now := s.keepTimeLocked()
	s.busy.Store(true)
	s.scheduleLocked(now, true)
	asleep := !s.ticking
	s.ticking = true
	return asleep && s.refreshed != 0 && s.dueLocked() <= now // else scores are what Add set
}

// keepTimeLocked updates the clocks that calls read.
func (s *Service) keepTimeLocked() (now time.Duration) {
	now = s.clock.now()
	s.slot.Store(s.slotAt(now))
	s.coarse.Store(int64(now))
	return now
}

// scheduleLocked sets the timer for the next time that scores are due. If the service is in use,
// the timer also fires when a slot ends.
func (s *Service) scheduleLocked(now time.Duration, inUse bool) {
	next := s.dueLocked()
	if next <= now {
		next = later(now, s.config.MemoizeScoreDuration)
	}
	if inUse {
		next = min(next, later(time.Duration(s.slotAt(now))*s.slotLength, s.slotLength))
	}
	delay := max(tickMin, next-now)
	if s.ticker == nil {
		s.ticker = time.AfterFunc(delay, func() { s.tasks.run(s.tick) })
	} else {
		s.ticker.Reset(delay)
	}
}

func (s *Service) tick() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	now := s.keepTimeLocked()
	inUse := s.busy.Swap(false)
	s.unseen = s.unseen || inUse
	s.ticking = s.unseen
	due := s.unseen && s.dueLocked() <= now
	if s.ticking {
		s.scheduleLocked(now, inUse)
	}
	if due {
		s.unseen = false
	}
	s.mu.Unlock()
	if due {
		s.rebuild(true)
	}
}

// refreshRest limits refreshing to a share of the time: a refresh that took d is followed by a
// pause of at least refreshRest·d. See bench/NOTES.md for the value.
const refreshRest = 400

// dueLocked returns when the scores should be computed next. It uses the shorter of the last two
// durations, so that one slow refresh does not count.
func (s *Service) dueLocked() time.Duration {
	if s.refreshed == 0 {
		return 0
	}
	rest := refreshRest * min(s.took[0], s.took[1])
	return later(s.refreshed, max(s.config.MemoizeScoreDuration, rest))
}

// refresh computes the scores if they are due, and puts them in effect.
func (s *Service) refresh() {
	s.mu.Lock()
	due := !s.closed && s.dueLocked() <= s.clock.now()
	s.mu.Unlock()
	if !due {
		return
	}
	if b := s.rebuild(true); b != nil {
		b.wait(context.Background())
	}
}

// record computes the scores of the hosts and what is usual among them.
func (s *Service) record(hosts []*host, at moment) {
	elapsed := s.pace.turn(&at, len(hosts), s.config.DecayDuration)
	trials, best, bestIsWorse := 0.0, 0.0, false
	for _, h := range hosts {
		r := h.record(at)
		trials += r.trials
		if r.mean > best {
			best, bestIsWorse = r.mean, r.worse
		}
	}
	if bestIsWorse {
		forgetMost(hosts)
	}
	s.pace.add(trials, at.now)
	rate := trials / elapsed.Seconds()
	s.rate.Store(rate)
	s.sparse.Store(rate > timedPerSecond)
	scouts := min(scoutMost/float64(max(1, len(hosts))), float64(elapsed)/float64(scoutEvery)/trials)
	s.leastShare.Store(scouts)
	s.compareHosts(hosts)
}

// afterDoubt is the share of each host's trials that still counts when the best host has become
// worse.
const afterDoubt = 0.3

// forgetMost has strategies try all hosts again. It is called when the best host has become worse:
// others may have changed as well, and nobody has looked.
func forgetMost(hosts []*host) {
	for _, h := range hosts {
		h.mu.Lock()
		h.learnt.Doubt(afterDoubt)
		h.mu.Unlock()
	}
}

// compared is how many hosts are compared to find what is usual. More hosts would change little,
// and take longer.
const compared = 64

// compareHosts finds the median score and the median latency of the hosts. A median does not move
// while fewer than half of the hosts fail.
func (s *Service) compareHosts(hosts []*host) {
	var scores, latencies [compared]float64
	tried, timed := scores[:0], latencies[:0]
	n := min(len(hosts), compared)
	for i := range n {
		h := hosts[i*len(hosts)/n]
		h.mu.Lock()
		learnt, latency := h.learnt, h.peak // not h.latency, which a failure raises
		h.mu.Unlock()
		if learnt.Trials >= 1 { // not the newest trials: there are none of hosts that are not used
			tried = append(tried, learnt.Mean())
		}
		if latency > 0 {
			timed = append(timed, float64(latency))
		}
	}
	s.usualScore.Store(median(tried))
	s.usualLatency.Store(int64(median(timed)))
}

// median returns the median, the higher one of two, or 0 of none. It sorts the values.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
