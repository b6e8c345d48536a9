package pooly

import (
	"context"
	"time"
)

// How a service tells its Observer of calls and leases. statsd's timings are an Observer, too.

// leaseWatched is lease for a service with an Observer of leases, a leakFinder or probes.
func (s *Service) leaseWatched(ctx context.Context, whole bool) (*Conn, error) {
	if s.probes != nil {
		s.probes.ask(ctx)
	}
	called := s.sample()
	c, err := s.get(ctx, whole)
	if err != nil {
		return nil, err
	}
	s.begin(ctx, c, called)
	return c, nil
}

// sample decides whether the Observer sees the lease of a call that begins. It returns the time if
// so, else 0.
func (s *Service) sample() time.Duration {
	if !s.observed {
		return 0
	}
	if rate := s.observer.LeaseSampleRate; rate < 1 && s.rng.Float64() >= rate {
		return 0
	}
	return s.clock.now()
}

// begin records the start of a lease if anybody wants to know where it began, or how long it lasts.
// called is what sample returned.
func (s *Service) begin(ctx context.Context, c *Conn, called time.Duration) {
	if !c.conn.outside {
		s.leaks.leased(c)
	}
	if called == 0 && !s.timed(ctx, c.conn) {
		return
	}
	now := s.clock.now()
	c.conn.start = now
	if called == 0 {
		return
	}
	c.conn.sampled = true
	notify(s.observer, s.observer.Leased, LeaseEvent{
		Service: s.name,
		Address: c.conn.pool.address,
		Context: ctx,
		Wait:    now - called,
		Score:   hostOf(c).score.Load(),
	})
}

// callEnded tells the Observer of a call that found nothing idle. shed says that it was turned
// away.
func (s *Service) callEnded(c *call, lease *Conn, shed bool, err error) {
	o := s.observer
	if o.Waited == nil && o.Shed == nil {
		return
	}
	waited := s.clock.now() - c.began
	if c.waited {
		event := WaitEvent{Service: s.name, Context: c.ctx, Duration: waited, Err: err}
		if lease != nil {
			event.Address = lease.conn.pool.address
		}
		notify(o, o.Waited, event)
	}
	if shed {
		notify(o, o.Shed, ShedEvent{Service: s.name, Context: c.ctx, Waited: waited, Err: err})
	}
}

// retried tells the Observer of a retry. failed is the host that failed the request.
func (s *Service) retried(ctx context.Context, failed string, cause error) {
	notify(s.observer, s.observer.Retried,
		RetryEvent{Service: s.name, Address: failed, Context: ctx, Err: cause})
}
