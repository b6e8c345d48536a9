package pooly

import (
	"context"
	"sync/atomic"
	"time"
)

// A waiter is a caller without a connection. It stands in one line: the line of the pool that its
// call chose, while that pool dials for it, or else a line of the queue. It blocks on ready. Pools
// and the queue do the rest.
type waiter struct {
	ready chan struct{} // receives once, when the waiter is answered

	since    time.Duration   // when its call began to wait
	deadline time.Duration   // when its context ends; forever if it has no deadline
	values   context.Context // context of its call, for a dial; guarded by queue.mu while in a line
	whole    bool            // the deadline also bounds the use of the connection

	// The answer, written before ready receives: a lease, or the reason why there is none.
	lease *Conn
	err   error

	// Guarded by queue.mu.
	avoid      []*line // lines of the pools that it would rather not use, see Service.Do
	attempts   int     // rounds of dials that reached no host while it waited, see rounds.go
	line       *line   // the line that it stands in; nil once it is answered
	prev, next *waiter
}

// answer ends the wait of a waiter that was just removed from its line.
func (w *waiter) answer(l *Conn, err error) {
	w.lease, w.err = l, err
	w.ready <- struct{}{}
}

// line is a list of waiters, oldest first unless it says otherwise. It is guarded by queue.mu.
// length may be read without the lock.
type line struct {
	length      atomic.Int32
	front, back *waiter
	total       *atomic.Int32 // immutable; counts its waiters too: Pool.load or queue.length

	// Only for a pool's line. serve gives what the pool has to waiters, and keeps its offer up to
	// date. offer is the offer's index in queue.offers plus one, or 0 if the pool offers nothing. A
	// pool begins and ends its offer under its own lock, so it may rely on that there.
	serve func() // immutable
	offer atomic.Int32
}

// insert puts w between two waiters. nil stands for an end of the line.
func (l *line) insert(before, w, after *waiter) {
	w.line = l
	l.link(before, w)
	l.link(w, after)
	l.length.Add(1)
	l.total.Add(1)
}

func (l *line) remove(w *waiter) {
	l.link(w.prev, w.next)
	w.prev, w.next, w.line = nil, nil, nil
	l.length.Add(-1)
	l.total.Add(-1)
}

// link makes two waiters neighbours. nil stands for an end of the line.
func (l *line) link(before, after *waiter) {
	if before == nil {
		l.front = after
	} else {
		before.next = after
	}
	if after == nil {
		l.back = before
	} else {
		after.prev = before
	}
}
