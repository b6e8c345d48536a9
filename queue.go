package pooly

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// queue brings together callers without a connection and pools that have one. Usually either
// callers wait or pools have offers. Both exist at once only while serving is in progress, or if
// callers avoid the pools that offer.
//
// The queue serves calls in the order in which they began to wait. In overload that order would
// give each connection to a caller that has little time left to use it. So late waiters (see
// waiter.late) are served last, and the newest of them first. This is adaptive LIFO: Maurer, Fail
// at Scale, ACM Queue 13(8), 2015. Waiters without a deadline are never late.
//
// There is one queue per service, or per Pool used alone. Its lock may be taken under a pool's
// lock. Nothing is locked under it.
type queue struct {
	clock      clock        // immutable
	max        int          // immutable; MaxWaiting, 0: no limit
	length     atomic.Int32 // of waiting, returned and late together
	shed       atomic.Uint64
	matching   atomic.Bool // matchRest is running
	matchAgain atomic.Bool // matchRest must run once more
	spare      sync.Pool   // of *waiter, to save allocations

	mu       mutex // guards the fields below and all lines of waiters of the service
	waiting  line
	returned line    // waiters whose dial failed or takes long; they came before those in waiting
	late     line    // see waiter.late; the newest is served first
	offers   []*line // of the pools that have an idle connection, or room for a dial, and nobody to give it to
	turn     int     // which offer match takes next
	claimed  int     // dials in flight for waiters of the queue
	closed   bool
}

const (
	// A waiter is late when it has waited for lateAfter, and for 1/lateShare of the time that it had
	// until its deadline.
	lateAfter = 50 * time.Millisecond
	lateShare = 4

	// skipMost is how many waiters a pool examines to find one that does not avoid it.
	skipMost = 4

	// matchMost is how many offers a call examines itself.
	matchMost = 8
)

// newWaiter returns a waiter, recycled if possible. Recycling is safe because nobody keeps a waiter
// that was answered or has left. Each queue recycles its own waiters, so that no channel leaves its
// testing/synctest bubble.
func (q *queue) newWaiter() *waiter {
	w, _ := q.spare.Get().(*waiter)
	if w == nil {
		return &waiter{ready: make(chan struct{}, 1)}
	}
	return w
}

func (q *queue) recycle(w *waiter) {
	*w = waiter{ready: w.ready}
	q.spare.Put(w)
}

// push has w wait in the queue. back says that the call has waited before and was given a dead
// connection: w then goes ahead of calls that came later. The caller must call match afterwards if
// there are offers.
func (q *queue) push(w *waiter, back bool) (offers bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return false, ErrPoolClosed
	case back:
		q.pushLocked(&q.returned, w)
	case q.max > 0 && int(q.length.Load()) >= q.max:
		q.shed.Add(1)
		return false, ErrOverloaded
	default:
		q.pushLocked(&q.waiting, w)
	}
	return len(q.offers) > 0, nil
}

func (q *queue) pushLocked(l *line, w *waiter) {
	l.push(w)
	q.length.Add(1)
}

func (q *queue) removeLocked(w *waiter) {
	w.line.remove(w)
	q.length.Add(-1)
}

// join has w wait in a pool's line. The caller must hold the pool's lock.
func (q *queue) join(l *line, w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.push(w)
}

// first removes and returns the oldest waiter of a pool's line, nil if there is none. The caller
// must hold the pool's lock.
func (q *queue) first(l *line) *waiter {
	if l.length.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w := l.front
	if w != nil {
		l.remove(w)
	}
	return w
}

// leave removes w from its line and returns that line. It returns nil if w has been answered or is
// about to be.
func (q *queue) leave(w *waiter) *line {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := w.line
	if l == nil {
		return nil
	}
	if l.server == nil {
		q.removeLocked(w)
	} else {
		l.remove(w)
	}
	return l
}

// displace moves the waiters of a pool's line to the queue. The caller must call match afterwards.
func (q *queue) displace(l *line) {
	if l.length.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for l.front != nil {
		w := l.front
		l.remove(w)
		if q.closed {
			w.answer(nil, ErrPoolClosed)
			continue
		}
		q.pushLocked(&q.returned, w)
	}
}

// next removes and returns the waiter that p should serve. If there is none, it records p's offer
// and returns nil. shortest is the shortest time that a lease lasts: a caller of Do with less time
// left is answered with an error.
func (q *queue) next(p *line, shortest time.Duration) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.length.Load() == 0 {
		q.offerLocked(p)
		return nil
	}
	for {
		w := q.pickLocked(p)
		if w == nil {
			q.offerLocked(p)
			return nil
		}
		q.removeLocked(w)
		if !w.whole || shortest == 0 {
			return w
		}
		if left := w.deadline - q.clock.now(); left < shortest {
			q.shed.Add(1)
			w.answer(nil, &hopelessError{left: max(0, left), needed: shortest})
			continue
		}
		return w
	}
}

// claim reports whether p should dial for a waiter of the queue. The waiter stays in the queue, and
// whatever comes first serves it. If p should not dial, claim records p's offer.
func (q *queue) claim(p *line) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if int(q.length.Load()) > q.claimed && q.pickLocked(p) != nil {
		q.claimed++
		return true
	}
	q.offerLocked(p)
	return false
}

// unclaim gives up n claims.
func (q *queue) unclaim(n int) {
	q.mu.Lock()
	q.claimed -= n
	q.mu.Unlock()
}

// pickLocked returns the waiter that p should serve, nil if there is none. It skips waiters that
// avoid p. After skipMost of these it returns the first one, because a preference must not cost a
// walk through the queue.
func (q *queue) pickLocked(p *line) *waiter {
	q.setLateAsideLocked()
	var first *waiter
	looked := 0
	for _, l := range [...]*line{&q.returned, &q.waiting, &q.late} {
		newest := l == &q.late
		for w := l.end(newest); w != nil; w = w.neighbour(newest) {
			if len(w.avoid) == 0 || !slices.Contains(w.avoid, p) {
				return w
			}
			if first == nil {
				first = w
			}
			if looked++; looked > skipMost {
				return first
			}
		}
	}
	return nil
}

// setLateAsideLocked moves late waiters to their own line.
func (q *queue) setLateAsideLocked() {
	var now time.Duration // 0: not needed so far
	for _, l := range [...]*line{&q.returned, &q.waiting} {
		for w := l.front; w != nil && w.deadline != forever; w = l.front {
			if now == 0 {
				now = q.clock.now()
			}
			if !w.late(now) {
				break
			}
			l.remove(w)
			q.late.push(w)
		}
	}
}

// late reports whether w has waited for at least lateAfter, and for 1/lateShare of the time that it
// had until its deadline.
func (w *waiter) late(now time.Duration) bool {
	waited := now - w.since
	return w.deadline != forever && waited >= lateAfter && waited >= (w.deadline-w.since)/lateShare
}

func (q *queue) offerLocked(p *line) {
	if p.offer == 0 && !q.closed {
		q.offers = append(q.offers, p)
		p.offer = int32(len(q.offers))
	}
}

// withdraw removes a pool's offer.
func (q *queue) withdraw(p *line) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.offer == 0 {
		return
	}
	last := q.offers[len(q.offers)-1]
	q.offers[p.offer-1] = last
	last.offer = p.offer
	q.offers[len(q.offers)-1] = nil
	q.offers = q.offers[:len(q.offers)-1]
	p.offer = 0
}

// match has pools with offers serve waiters. Call it without a pool's lock after waiters were
// pushed or displaced.
func (q *queue) match() {
	for !q.matchSome() {
	}
}

// matchRest runs match in the background. One goroutine does it for all calls.
func (q *queue) matchRest() {
	q.matchAgain.Store(true)
	if q.matching.Swap(true) {
		return
	}
	go func() {
		for q.matchAgain.Swap(false) {
			q.match()
			q.matching.Store(false)
			if q.matchAgain.Load() && q.matching.Swap(true) {
				return // a call has begun another
			}
		}
	}()
}

// matchSome is match for up to matchMost offers. It reports whether that was enough. Offers may be
// out of date, and there may be as many as hosts.
func (q *queue) matchSome() bool {
	unwanted := 0
	for range matchMost {
		p := q.anyOffer(nil)
		if p == nil || q.length.Load() == 0 {
			return true
		}
		if p.server.serve() {
			unwanted++
		}
	}
	return unwanted == matchMost // the waiters avoid these pools, or dials are under way for all
}

// anyOffer returns a pool that has an offer and is not in avoid, each pool in turn. It returns nil
// if it finds none after a few tries.
func (q *queue) anyOffer(avoid []*line) *line {
	q.mu.Lock()
	defer q.mu.Unlock()
	for range min(len(q.offers), len(avoid)+1) {
		q.turn++
		if p := q.offers[q.turn%len(q.offers)]; !slices.Contains(avoid, p) {
			return p
		}
	}
	return nil
}

// settleFor has w accept any pool.
func (q *queue) settleFor(w *waiter) {
	q.mu.Lock()
	w.avoid = nil
	q.mu.Unlock()
}

// fail answers with err all waiters whose rounds are used up, which are those whose waiter.round is
// at most last. Lines are sorted by round, except for small differences, so fail looks only at the
// front of each.
func (q *queue) fail(last int64, err error) {
	q.mu.Lock()
	var failed []*waiter
	for _, l := range []*line{&q.late, &q.returned, &q.waiting} {
		for w := l.front; w != nil && w.round <= last; w = l.front {
			q.removeLocked(w)
			failed = append(failed, w)
		}
	}
	q.mu.Unlock()
	for _, w := range failed {
		w.answer(nil, err)
	}
}

// close answers all waiters with ErrPoolClosed and lets no more in.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.failAll(ErrPoolClosed)
}

// failAll answers all waiters of the queue with err.
func (q *queue) failAll(err error) {
	q.fail(math.MaxInt64, err)
}
