package pooly

import (
	"slices"
	"time"
)

// maxStands bounds in how many places one call stands at once: hosts that it has dialled, and the queue.
const maxStands = 4

// turn is how one call waits, from its first wait to its end. It belongs to one goroutine.
//
// A call stands in one place as a rule. It stands in more when the dial it waits for takes long, so that it tries the
// next host alongside: the first to answer serves it, and what the others dial goes to their pools.
type turn struct {
	env    *poolEnv
	own    *waiter            // nil before the first wait, and after done
	places [maxStands]*waiter // see stands; each is sent once to the channel that all share, or leaves
	placed int

	ticket    uint64 // its place in the queue, see waiter; 0: it has not stood anywhere yet
	redialled bool   // one connection that was dialled for it was dead
	dead      *conn  // one that it was handed and has not destroyed yet

	began time.Duration // when it began to wait; 0: it does not

	avoid  []*Pool // whose connections it does not want; see Service.Do
	unused bool    // it wants a connection that nobody has used; see Service.DialContext
}

// waiter returns a waiter for one more place. The first of a call is one that served an earlier call, with its channel:
// nothing knows of a waiter after it was answered or has left. That saves 256 bytes of a wait, and with 64 callers for
// 4 connections a tenth of a pair and a fifth of the waits' 99th percentile (BenchmarkContended in bench/). They are
// kept per service, so that none from a bubble of testing/synctest turns up in another.
func (t *turn) waiter() *waiter {
	if t.own == nil {
		t.own, _ = t.env.queue.spare.Get().(*waiter)
		if t.own == nil {
			t.own = &waiter{ready: make(chan *waiter, maxStands)}
		}
	}
	w := t.own
	if slices.Contains(t.stands(), w) {
		w = new(waiter)
	}
	*w = waiter{ticket: t.ticket, ready: t.own.ready, avoid: t.avoid}
	return w
}

// stands returns the waiters that stand in a line, the oldest first. As a field it would point into its own turn, for which
// the call's whole search would go to the heap: with 64 callers for 4 connections, a wait then takes 288 bytes more, and
// its 99th percentile was 0.5 ms instead of 0.17, by the work of the garbage collector (BenchmarkContended in bench/).
func (t *turn) stands() []*waiter {
	return t.places[:t.placed]
}

// stand notes that w stands in a line. There must be room. Even a call that waits for a dial has a place in the queue from
// now on, should it have to go there.
func (t *turn) stand(w *waiter) {
	t.places[t.placed] = w
	t.placed++
	t.ticket = w.ticket
	if t.ticket == 0 {
		t.ticket = t.env.queue.draw()
	}
}

// standsAt reports whether the call waits for a dial of p already or, if p is nil, stands in the queue.
func (t *turn) standsAt(p *Pool) bool {
	for _, w := range t.stands() {
		if w.chosen == p {
			return true
		}
	}
	return false
}

// passesOver reports whether the call does not want a connection of p, or waits for one already.
func (t *turn) passesOver(p *Pool) bool {
	return slices.Contains(t.avoid, p) || t.standsAt(p)
}

// await blocks until one of the call's waiters is answered, and returns it. It returns nil if that takes longer than
// patience (0: it may), or news comes first (nil: there is none), and an error if the limit is reached. The wait counts
// for the pool that answers, or else for p.
func (t *turn) await(l *limit, patience time.Duration, news <-chan struct{}, p *Pool) (*waiter, error) {
	if t.began == 0 {
		t.began = t.env.clock.now()
	}
	var early <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		early = timer.C
	}
	w, err := l.wait(t.own.ready, early, news)
	if w == nil && err == nil {
		return nil, nil
	}
	if w != nil {
		t.forget(w)
		if w.pool != nil {
			p = w.pool
		}
	}
	p.waits.Add(1)
	p.waited.Add(int64(t.env.clock.now() - t.began))
	t.began = 0
	return w, err
}

// forget notes that w stands nowhere any more.
func (t *turn) forget(w *waiter) {
	kept := 0
	for _, other := range t.stands() {
		if other != w {
			t.places[kept] = other
			kept++
		}
	}
	t.placed = kept
}

// makeRoom gives up the oldest place of a call that stands in as many as it may. It reports false if that place has
// been answered meanwhile.
func (t *turn) makeRoom() bool {
	if t.placed < maxStands {
		return true
	}
	w := t.places[0]
	if !w.leave(t.env.queue) {
		return false
	}
	t.forget(w)
	return true
}

// end gives up all places, and what they were given too late. It returns those that learnt of a failed dial.
func (t *turn) end() (failed []*waiter) {
	coming := 0
	for _, w := range t.stands() {
		if !w.leave(t.env.queue) {
			coming++
		}
	}
	t.placed = 0
	for range coming {
		w := <-t.own.ready
		switch {
		case w.lease != nil:
			w.pool.unget(w.lease)
		case w.err != nil:
			failed = append(failed, w)
		}
	}
	t.bury()
	return failed
}

// done leaves the call's waiter to a later call. It must come after end, and nothing may be asked of t afterwards.
func (t *turn) done() {
	if w := t.own; w != nil && t.placed == 0 { // or a plug-in has ended the goroutine, and w stands in a line still
		t.own = nil
		*w = waiter{ready: w.ready}
		t.env.queue.spare.Put(w)
	}
}

// accept tests the connection of a lease that a waiter was handed. One just dialled is tested too, since its peer may
// have gone before the dial was over; but only one per call, so that a driver whose test never passes does not have
// it go in circles.
func (t *turn) accept(l *Conn) bool {
	c := l.conn
	if t.unused {
		if c.fresh { // and untested, since a server that speaks first may have
			c.fresh = false
			return true
		}
		t.dead = c.pool.discard(l)
		return false
	}
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
