package pooly

import (
	"context"
	"fmt"
	"time"
)

// call is one Get that found nothing idle, from its first wait to its end. It belongs to one
// goroutine.
type call struct {
	group     *group
	ctx       context.Context
	whole     bool // ctx also bounds the use of the connection
	avoid     []*line
	began     time.Duration // when it found nothing; 0: not yet
	waits     bool          // it has waited, or is about to
	timer     *time.Timer   // of WaitTimeout; nil before the first wait
	redialled bool          // a connection dialled for this call was dead
	dead      *conn         // a dead connection that the call has yet to destroy
}

// run leases a connection by choose, or else from the queue.
func (c *call) run(choose func(*waiter) (lease *Conn, ok bool)) (*Conn, error) {
	q := c.group.queue
	c.began = c.group.clock.now()
	defer c.end()
	for {
		if err := contextError(c.ctx); err != nil {
			return nil, err
		}
		w := q.newWaiter()
		w.avoid, w.whole = c.avoid, c.whole
		w.since, w.deadline = c.began, c.deadline()
		lease, ok := choose(w)
		switch {
		case lease != nil:
			q.recycle(w)
			return lease, nil
		case ok: // it stands in a line, and may be answered from now on
		case w.err != nil:
			return nil, w.err
		default:
			if err := c.stand(w); err != nil {
				return nil, err
			}
		}
		c.destroyDead()
		if err := c.wait(w); err != nil {
			return nil, err
		}
		lease, err := w.lease, w.err
		q.recycle(w)
		if err != nil {
			return nil, err
		}
		if c.accept(lease) {
			return lease, nil
		}
	}
}

// stand puts w into the queue.
func (c *call) stand(w *waiter) error {
	offers, err := c.group.queue.push(w, c.waits)
	if err != nil {
		return err
	}
	if c.group.queued != nil {
		c.group.queued()
	}
	if offers && !c.group.queue.matchSome() {
		c.group.queue.matchRest()
	}
	return nil
}

// deadline returns when the call's context ends, by the group's clock.
func (c *call) deadline() time.Duration {
	if at, ok := c.ctx.Deadline(); ok {
		return at.Sub(c.group.clock.base)
	}
	return forever
}

// wait blocks until w is answered. If the context ends or WaitTimeout passes first, w leaves.
func (c *call) wait(w *waiter) error {
	c.waits = true
	err := c.block(w)
	waited := int64(c.group.clock.now() - c.began)
	if err == nil && w.lease != nil {
		w.lease.conn.pool.waits.Add(1)
		w.lease.conn.pool.waited.Add(waited)
		return nil
	}
	c.group.vainWaits.Add(1)
	c.group.vainWaited.Add(waited)
	if err != nil {
		c.abandon(w)
	}
	return err
}

// block waits until w is answered, the context ends or WaitTimeout passes.
func (c *call) block(w *waiter) error {
	timeout := c.group.config.WaitTimeout
	if timeout == 0 && c.avoid == nil && c.ctx.Done() == nil {
		<-w.ready
		return nil
	}
	if timeout > 0 && c.timer == nil {
		c.timer = time.NewTimer(timeout)
	}
	var expired, impatient <-chan time.Time
	if c.timer != nil {
		expired = c.timer.C
	}
	if c.avoid != nil {
		t := time.NewTimer(c.patience())
		defer t.Stop()
		impatient = t.C
	}
	for {
		select {
		case <-w.ready:
			return nil
		case <-impatient: // any host is better than none
			c.avoid = nil
			c.group.queue.settleFor(w)
			c.group.queue.match()
		case <-expired:
			return fmt.Errorf("%w: waited %v", ErrOpTimeout, timeout)
		case <-c.ctx.Done():
			return contextError(c.ctx)
		}
	}
}

// abandon takes w out of its line. If w has just been answered, it gives the lease back.
func (c *call) abandon(w *waiter) {
	q := c.group.queue
	switch l := q.leave(w); {
	case l == nil:
		<-w.ready
		if w.lease != nil {
			w.lease.conn.pool.unget(w.lease)
		}
	case l.server != nil:
		l.server.serve() // the dial that w waited for can serve another waiter
	}
	q.recycle(w)
}

// patience returns how long a call that avoids hosts waits for another one: FallbackDelay if
// another host is up, else RetryDelay.
func (c *call) patience() time.Duration {
	if int(c.group.up.Load()) <= len(c.avoid) {
		return c.group.config.RetryDelay
	}
	return c.group.fallbackOrDefault()
}

// accept tests the connection that a waiter was given. A new connection is tested too, since its
// peer may have closed it already.
//
// It tests only one new connection per call. Otherwise a driver whose test never passes would keep
// the call dialling forever.
func (c *call) accept(l *Conn) bool {
	conn := l.conn
	if conn.fresh {
		conn.fresh = false
		if c.redialled {
			return true
		}
		c.redialled = true
	}
	conn.restock()
	now := conn.pool.ageNow()
	expired := now > 0 && now >= conn.pool.expiry(conn) // while idle, and the reaper has yet to come
	if !expired && conn.pool.test(conn, conn.pool.config.TestTimeout) == nil {
		return true
	}
	c.dead = conn.pool.discard(l)
	return false
}

// destroyDead destroys a connection that accept found dead. Call it after the call waits again: the
// place that becomes free should go to this call.
func (c *call) destroyDead() {
	if dead := c.dead; dead != nil {
		c.dead = nil
		go dead.pool.destroy(dead)
	}
}

func (c *call) end() {
	if c.timer != nil {
		c.timer.Stop()
	}
	c.destroyDead()
}
