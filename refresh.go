package pooly

import (
	"math"
	"time"
)

// The service keeps time only while it is used. The first call after a pause wakes it: from then on a timer
// ticks when scores are due and when a slot ends, and the tick that finds that nothing was called since the one
// before puts the service back to sleep. Calls read the number of the slot, not the clock.

// tickMin keeps a service with a tiny MemoizeScoreDuration or DecayDuration from doing nothing but tick.
const tickMin = 100 * time.Microsecond

// touch notes that the service is in use. All but the first call after each tick read one flag.
func (s *Service) touch() {
	if !s.busy.Load() {
		s.wake()
	}
}

// wake makes the service tick, if it does not. It reports whether the scores are due.
func (s *Service) wake() (due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.busy.Store(true)
	if s.ticking {
		return false
	}
	now := s.clock.now()
	s.ticking = true
	s.slot.Store(s.slotAt(now))
	s.scheduleLocked(now)
	return s.dueLocked(now)
}

// scheduleLocked sets the timer for the next time that the scores are due or a slot ends.
func (s *Service) scheduleLocked(now time.Duration) {
	next := s.refreshed + s.config.MemoizeScoreDuration
	if next <= now {
		next = now + s.config.MemoizeScoreDuration
	}
	endOfSlot := time.Duration(s.slotAt(now)+1) * s.slotLength
	delay := max(tickMin, min(next, endOfSlot)-now)
	if s.ticker == nil {
		s.ticker = time.AfterFunc(delay, s.tick)
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
	now := s.clock.now()
	s.slot.Store(s.slotAt(now))
	if s.busy.Swap(false) {
		s.unseen = true
	}
	s.ticking = s.unseen
	due := s.unseen && s.dueLocked(now)
	if due {
		s.unseen = false
	}
	if s.ticking {
		s.scheduleLocked(now)
	}
	s.mu.Unlock()
	if due {
		s.refresh()
	}
}

func (s *Service) slotAt(now time.Duration) int64 {
	return int64(now / s.slotLength)
}

func (s *Service) dueLocked(now time.Duration) bool {
	return s.refreshed == 0 || now-s.refreshed >= s.config.MemoizeScoreDuration
}

// refresh computes the scores if they are due, and puts them in effect.
func (s *Service) refresh() {
	s.mu.Lock()
	now := s.clock.now()
	if s.closed || !s.dueLocked(now) {
		s.mu.Unlock()
		return
	}
	s.refreshed = now
	s.slot.Store(s.slotAt(now))
	type record struct {
		host                *host
		score, trials, mean float64
	}
	records := make([]record, len(s.order))
	for i, h := range s.order {
		records[i].host = h
	}
	s.mu.Unlock()

	slot := s.slotAt(now)
	for i := range records {
		r := &records[i]
		r.host.mu.Lock()
		r.score, r.trials, r.mean = r.host.recordLocked(slot, now)
		r.host.mu.Unlock()
		r.score, r.mean = s.calculate(r.score), s.calculate(r.mean)
	}

	s.mu.Lock()
	for _, r := range records {
		r.host.score.Store(r.score)
		r.host.trials, r.host.mean = r.trials, r.mean
	}
	s.generation++
	s.mu.Unlock()
	s.rebuild()
}

// calculate passes a score through the ScoreCalculator. If that panics or returns no number, the score stays as
// it was, and a result outside [0, 1] is brought to the nearer end; either is logged, the first time.
func (s *Service) calculate(score float64) (result float64) {
	if s.config.ScoreCalculator == nil {
		return score
	}
	defer func() {
		if v := recover(); v != nil {
			result = score
			s.calculatorOnce.Do(func() { _ = recovered(s.log, "ScoreCalculator.Compute", v) })
		}
	}()
	result = s.config.ScoreCalculator.Compute(score)
	if !(result >= HostDown && result <= HostUp) {
		bad := result
		s.calculatorOnce.Do(func() {
			s.log.Error("pooly: ScoreCalculator returned no score", "service", s.name, "of", score, "result", bad)
		})
		if result = clampScore(result); math.IsNaN(bad) {
			result = score
		}
	}
	return result
}
