package pooly

import "context"

// TryLease is Lease for callers that must not wait for another lease to end. It leases an idle
// connection, or dials one if the host has room, and does the same at the other hosts if need be.
// If no host is up, it dials the ejected hosts, one after the other.
//
// It is for drivers whose Dial returns at once, such as a driver that hands out shares of an open
// connection. With any other driver TryLease waits for the dial, at most until ctx ends. The dial
// itself goes on. Package poolygrpc is an example.
//
// ctx also bounds the use of the connection, as in Lease. Its error wraps one of:
//   - ErrOverloaded: no host has room;
//   - ErrNoHostAvailable: no host is registered, or none can be reached;
//   - ctx.Err() and its cause;
//   - ErrPoolClosed;
//   - an error that says what the strategy did wrong (see Bandit);
//   - the error of Hooks.PrepareConn.
func (s *Service) TryLease(ctx context.Context) (*Conn, error) {
	called := s.sample()
	c, err := s.tryPrepared(ctx)
	if err != nil {
		s.getFailures.Add(1)
		return nil, named("service", s.name, err)
	}
	s.begin(ctx, c, called)
	return c, nil
}

// tryPrepared leases a connection that PrepareConn accepts.
func (s *Service) tryPrepared(ctx context.Context) (*Conn, error) {
	r := preparation{began: s.clock.now()}
	for {
		c, err := s.try(ctx)
		if err != nil {
			return nil, err
		}
		ok, unfit, why, err := r.prepare(ctx, c)
		if unfit != nil {
			unfit.pool.destroy(unfit, why)
		}
		if ok {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (s *Service) try(ctx context.Context) (*Conn, error) {
	if err := contextError(ctx); err != nil {
		return nil, err
	}
	v := s.current(ctx)
	if v != nil && v.err != nil {
		return nil, v.err
	}
	for range 1 + morePicks {
		if v == nil || len(v.hosts) == 0 {
			break
		}
		h, err := v.pick(s)
		if err != nil {
			return nil, err
		}
		if c, err := h.try(ctx, false); c != nil || err != nil {
			return c, err
		}
	}
	all := s.all()
	passes := []bool{false, true} // whether ejected hosts are dialled, too
	if v == nil || len(v.hosts) == 0 {
		passes = passes[1:] // none is up, though one may come back meanwhile
	}
	for _, down := range passes {
		for i, start := 0, s.rng.IntN(max(1, len(all))); i < len(all); i++ {
			h := all[(start+i)%len(all)]
			if !down && h.line.offer.Load() == 0 {
				continue // it has nothing; to lock each host of many would take long
			}
			if c, err := h.try(ctx, down); c != nil || err != nil {
				return c, err
			}
		}
		switch {
		case s.isClosed(): // hosts may still count as up
			return nil, ErrPoolClosed
		case s.up.Load() > 0:
			return nil, ErrOverloaded
		}
	}
	if s.size.Load() == 0 {
		return nil, s.noHost()
	}
	return nil, ErrNoHostAvailable
}

// try leases an idle connection, or dials one. down says that an ejected host is dialled, too. It
// returns nil if the host has no room or its dial fails, and an error if ctx ends.
func (h *host) try(ctx context.Context, down bool) (*Conn, error) {
	for dials := 0; dials < tryDials; {
		if err := contextError(ctx); err != nil {
			return nil, err
		}
		if c := h.takeIdle(); c != nil {
			return c, nil
		}
		ended := make(chan struct{})
		end := func() { close(ended) }
		h.mu.Lock()
		failures := h.dialFailures
		wanted := h.barred && down || h.load.Load() < h.allowed
		ok := wanted && !h.closed && h.open-h.apart < h.most()
		switch {
		case !ok:
		case len(h.flights) > 0 && (h.barred || h.renew):
			h.flights[0].join(end) // one new client is enough for all callers
		default:
			d := &dial{values: ctx, ended: end}
			if h.barred {
				d.began = h.ejections
			}
			h.startDialLocked(d)
			dials++
		}
		h.settleLocked() // its offer may be out of date
		h.unlock()
		if !ok {
			return nil, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, contextError(ctx)
		}
		h.mu.Lock()
		failed := h.dialFailures > failures
		h.mu.Unlock()
		if failed {
			return nil, nil
		}
	}
	return h.takeIdle(), nil
}

// join has one more function called when the dial has ended. The caller must hold the pool's lock,
// and the dial must be in flight.
func (d *dial) join(end func()) {
	first := d.ended
	d.ended = func() {
		if first != nil {
			first()
		}
		end()
	}
}

// tryDials is how often TryLease dials a host whose new connection another call takes.
const tryDials = 16
