package pooly

// How a pool gives connections and dials to waiters.

// serve gives what the pool has to waiters, or withdraws its offer if it has nothing. unwanted
// reports that it served no waiter of the queue although it has something.
func (p *Pool) serve() (unwanted bool) {
	p.mu.Lock()
	defer p.unlock()
	if p.settleLocked() {
		return false
	}
	if p.canServeLocked() {
		return true
	}
	if p.offered {
		p.withdrawLocked()
	}
	return false
}

func (p *Pool) withdrawLocked() {
	p.queue.withdraw(&p.line)
	p.offered, p.quiet = false, false
}

// settleLocked gives idle connections and room for dials to waiters, and offers the rest to the
// queue. Call it after every change by which the pool may have more, or one dial less.
//
// putBack does without it while the pool's offer stands. An offer may be out of date: serve
// withdraws it then. settleLocked reports whether a waiter of the queue was served, or will be by a
// dial.
func (p *Pool) settleLocked() (served bool) {
	for p.idle.top != nil { // so the host is up: one that is ejected or closed has nothing idle
		w := p.queue.first(&p.line)
		if w == nil {
			break
		}
		p.grantLocked(w)
	}
	p.unclaimLocked()
	for p.canServeLocked() {
		if p.offered && p.queue.length.Load() == 0 {
			break // the next caller sees the offer
		}
		if p.idle.top != nil {
			w := p.queue.next(&p.line, p.limiter.shortest(p.clock))
			if w == nil {
				p.offered = true
				break
			}
			p.grantLocked(w)
		} else {
			if !p.queue.claim(&p.line) {
				p.offered = true
				break
			}
			p.claimed++
			p.load.Add(1)
			if p.claimed > p.spareLocked() {
				p.startDialLocked(&dial{})
			}
		}
		served = true
	}
	if p.offered && p.allowed == 0 {
		p.withdrawLocked()
	}
	p.quiet = p.offered && !p.doubted && !p.ages && p.limiter.limit == 0 && p.line.length.Load() == 0
	return served
}

// canServeLocked reports whether the pool can serve one more caller.
func (p *Pool) canServeLocked() bool {
	return p.load.Load() < p.allowed && (p.idle.top != nil || p.roomLocked())
}

// grantLocked leases the connection on top to a waiter. unlock wakes the waiter.
func (p *Pool) grantLocked(w *waiter) {
	c := p.idle.pop()
	l := c.nextLease()
	p.lendLocked(c, l)
	w.lease = l
	w.next, p.granted = p.granted, w
}

// unlock releases p.mu and then wakes the waiters that were granted a connection. Waking takes
// longer than everything that is done under the lock.
func (p *Pool) unlock() {
	w := p.granted
	if w == nil {
		p.mu.Unlock()
		return
	}
	p.granted = nil
	p.mu.Unlock()
	for w != nil {
		next := w.next
		w.next = nil
		w.ready <- struct{}{}
		w = next
	}
}

// enlistLocked has w wait in the pool's line. It starts a dial unless a dial in flight has no
// waiter yet.
func (p *Pool) enlistLocked(w *waiter) {
	if p.spareLocked() <= p.claimed {
		p.startDialLocked(&dial{})
	}
	p.queue.join(&p.line, w)
}

// roomLocked reports whether one more caller can wait for a dial.
func (p *Pool) roomLocked() bool {
	return !p.silent && p.spareLocked() > p.claimed || p.mayDialLocked()
}

// spareLocked returns how many dials in flight, stalled ones excluded, have no waiter in the pool's
// line.
func (p *Pool) spareLocked() int {
	return p.dialing - p.racing - p.stalled - int(p.line.length.Load())
}

// unclaimLocked gives up claims on dials that have ended or stalled, and all claims if the host is
// ejected.
func (p *Pool) unclaimLocked() {
	keep := max(0, p.spareLocked())
	if p.allowed == 0 {
		keep = 0
	}
	if n := p.claimed - keep; n > 0 {
		p.claimed = keep
		p.load.Add(int32(-n))
		p.queue.unclaim(n)
	}
}
