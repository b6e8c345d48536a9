package pooly

import (
	"sync"
	"sync/atomic"
)

// A waiter is a call that needs a connection and found none idle. It stands in one of two lines: that of a
// pool, once a dial of that pool is meant for it; otherwise the queue of the service, when no host has room,
// where the first host with room takes it out. Leaving either is O(1).
type waiter struct {
	ticket uint64      // its call's place in the queue, drawn when the call first stands there; 0 before
	lease  *Conn       // made by the pool that serves it
	ready  chan result // holds one: each enlistment ends with one result, or with leave

	queued     bool    // guarded by queue.mu: it stands in the queue
	pool       *Pool   // guarded by queue.mu: who took it out of the queue, nil before
	dialing    bool    // guarded by pool.mu: it stands in that pool's line
	prev, next *waiter // guarded like the line it stands in
}

// result is what ended a wait. Without an error the lease is granted by pool; with one, pool could not be
// dialled. Without a pool the hosts have changed, and the call must look anew.
type result struct {
	pool *Pool
	err  error
}

func newWaiter() *waiter {
	return &waiter{ready: make(chan result, 1)}
}

// leave withdraws w from wherever it stands. If a result came first, leave returns it: the caller owns the
// lease in it.
func (w *waiter) leave(q *waitQueue) (r result, served bool) {
	q.mu.Lock()
	queued, p := w.queued, w.pool
	if queued {
		q.removeLocked(w)
	}
	q.mu.Unlock()
	if queued || p != nil && p.leaveLine(w) {
		return result{}, false
	}
	return <-w.ready, true // whoever took w out of its line has sent by now
}

// withdraw is leave for a call that does not want to be served any more: a lease that came first goes on to
// the next.
func (w *waiter) withdraw(q *waitQueue) {
	if r, served := w.leave(q); served && r.pool != nil && r.err == nil {
		r.pool.unget(w.lease)
	}
}

// await blocks until w is served or the limit is reached, and then gives back what came too late. The wait counts
// for the pool that served it, or else for p.
func (e *poolEnv) await(w *waiter, l *limit, p *Pool) (result, error) {
	began := e.clock.now()
	r, err := l.wait(w.ready)
	if r.pool != nil {
		p = r.pool
	}
	p.waits.Add(1)
	p.waited.Add(int64(e.clock.now() - began))
	if err != nil {
		w.withdraw(e.queue)
	}
	return r, err
}

// waitQueue is where callers wait when no host has room: one for a service, or for a pool used alone. Its lock
// is a leaf: it may be taken under a pool's lock, and nothing is taken under it.
type waitQueue struct {
	length atomic.Int32 // of list; read without the lock to see that no one waits

	mu      sync.Mutex // guards the fields below
	list    waiterList // FIFO: in the order of their tickets
	tickets uint64
	closed  bool
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
		q.tickets++
		w.ticket = q.tickets
	}
	before := q.list.back
	for before != nil && before.ticket > w.ticket {
		before = before.prev
	}
	q.list.insert(w, before)
	q.length.Add(1)
	return true
}

// pop takes out the longest waiting caller on behalf of p, whose lock the caller holds; nil if none waits.
func (q *waitQueue) pop(p *Pool) *waiter {
	if q.length.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.list.front
	if w != nil {
		q.removeLocked(w)
		w.pool = p
	}
	return w
}

// wakeAll ends every wait with r.
func (q *waitQueue) wakeAll(r result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.list.front != nil {
		w := q.list.front
		q.removeLocked(w)
		w.ready <- r
	}
}

// close ends every wait and lets no one in.
func (q *waitQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.wakeAll(result{})
}

func (q *waitQueue) removeLocked(w *waiter) {
	q.list.remove(w)
	w.queued = false
	q.length.Add(-1)
}

// waiterList is a doubly linked list through the waiters themselves.
type waiterList struct {
	front, back *waiter
	length      int
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
