package pooly

// How a pool gives connections and dials to waiters.

// serve gives what the pool has to waiters. The queue calls it if the pool has an offer.
func (p *Pool) serve() {
	p.mu.Lock()
	defer p.unlock()
	p.settleLocked()
}

// settleLocked gives idle connections and room for dials to waiters, and offers the rest to the
// queue. Call it after every change by which the pool may have more to give, or has one dial less.
//
// take and the short way of putBack do without it. So an offer may be out of date until the queue
// asks for it.
func (p *Pool) settleLocked() {
	for p.idle.top != nil { // so the host is up: one that is ejected or closed has nothing idle
		w := p.queue.first(&p.line)
		if w == nil {
			break
		}
		p.grantLocked(w)
	}
	p.unclaimLocked()
	for p.canServeLocked() {
		if p.line.offer.Load() > 0 && p.queue.length.Load() == 0 {
			break // the next caller sees the offer
		}
		if p.idle.top != nil {
			w := p.queue.next(&p.line)
			if w == nil {
				break
			}
			p.grantLocked(w)
			continue
		}
		values, ok := p.queue.claim(&p.line)
		if !ok {
			break
		}
		p.claimed++
		p.load.Add(1)
		if p.claimed > p.spareLocked() {
			p.startDialLocked(&dial{values: values})
		}
	}
	offered := p.line.offer.Load() > 0
	if offered && !p.canServeLocked() {
		p.queue.withdraw(&p.line)
		offered = false
	}
	p.trimLocked()
	p.quiet = offered && !p.doubt.failed && !p.ages && p.limiter.limit == 0 &&
		p.line.length.Load() == 0 && p.config.Hooks.AfterRelease == nil && p.config.MaxIdle == 0
}

// trimLocked closes the newest idle connections if there are more than MaxIdle.
func (p *Pool) trimLocked() {
	if p.config.MaxIdle == 0 {
		return
	}
	var surplus []*conn
	for p.idle.length > p.config.MaxIdle {
		surplus = append(surplus, p.idle.pop())
	}
	if len(surplus) > 0 {
		go p.destroyAll(surplus, forSurplus) // without the lock
	}
}

// canServeLocked reports whether the pool can serve one more caller: with an idle connection, or
// with a dial.
func (p *Pool) canServeLocked() bool {
	return p.load.Load() < p.allowed && (p.idle.top != nil ||
		p.gate.state != gateSilent && p.spareLocked() > p.claimed ||
		p.mayDialLocked())
}

// grantLocked leases the connection on top to a waiter. unlock wakes the waiter.
func (p *Pool) grantLocked(w *waiter) {
	c := p.idle.pop()
	w.lease = c.nextLease()
	p.lendLocked(c, w.lease)
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
		p.queue.mu.Lock()
		p.queue.claimed -= n
		p.queue.mu.Unlock()
	}
}
