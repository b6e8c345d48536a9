package pooly

import (
	"sync/atomic"
	"time"
)

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
		if shortest > 0 && shortest <= int64(lasted) || s.now.CompareAndSwap(shortest, max(1, int64(lasted))) {
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
