package pooly

import (
	"math"
	"sync/atomic"
	"time"
)

// limiter finds out how many leases of a host may be out at once, below MaxConns. So callers queue
// in pooly, which knows their deadlines, and not in a server, which does not.
//
// It is TCP's additive increase and multiplicative decrease (Jacobson, Congestion Avoidance and
// Control, SIGCOMM 1988). A deadline that passes takes the place of a lost packet:
//   - A lease that times out at the host multiplies the limit by limiterCut.
//   - A lease that ends well while the limit is in use adds step/limit. So the limit grows by step
//     in the time that one lease takes.
//   - step is 1. After limiterCalm without a cut it grows too, so that a large limit is soon back.
//   - While leases go on and none ends, nothing tells whether the limit is right. So each
//     limiterCalm without a cut and without a lease that ends well adds 1.
//   - After limiterEnd without a cut the limit is lifted.
//
// It is guarded by Pool.mu.
type limiter struct {
	limit  float64 // 0: no limit below MaxConns
	step   float64
	cutAt  time.Duration // when the limit was last cut
	wellAt time.Duration // when a lease last ended well under the limit
	usual  time.Duration // moving average of timed leases that ended well
	endAt  time.Duration // when such a lease last ended
}

const (
	limiterCut   = 0.9
	limiterSpeed = 4
	limiterCalm  = time.Second
	limiterEnd   = 10 * time.Second
	usualWeight  = 8               // about how many leases usual averages
	usualMemory  = 2 * time.Second // how long usual is valid after a lease ended well
)

// observe records how long a lease that ended well has lasted.
func (l *limiter) observe(lasted, now time.Duration) {
	if l.usual == 0 {
		l.usual = lasted
	}
	l.usual += (lasted - l.usual) / usualWeight
	l.endAt = now
}

// hurried reports whether a lease had less time than leases of the host usually take. It reports
// false if none has ended well for usualMemory: a host that serves nobody must not be excused
// forever.
func (l *limiter) hurried(lasted, now time.Duration) bool {
	return lasted < l.usual && now-l.endAt < usualMemory
}

// excuse is for answers on connections of DialContext, which have no limit. It learns how long they
// take, and clears a timeout that left the host less time.
func (l *limiter) excuse(o *outcome, lasted, now time.Duration) {
	switch {
	case lasted <= 0:
	case o.timeout && l.hurried(lasted, now):
		o.rated, o.failure = false, false
	case o.well():
		l.observe(lasted, now)
	}
}

// cut records a lease that timed out while inUse leases were out.
func (l *limiter) cut(inUse int32, now time.Duration) {
	l.step, l.cutAt = 1, now
	if l.limit == 0 {
		l.limit = float64(inUse)
	}
	l.limit = max(1, min(l.limit, float64(inUse))*limiterCut)
}

// grow records a lease that ended well while inUse leases were out. A limit that reaches most is
// lifted.
func (l *limiter) grow(inUse int32, most int, c clock) {
	if l.limit == 0 {
		return
	}
	l.wellAt = c.now()
	calm := l.wellAt - l.cutAt
	if calm > limiterEnd {
		l.limit = 0
		return
	}
	if float64(inUse) < math.Floor(l.limit) {
		return // the limit is not in use
	}
	share := 1 / l.limit
	l.limit += share * l.step
	if calm > limiterCalm {
		l.step += share * l.step / limiterSpeed
	}
	if l.limit >= float64(most) {
		l.limit = 0
	}
}

// relax is called each limiterCalm while there is a limit. A limit that reaches most is lifted.
func (l *limiter) relax(now time.Duration, most int) {
	switch calm := now - l.cutAt; {
	case calm >= limiterEnd:
		l.limit = 0
	case calm >= limiterCalm && now-l.wellAt >= limiterCalm:
		if l.limit++; l.limit >= float64(most) {
			l.limit = 0
		}
	}
}

// allowed returns how many leases may be out, which is at most most.
func (l *limiter) allowed(most int) int32 {
	if l.limit == 0 {
		return int32(most)
	}
	return int32(min(most, int(l.limit)))
}

// shortestLease is the duration of the shortest lease of the last one to two seconds that ended
// well, at any host. A caller with less time left cannot use a connection. It forgets soon, because
// hosts may become faster.
//
// Its methods may be called concurrently, without a lock: a lease that ends as a second ends may
// count in either.
type shortestLease struct {
	began     atomic.Int64 // when the current second began, by the clock; 0: nothing is known
	now, last atomic.Int64 // the shortest of this second and of the one before; 0: none
}

const shortestWindow = int64(time.Second)

func (s *shortestLease) observe(lasted, now time.Duration) {
	s.roll(int64(now))
	for {
		shortest := s.now.Load()
		if shortest > 0 && shortest <= int64(lasted) {
			return
		}
		if s.now.CompareAndSwap(shortest, max(1, int64(lasted))) {
			return
		}
	}
}

// value returns 0 if nothing is known.
func (s *shortestLease) value(now time.Duration) time.Duration {
	s.roll(int64(now))
	shortest, last := s.now.Load(), s.last.Load()
	if shortest == 0 || last > 0 && last < shortest {
		shortest = last
	}
	return time.Duration(shortest)
}

// roll begins a new second if the current one has passed.
func (s *shortestLease) roll(now int64) {
	began := s.began.Load()
	switch {
	case began == 0 || now-began >= 2*shortestWindow:
		if s.began.CompareAndSwap(began, now) {
			s.now.Store(0)
			s.last.Store(0)
		}
	case now-began >= shortestWindow:
		if s.began.CompareAndSwap(began, began+shortestWindow) {
			s.last.Store(s.now.Swap(0))
		}
	}
}
