package pooly

// turn is what a call keeps from one wait to the next. It belongs to one goroutine.
type turn struct {
	ticket    uint64 // its place in the queue, see waiter; 0: it has not stood there
	redialled bool   // one connection that was dialled for it was dead
	dead      *conn  // one that it was handed and has not destroyed yet
}

// waiter returns a waiter for the next wait.
func (t *turn) waiter() *waiter {
	w := newWaiter()
	w.ticket = t.ticket
	return w
}

// keep notes the place that w has in the queue.
func (t *turn) keep(w *waiter) {
	t.ticket = w.ticket
}

// accept tests the connection of a lease that a waiter was handed. One just dialled is tested too, since its peer may
// have gone before the dial was over; but only one per call, so that a driver whose test never passes does not have
// it go in circles.
func (t *turn) accept(l *Conn) bool {
	c := l.conn
	if c.fresh {
		c.fresh = false
		if t.redialled {
			return true
		}
		t.redialled = true
	}
	if c.pool.fit(l) {
		return true
	}
	t.dead = c.pool.discard(l)
	return false
}

// bury destroys a connection that accept found dead. Its place comes free with it, so it must be called only when
// the caller stands in the queue again: the place is the caller's, not that of the next in line.
func (t *turn) bury() {
	if c := t.dead; c != nil {
		t.dead = nil
		go c.pool.destroy(c)
	}
}
