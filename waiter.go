package pooly

import (
	"slices"
	"sync"
	"sync/atomic"
)

// A waiter is the place of a call that needs a connection and found none idle. It stands in one of two lines: that
// of a pool, once a dial of that pool is meant for it; otherwise the queue of the service, when no host has room,
// where the first host with room takes it out. Leaving either is O(1). A call may have several, see turn.
type waiter struct {
	ticket uint64       // its call's place in the queue, drawn when the call first stands anywhere; 0 before
	ready  chan *waiter // the call's: gets this waiter once it is answered, and has room for it

	// The answer, written by whoever takes the waiter out of its line, before the waiter is sent. Exactly one comes,
	// unless leave comes first. With a lease, that pool granted it; with an error, that pool could not be dialled; with
	// neither, the hosts have changed, and the call must look anew.
	lease *Conn
	err   error

	chosen *Pool   // the call's: whose line it asked for; nil for the queue
	avoid  []*Pool // immutable; whose connections it does not take

	queued     bool    // guarded by queue.mu: it stands in the queue
	pool       *Pool   // guarded by queue.mu: in whose line it stands, or who answered it; nil in the queue
	dialing    bool    // guarded by pool.mu: it stands in that pool's line
	prev, next *waiter // guarded like the line it stands in; see also Pool.granted
}

// answer ends the wait of a waiter that was just taken out of its line.
func (w *waiter) answer(l *Conn, err error) {
	w.lease, w.err = l, err
	w.ready <- w
}

// leave takes w out of wherever it stands. It reports false if w is answered, or is about to be.
func (w *waiter) leave(q *waitQueue) bool {
	q.mu.Lock()
	queued, p := w.queued, w.pool
	if queued {
		q.removeLocked(w)
	}
	q.mu.Unlock()
	return queued || p != nil && p.leaveLine(w)
}

// waitQueue is where callers wait when no host has room: one for a service, or for a pool used alone. Its lock
// is a leaf: it may be taken under a pool's lock, and nothing is taken under it.
type waitQueue struct {
	length atomic.Int32 // of list; read without the lock to see that no one waits
	spare  sync.Pool    // of *waiter, each with its channel, from calls that have ended; see turn

	mu      sync.Mutex // guards the fields below
	list    waiterList // FIFO: in the order of their tickets
	tickets uint64
	choosy  int // how many in list avoid some pools
	closed  bool
}

// draw returns the next ticket.
func (q *waitQueue) draw() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.drawLocked()
}

func (q *waitQueue) drawLocked() uint64 {
	q.tickets++
	return q.tickets
}

// push puts w behind all whose calls came before: a call that stood here already, and got nothing when it had its
// turn, has its old place. It reports false if the queue is closed.
func (q *waitQueue) push(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	w.pool, w.queued = nil, true
	if w.ticket == 0 {
		w.ticket = q.drawLocked()
	}
	before := q.list.back
	for before != nil && before.ticket > w.ticket {
		before = before.prev
	}
	q.list.insert(w, before)
	if w.avoid != nil {
		q.choosy++
	}
	q.length.Add(1)
	return true
}

// pop takes out the caller that has waited longest of those that take a connection of p, whose lock the caller holds;
// nil if there is none.
func (q *waitQueue) pop(p *Pool) *waiter {
	if q.length.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.list.front
	for w != nil && slices.Contains(w.avoid, p) {
		w = w.next
	}
	if w != nil {
		q.removeLocked(w)
		w.pool = p
	}
	return w
}

// wakeChoosy has the callers that avoid some pools look anew, when one that they may wait for is gone.
func (q *waitQueue) wakeChoosy() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for w := q.list.front; w != nil && q.choosy > 0; {
		next := w.next
		if w.avoid != nil {
			q.removeLocked(w)
			w.answer(nil, nil)
		}
		w = next
	}
}

// wakeAll ends every wait: with what p's dial failed with, or without p because the hosts have changed.
func (q *waitQueue) wakeAll(p *Pool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.list.front != nil {
		w := q.list.front
		q.removeLocked(w)
		w.pool = p
		w.answer(nil, err)
	}
}

// close ends every wait and lets no one in.
func (q *waitQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wakeAll(nil, nil)
}

func (q *waitQueue) removeLocked(w *waiter) {
	q.list.remove(w)
	w.queued = false
	if w.avoid != nil {
		q.choosy--
	}
	q.length.Add(-1)
}

// waiterList is a doubly linked list through the waiters themselves.
type waiterList struct {
	length      int
	front, back *waiter
}

func (l *waiterList) push(w *waiter) {
	l.insert(w, l.back)
}

// insert puts w behind another waiter, or first if that is nil.
func (l *waiterList) insert(w, before *waiter) {
	w.prev, w.next = before, l.front
	if before == nil {
		l.front = w
	} else {
		w.next = before.next
		before.next = w
	}
	if w.next == nil {
		l.back = w
	} else {
		w.next.prev = w
	}
	l.length++
}

func (l *waiterList) remove(w *waiter) {
	if w.prev == nil {
		l.front = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.back = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next = nil, nil
	l.length--
}
