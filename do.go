package pooly

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
)

// Do leases a connection, runs f with it and releases it. It is the shortest correct way to use a service: it gives
// the connection back on every path, rates the host by what f returned, and goes to another host where f says so.
//
//	err := s.Do(ctx, func(c *pooly.Conn) error {
//		_, err := c.NetConn().Write([]byte("ping\n"))
//		return err
//	})
//
// The lease ends as by Conn.Release(err, HostUp), with err being what f returned: nil, or an error that the driver
// calls temporary, rates the host HostUp; any other error closes the connection and rates it HostDown. A function
// that rates by degrees releases the connection itself, as its last act, and Do leaves it alone:
//
//	c.Release(err, pooly.LatencyScore(time.Since(began), 20*time.Millisecond))
//
// If f panics, or ends its goroutine, the connection is closed, the host is not rated, and the panic goes on.
//
// If the error wraps one made by Retry, f is run again with a connection to a host that this call has not used, or else
// with one that it has: after RetryDelay if no other can be reached, after FallbackDelay if none answers. While others are
// merely full it waits for them. f runs GetAttempts times at most.
//
// If ctx ends, a connection that is a net.Conn (see Conn.NetConn) is closed under f, so that its reads and writes
// fail, and Do's error wraps ctx.Err() and the cause. It closes the socket at the bottom, found by way of the
// NetConn method that tls.Conn has. Connections of other kinds are not touched: f must heed ctx. A host is not to
// blame if ctx is cancelled, so then it is not rated; that it let a deadline pass rates it HostDown.
//
// The error is f's, without the mark of Retry, or else that of GetConnContext; if no connection can be had to run f
// again, both are wrapped. f must not keep the connection.
func (s *Service) Do(ctx context.Context, f func(*Conn) error) error {
	c, err := s.GetConnContext(ctx)
	if err != nil {
		return err
	}
	var used []*Pool
	for run := 1; ; run++ {
		err = c.run(ctx, f)
		var again *retryError
		if !errors.As(err, &again) {
			return err
		}
		if marked, ok := err.(*retryError); ok {
			err = marked.err
		}
		if run >= s.config.GetAttempts {
			return err
		}
		used = append(used, c.conn.pool)
		var failure error
		if c, failure = s.getOther(ctx, used); failure != nil {
			return fmt.Errorf("%w, after %w", failure, err)
		}
	}
}

// Retry marks the error of a function given to Service.Do: the request failed in a way that lets another host serve it,
// because nothing was done, or because doing it twice is no harm. The host is rated HostDown; whether its connection
// is fit for further use, the driver's Temporary says of err itself. Retry of nil is nil.
func Retry(err error) error {
	if err == nil {
		return nil
	}
	return &retryError{err}
}

type retryError struct{ err error }

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// run calls f with the lease and ends it.
func (c *Conn) run(ctx context.Context, f func(*Conn) error) error {
	p := c.conn.pool
	unwatch := c.watch(ctx)
	returned := false
	defer func() {
		if !returned {
			unwatch()
			_ = p.retire(c, outcome{})
		}
	}()
	err := f(c)
	interrupted := unwatch()
	returned = true

	o := outcome{score: HostUp, rated: true}
	if err != nil {
		cause := err
		if marked, ok := err.(*retryError); ok {
			cause, o.score = marked.err, HostDown
		} else if again := (*retryError)(nil); errors.As(err, &again) {
			o.score = HostDown
		}
		if !p.temporary(cause) {
			o.score, o.fatal, o.cause = HostDown, true, cause
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			if o.fatal {
				p.spend(c)
			}
			o = outcome{}
		}
	}
	_ = p.put(c, o) // f may have released it, and Close may have closed it
	if interrupted && err != nil {
		limit := newLimit(ctx, 0)
		return fmt.Errorf("%w: %w", limit.err(), err)
	}
	return err
}

// watch closes the lease's socket when ctx ends. The function that it returns ends the watch, and reports whether the
// socket was closed.
func (c *Conn) watch(ctx context.Context) (unwatch func() (interrupted bool)) {
	nc := c.NetConn()
	if ctx.Done() == nil || nc == nil {
		return func() bool { return false }
	}
	done, interrupted := make(chan struct{}), false
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		if interrupted = c.conn.pool.spend(c); interrupted {
			_ = socketOf(nc).Close()
		}
	})
	return func() bool {
		if stop() {
			return false
		}
		<-done
		return interrupted
	}
}

// retire ends a lease and closes its connection, although that did not fail.
func (p *Pool) retire(l *Conn, o outcome) error {
	p.spend(l)
	return p.put(l, o)
}

// spend makes a lease the last of its connection. It reports false if the lease has ended.
func (p *Pool) spend(l *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.conn.lease != l || l.conn.cut {
		return false
	}
	l.conn.spent = true
	return true
}

// socketOf returns the connection at the bottom of nc, whose Close does not wait for a TLS peer.
func socketOf(nc net.Conn) net.Conn {
	for {
		outer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		inner := outer.NetConn()
		if inner == nil {
			return nc
		}
		nc = inner
	}
}

// getOther leases a connection to a host whose pool is not in used, while another can be reached.
func (s *Service) getOther(ctx context.Context, used []*Pool) (*Conn, error) {
	q := s.newSearch(ctx, nil)
	q.turn.avoid = slices.Clone(used) // waiters read it, and may outlive an append to used
	c, err := q.run()
	if err != nil {
		s.getFailures.Add(1)
		return nil, err
	}
	if s.timing.Load() {
		c.conn.start.Store(int64(s.clock.now()))
	}
	return c, nil
}
