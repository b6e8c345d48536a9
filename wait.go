package pooly

import (
	"context"
	"fmt"
	"runtime/trace"
	"time"
)

// call is one Get that found nothing idle, from its first wait to its end. It belongs to one
// goroutine.
type call struct {
	group *group
	ctx   context.Context
	whole bool    // ctx also bounds the use of the connection
	avoid []*line // lines of the pools that it would rather not use, until impatient fires

	began     time.Duration    // when it found nothing
	expired   <-chan time.Time // WaitTimeout has passed; nil if there is none
	impatient <-chan time.Time // any host is better than none now; nil if it avoids none
	waited    bool             // it has waited
	redialled bool             // a connection dialled for this call was dead
	dead      *conn            // a dead connection that the call has yet to destroy
	why       reason           // why dead is to be closed
	prepared  preparation
}

// run leases a connection by choose, or else from the queue. waits says that choose has put the
// waiter into a pool's line.
func (c *call) run(choose func(*waiter) (lease *Conn, waits bool, err error)) (*Conn, error) {
	q, config := c.group.queue, &c.group.config
	c.began = c.group.clock.now()
	c.prepared.began = c.began
	defer c.bury()
	if config.WaitTimeout > 0 {
		t := time.NewTimer(config.WaitTimeout)
		defer t.Stop()
		c.expired = t.C
	}
	if c.avoid != nil {
		patience := c.group.patience
		if int(c.group.up.Load()) <= len(c.avoid) { // no other host is up
			patience = config.RetryDelay
		}
		t := time.NewTimer(patience)
		defer t.Stop()
		c.impatient = t.C
	}
	for again := false; ; again = true {
		if err := contextError(c.ctx); err != nil {
			return nil, err
		}
		w := q.spare.Get().(*waiter)
		w.avoid, w.whole, w.values = c.avoid, c.whole, c.ctx
		w.since, w.deadline = c.began, forever
		if at, ok := c.ctx.Deadline(); ok {
			w.deadline = at.Sub(c.group.clock.base)
		}
		lease, waits, err := choose(w)
		if lease == nil && !waits && err == nil {
			err = q.push(w, again)
			waits = err == nil
		}
		if waits {
			c.bury()
			lease, err = c.wait(w)
		} else {
			q.recycle(w)
		}
		if err != nil {
			return nil, err
		}
		if waits && !c.accept(lease) {
			continue
		}
		ok, err := c.prepare(lease)
		switch {
		case ok:
			return lease, nil
		case err != nil:
			return nil, err
		}
	}
}

// prepare has PrepareConn accept a lease. If ok is false, the lease is ended.
func (c *call) prepare(lease *Conn) (ok bool, err error) {
	ok, unfit, why, err := c.prepared.prepare(c.ctx, lease)
	if unfit != nil {
		c.bury()
		c.dead, c.why = unfit, why
	}
	return ok, err
}

// wait blocks until w is answered. If the context ends or WaitTimeout passes first, w leaves.
func (c *call) wait(w *waiter) (lease *Conn, err error) {
	c.waited = true
	if err = c.block(w); err == nil {
		lease, err = w.lease, w.err
	} else {
		c.abandon(w)
	}
	c.group.queue.recycle(w)
	waited := int64(c.group.clock.now() - c.began)
	if lease != nil {
		p := lease.conn.pool
		p.waits.Add(1)
		p.waited.Add(waited)
	} else {
		c.group.vainWaits.Add(1)
		c.group.vainWaited.Add(waited)
	}
	return lease, err
}

// waitRegion is the region of runtime/trace in which a caller waits.
const waitRegion = "pooly.wait"

// block waits until w is answered, the context ends or WaitTimeout passes.
func (c *call) block(w *waiter) error {
	defer trace.StartRegion(c.ctx, waitRegion).End() // costs nothing unless there is a trace
	if c.expired == nil && c.impatient == nil && c.ctx.Done() == nil {
		<-w.ready // a receive costs less than a select
		return nil
	}
	for {
		select {
		case <-w.ready:
			return nil
		case <-c.impatient:
			q := c.group.queue
			q.mu.Lock()
			c.avoid, w.avoid = nil, nil
			q.mu.Unlock()
			q.match()
		case <-c.expired:
			return fmt.Errorf("%w: waited %v", ErrOpTimeout, c.group.config.WaitTimeout)
		case <-c.ctx.Done():
			return contextError(c.ctx)
		}
	}
}

// abandon takes w out of its line. If w has just been answered, it gives the lease back.
func (c *call) abandon(w *waiter) {
	q := c.group.queue
	q.mu.Lock()
	l := w.line
	if l != nil {
		l.remove(w)
	}
	q.mu.Unlock()
	switch {
	case l == nil:
		<-w.ready
		if w.lease != nil {
			w.lease.conn.pool.takeBack(w.lease, 0)
		}
	case l.serve != nil:
		l.serve() // the dial that w waited for can serve another waiter
	}
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
	if !expired && conn.pool.test(conn, l) == nil {
		return true
	}
	c.dead, c.why = conn.pool.undo(l, conn.unfitness(now))
	return false
}

// bury destroys a connection that accept found dead. run calls it after the call waits again: the
// place that becomes free should go to this call.
func (c *call) bury() {
	if dead := c.dead; dead != nil {
		c.dead = nil
		dead.pool.destroy(dead, c.why)
	}
}
