package pooly

import (
	"sync/atomic"
	"time"
)

// A waiter is a caller without a connection. It stands in one line: the line of the pool that its
// call chose, while that pool dials for it, or else a line of the queue. It blocks on ready. Pools
// and the queue do the rest.
type waiter struct {
	ready chan struct{} // receives once, when the waiter is answered

	since    time.Duration // when its call began to wait
	deadline time.Duration // when its context ends; forever if it has no deadline
	whole    bool          // the deadline also bounds the use of the connection
	round    int64         // the last round of dials that does not count for it, see rounds

	// The answer, written before ready receives: a lease, or the reason why there is none.
	lease *Conn
	err   error

	// Guarded by queue.mu.
	avoid      []*line // of the pools that it would rather not get a connection of, see Service.Do
	line       *line   // the line that it stands in; nil once it is answered
	prev, next *waiter
}

// answer ends the wait of a waiter that was just removed from its line.
func (w *waiter) answer(l *Conn, err error) {
	w.lease, w.err = l, err
	w.ready <- struct{}{}
}

// A server is a pool as the queue knows it.
type server interface {
	// serve gives what the pool has to those who wait, or takes its offer back if it has nothing.
	// unwanted reports that the pool served nobody of the queue although it has something.
	serve() (unwanted bool)

	// admit leases an idle connection, or has w wait in line for a dial. It reports false if it can
	// do neither.
	admit(w *waiter) (lease *Conn, ok bool)
}

// line is a list of waiters, oldest first. It is guarded by queue.mu. length may be read without
// the lock.
type line struct {
	length      atomic.Int32
	offer       int32 // its pool's place in queue.offers plus one, 0 if the pool offers nothing
	front, back *waiter
	server      server        // immutable; the pool whose line it is, nil for the queue's own
	load        *atomic.Int32 // immutable; of the pool, to which the line adds; nil for the queue's own
}

func (l *line) push(w *waiter) {
	w.prev, w.next, w.line = l.back, nil, l
	if l.back == nil {
		l.front = w
	} else {
		l.back.next = w
	}
	l.back = w
	l.length.Add(1)
	if l.load != nil {
		l.load.Add(1)
	}
}

func (l *line) remove(w *waiter) {
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
	w.prev, w.next, w.line = nil, nil, nil
	l.length.Add(-1)
	if l.load != nil {
		l.load.Add(-1)
	}
}

// end returns the newest waiter if newest is set, else the oldest.
func (l *line) end(newest bool) *waiter {
	if newest {
		return l.back
	}
	return l.front
}

func (w *waiter) neighbour(newest bool) *waiter {
	if newest {
		return w.prev
	}
	return w.next
}
