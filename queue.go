package pooly

import (
	"context"
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
// lateAfter) are served last, and the newest of them first. This is adaptive LIFO: Maurer, Fail
// at Scale, ACM Queue 13(8), 2015. Waiters without a deadline are never late.
//
// There is one queue per service, or per Pool used alone. Its lock may be taken under a pool's
// lock. Nothing is locked under it.
type queue struct {
	clock    clock        // immutable
	max      int          // immutable; MaxWaiting, 0: no limit
	queued   func()       // immutable; called when a call waits here; nil for a Pool used alone
	length   atomic.Int32 // of waiting, returned and late together
	shed     atomic.Uint64
	shortest shortestLease
	walks    atomic.Int32 // requests for matchAll; it runs unless this is 0
	spare    sync.Pool    // of *waiter, to save allocations

	mu       mutex // guards the fields below and all lines of waiters of the service
	waiting  line
	returned line    // waiters whose dial failed or takes long; they came before those in waiting
	late     line    // late waiters, the newest first
	offers   []*line // of the pools that can serve one more caller
	asked    int     // counts calls of match, so that each begins with another offer
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

func newQueue(c clock, most int) *queue {
	q := &queue{clock: c, max: most}
	q.spare.New = func() any { return &waiter{ready: make(chan struct{}, 1)} }
	for _, l := range [...]*line{&q.waiting, &q.returned, &q.late} {
		l.total = &q.length
	}
	return q
}

// recycle keeps a waiter for another call. That is safe because nobody keeps a waiter that was
// answered or has left. Each queue recycles its own waiters, so that no channel leaves its
// testing/synctest bubble.
func (q *queue) recycle(w *waiter) {
	*w = waiter{ready: w.ready}
	q.spare.Put(w)
}

// push makes w wait in the queue, and lets pools with offers serve it. back says that the call has
// waited before and was given a dead connection: w then goes ahead of calls that came later.
func (q *queue) push(w *waiter, back bool) error {
	q.mu.Lock()
	l := &q.waiting
	var err error
	switch {
	case q.closed:
		err = ErrPoolClosed
	case back:
		l = &q.returned
	case q.max > 0 && int(q.length.Load()) >= q.max:
		q.shed.Add(1)
		err = ErrOverloaded
	}
	if err != nil {
		q.mu.Unlock()
		return err
	}
	l.insert(l.back, w, nil)
	offers := len(q.offers) > 0
	q.mu.Unlock()
	if q.queued != nil {
		q.queued()
	}
	if offers {
		q.match()
	}
	return nil
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
		q.returned.insert(q.returned.back, w, nil)
	}
}

// next removes and returns the waiter that p should serve. If there is none, it records p's offer
// and returns nil. A caller of Do that has less time left than the shortest lease took is answered
// with an error.
func (q *queue) next(p *line) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		w := q.pickLocked(p)
		if w == nil {
			q.offerLocked(p)
			return nil
		}
		w.line.remove(w)
		if !w.whole {
			return w
		}
		now := q.clock.now()
		left, needed := max(0, w.deadline-now), q.shortest.value(now)
		if left >= needed {
			return w
		}
		q.shed.Add(1)
		w.answer(nil, &hopelessError{left: left, needed: needed})
	}
}

// claim reports whether p should dial for a waiter of the queue. The waiter stays in the queue, and
// whatever comes first serves it. If p should not dial, claim records p's offer. values is the
// context of a waiter, whose values the dial gets; nil: none.
func (q *queue) claim(p *line) (values context.Context, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if int(q.length.Load()) > q.claimed {
		if w := q.pickLocked(p); w != nil {
			q.claimed++
			return q.valuesLocked(w), true
		}
	}
	q.offerLocked(p)
	return nil, false
}

// valuesLocked returns the context of a waiter, whose values a dial gets. It gives each context
// away once: the first waiter's, or else the newest waiter's, whose arrival may be why there is
// another dial.
func (q *queue) valuesLocked(first *waiter) (values context.Context) {
	for _, w := range [...]*waiter{first, q.waiting.back} {
		if w != nil && w.values != nil {
			values, w.values = w.values, nil
			break
		}
	}
	return values
}

// pickLocked returns the waiter that p should serve, nil if there is none. It skips waiters that
// avoid p. After skipMost of these it returns the first one, because a preference must not cost a
// walk through the queue.
func (q *queue) pickLocked(p *line) *waiter {
	q.setLateAsideLocked()
	var first *waiter
	looked := 0
	for _, l := range [...]*line{&q.returned, &q.waiting, &q.late} {
		for w := l.front; w != nil && looked <= skipMost; w = w.next {
			if !slices.Contains(w.avoid, p) {
				return w
			}
			if first == nil {
				first = w
			}
			looked++
		}
	}
	if looked > skipMost {
		return first
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
			if waited := now - w.since; waited < lateAfter || waited < (w.deadline-w.since)/lateShare {
				break
			}
			l.remove(w)
			q.late.insert(nil, w, q.late.front)
		}
	}
}

func (q *queue) offerLocked(p *line) {
	if p.offer.Load() == 0 && !q.closed {
		q.offers = append(q.offers, p)
		p.offer.Store(int32(len(q.offers)))
	}
}

// withdraw removes a pool's offer.
func (q *queue) withdraw(p *line) {
	q.mu.Lock()
	defer q.mu.Unlock()
	place := p.offer.Swap(0) - 1
	last := len(q.offers) - 1
	if moved := q.offers[last]; moved != p {
		q.offers[place] = moved
		moved.offer.Store(place + 1)
	}
	q.offers[last] = nil
	q.offers = q.offers[:last]
}

// match has pools with offers serve waiters. Call it without a pool's lock after waiters were
// pushed or displaced. Offers may be out of date, and there may be as many as hosts. So match asks
// only matchMost pools itself.
func (q *queue) match() {
	var asked [matchMost]*line
	q.mu.Lock()
	q.asked++
	most := min(matchMost, len(q.offers))
	for i := range most {
		asked[i] = q.offers[(q.asked+i)%len(q.offers)]
	}
	more := len(q.offers) > most
	q.mu.Unlock()
	if !q.serveFrom(asked[:most]) && more && q.walks.Add(1) == 1 {
		go q.matchAll()
	}
}

// matchAll is match for all offers. One goroutine does it for all calls of match.
func (q *queue) matchAll() {
	for walks := q.walks.Load(); walks > 0; walks = q.walks.Add(-walks) {
		q.mu.Lock()
		offers := slices.Clone(q.offers)
		q.mu.Unlock()
		q.serveFrom(offers)
	}
}

// serveFrom has pools serve waiters. It reports whether nobody waits any more.
func (q *queue) serveFrom(pools []*line) bool {
	for _, p := range pools {
		if q.length.Load() == 0 {
			return true
		}
		p.serve()
	}
	return q.length.Load() == 0
}

// fail counts a failed attempt to reach any host, for the waiters whose calls began by the given
// time. Waiters that have that many attempts are answered with err.
func (q *queue) fail(by time.Duration, attempts int, err error) {
	q.mu.Lock()
	var failed []*waiter
	for _, l := range [...]*line{&q.late, &q.returned, &q.waiting} {
		var next *waiter
		for w := l.front; w != nil; w = next {
			next = w.next
			if w.since > by {
				continue
			}
			if w.attempts++; w.attempts >= attempts {
				l.remove(w)
				failed = append(failed, w)
			}
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
	q.fail(forever, 0, ErrPoolClosed)
}
