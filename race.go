package pooly

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"
	"slices"
	"sync"
	"time"
)

// race is one DialContext. It dials in goroutines of its own and with the caller's context. Its
// connections come from no pool and go to none. They count in MaxConns if that is set; otherwise
// there may be any number.
//
// In each round it dials the hosts one after the other: first the hosts that the strategy picks,
// then the others. If all hosts are ejected, it dials the ejected hosts. If a dial takes longer
// than FallbackDelay, the next begins in parallel, and the first to connect wins (Happy Eyeballs,
// RFC 8305, section 5). The other dials are cancelled. A connection that they still make is closed.
type race struct {
	service *Service
	ctx     context.Context // of the dials; ends with the race
	results chan raced
	running int
	full    bool // a host had MaxConns connections
}

// raced is the result of one dial.
type raced struct {
	host *host
	dial *dial
	conn *conn // nil if it failed
	err  error
}

// dialOutside connects to a host for DialContext. Its error is the reason of a GetConnError.
func (s *Service) dialOutside(ctx context.Context) (*Conn, error) {
	if !s.direct.Load() && !s.direct.Swap(true) {
		for _, h := range s.all() {
			h.dropUnused()
		}
	}
	if timeout := s.config.WaitTimeout; timeout > 0 {
		waited := fmt.Errorf("%w: waited %v", ErrOpTimeout, timeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, waited)
		defer cancel()
	}
	defer trace.StartRegion(ctx, waitRegion).End()
	for attempt := 1; ; attempt++ {
		lease, failed, err := s.raceOnce(ctx)
		switch {
		case lease != nil || err != nil:
			return lease, err
		case s.isClosed():
			return nil, ErrPoolClosed
		case s.size.Load() == 0:
			return nil, ErrNoHostAvailable
		case !failed: // the hosts have changed meanwhile
			attempt--
		case attempt >= s.config.GetAttempts:
			return nil, ErrNoHostAvailable
		}
		s.pauseRace(ctx)
	}
}

// pauseRace waits for RetryDelay between two rounds. It also returns if the context ends or the
// service is closed, which the next round notices.
func (s *Service) pauseRace(ctx context.Context) {
	t := time.NewTimer(s.config.RetryDelay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.done:
	case <-ctx.Done():
	}
}

// raceOnce runs one round. failed says that a host could not be reached. If none failed, but hosts
// are full, it returns an error.
func (s *Service) raceOnce(ctx context.Context) (lease *Conn, failed bool, err error) {
	if err := contextError(ctx); err != nil {
		return nil, false, err
	}
	v, hosts, down, err := s.raceOrder(ctx)
	if err != nil {
		return nil, false, err
	}
	dials, cancel := context.WithCancel(ctx)
	r := &race{service: s, ctx: dials, results: make(chan raced, len(hosts)+len(down))}
	defer r.end(cancel)
	for next := 0; ; {
		for r.running == 0 && next < len(hosts) {
			if err := v.bringForward(s, hosts, next); err != nil {
				return nil, false, err
			}
			r.start(hosts[next])
			next++
		}
		if err := contextError(ctx); err != nil {
			return nil, false, err
		}
		if r.running == 0 {
			if len(down) == 0 || slices.ContainsFunc(hosts, (*host).isUp) {
				if r.full && !failed {
					err = fmt.Errorf("%w: each of %d hosts has its MaxConns of %d connections",
						ErrOverloaded, len(hosts), s.most())
				}
				return nil, failed, err
			}
			v, hosts, down = nil, append(hosts, down...), nil // the others are ejected, too
			continue
		}
		result, err := r.await(ctx, next < len(hosts))
		switch {
		case err != nil:
			return nil, false, err
		case result == nil: // it takes long
			for before := r.running; r.running == before && next < len(hosts); next++ {
				if err := v.bringForward(s, hosts, next); err != nil {
					return nil, false, err
				}
				r.start(hosts[next])
			}
		case result.conn != nil:
			if lease := result.host.lendOutside(result.conn); lease != nil {
				return lease, false, nil
			}
		case result.host.ctx.Err() == nil: // it was not removed in the meantime
			failed = true
		}
	}
}

// raceOrder returns the hosts that are up, in the order in which to dial them, and the ejected
// hosts. Ejected hosts are dialled if none is up.
func (s *Service) raceOrder(ctx context.Context) (v *snapshot, up, down []*host, err error) {
	v = s.current(ctx)
	if v != nil && v.err != nil {
		return nil, nil, nil, v.err
	}
	all := s.all()
	for i, start := 0, s.rng.IntN(max(1, len(all))); i < len(all); i++ {
		if h := all[(start+i)%len(all)]; h.isUp() {
			up = append(up, h)
		} else {
			down = append(down, h)
		}
	}
	return v, up, down, nil
}

// bringForward has the strategy pick the host that is dialled next, the i-th. It keeps the order if
// that host was dialled before, if it is ejected, and after morePicks.
func (v *snapshot) bringForward(s *Service, hosts []*host, i int) error {
	if v == nil || len(v.hosts) == 0 || i > morePicks {
		return nil
	}
	h, err := v.pick(s)
	if err != nil {
		return err
	}
	if j := slices.Index(hosts[i:], h); j > 0 {
		hosts[i], hosts[i+j] = h, hosts[i]
	}
	return nil
}

// start begins to dial a host, unless it has no room. An idle connection is closed to make room.
func (r *race) start(h *host) {
	d := h.reserve()
	if d == nil && h.evictIdle(r.ctx) {
		d = h.reserve()
	}
	if d == nil {
		r.full = r.full || h.ctx.Err() == nil
		return
	}
	r.running++
	ctx, cancel := context.WithCancel(r.ctx)
	var once sync.Once
	end := func(c *conn, err error) (first bool) {
		once.Do(func() {
			first = true
			result := raced{host: h, dial: d, conn: c, err: err}
			h.raceEnded(&result, ctx)
			r.results <- result
		})
		return first
	}
	watch := time.AfterFunc(h.mostOfADial(), func() {
		end(nil, errDialHangs)
	})
	unwatch := context.AfterFunc(h.ctx, func() { // the host is removed, or the service closed
		cancel()
		watch.Reset(closeGrace)
	})
	go func() {
		var c *conn
		err := errExited
		defer func() {
			unwatch()
			watch.Stop()
			if !end(c, err) && c != nil {
				h.callClose(&c.origin) // its place has been given away
			}
			cancel()
		}()
		c, err = h.connect(ctx)
	}()
}

// await returns the next result. It returns nil if that takes FallbackDelay and there is another
// host to dial.
func (r *race) await(ctx context.Context, another bool) (*raced, error) {
	var slow <-chan time.Time
	if another && r.service.fallback > 0 {
		t := time.NewTimer(r.service.fallback)
		defer t.Stop()
		slow = t.C
	}
	select {
	case result := <-r.results:
		r.running--
		return &result, nil
	case <-slow:
		return nil, nil
	case <-r.service.done:
		return nil, ErrPoolClosed
	case <-ctx.Done():
		return nil, contextError(ctx)
	}
}

// end cancels the dials in flight and closes connections that they still make.
func (r *race) end(cancel context.CancelFunc) {
	cancel()
	if r.running == 0 {
		return
	}
	go func() {
		for range r.running {
			if result := <-r.results; result.conn != nil {
				result.host.destroy(result.conn, forSurplus)
			}
		}
	}()
}

// dropUnused closes the connections that were dialled in advance. DialContext does not use them,
// and some servers complain if nothing comes.
func (h *host) dropUnused() {
	var unused []*conn
	h.mu.Lock()
	h.idle.filter(func(c *conn) bool {
		if c.leases == nil {
			unused = append(unused, c)
		}
		return c.leases != nil
	})
	h.settleLocked()
	h.unlock()
	h.destroyAll(unused, forSurplus)
}

// reserve takes a place for a dial of DialContext. It returns nil if there is none.
func (h *host) reserve() *dial {
	h.mu.Lock()
	defer h.unlock()
	if h.closed || h.limited && h.open >= h.most() {
		return nil
	}
	h.open++
	if !h.limited {
		h.apart++
	}
	h.dialing++
	h.racing++
	h.settleLocked()
	return &dial{began: h.ejections, beganAt: h.clock.now()}
}

// evictIdle closes an idle connection, and waits for its place. It reports false if there is none,
// or if ctx or the pool ends first: the driver may be slow to close.
func (h *host) evictIdle(ctx context.Context) bool {
	h.mu.Lock()
	if h.idle.top == nil {
		h.unlock()
		return false
	}
	c := h.idle.pop()
	h.settleLocked()
	h.unlock()
	freed := make(chan struct{})
	h.destroyFor(c, forSurplus, freed)
	select {
	case <-freed:
		return true
	case <-h.ctx.Done(): // the host is removed, or the service closed
		return false
	case <-ctx.Done():
		return false
	}
}

// raceEnded records a dial of DialContext. A failure after the end of the race says nothing about
// the host.
func (h *host) raceEnded(result *raced, ctx context.Context) {
	h.mu.Lock()
	h.dialing--
	h.racing--
	d := result.dial
	var after func()
	counts := true
	switch {
	case result.conn != nil:
		h.dials++
		result.conn.outside = true
		after = h.connectedLocked(d, result.conn)
		h.settleLocked()
		h.unlock()
	default:
		if !h.limited {
			h.apart--
		}
		counts = ctx.Err() == nil || errors.Is(result.err, errExited)
		if counts {
			h.dials++
			after = h.failedLocked(d, result.err)
		}
		h.freePlace()
	}
	if counts {
		h.tellDialled(ctx, d.beganAt, result.err)
	}
	d.done(after)
	h.queue.match()
}

// lendOutside leases a connection to DialContext. It returns nil if the pool was closed in the
// meantime.
func (h *host) lendOutside(c *conn) *Conn {
	h.mu.Lock()
	closed := h.closed
	var lease *Conn
	if !closed {
		lease = c.nextLease()
		h.lendLocked(c, lease)
		c.spent = forRequest
		h.outside++
		h.allowLocked()
	}
	h.unlock()
	if closed {
		h.destroy(c, forRemoval)
	}
	return lease
}
