package pooly

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
)

// Do leases a connection, runs f with it and releases it. It is the shortest correct way to use a
// service: it gives the connection back on every path, and rates the host by what f returns.
//
//	err := s.Do(ctx, func(c *pooly.Conn) error {
//		_, err := c.NetConn().Write([]byte("ping\n"))
//		return err
//	})
//
// Do releases the connection with f's error and the score HostUp (see Conn.Release). After nil, or
// an error marked by Answered, the host is rated HostUp. After any other error it is rated HostDown,
// and the connection is closed unless the driver calls the error temporary. So mark the errors of
// your application that are no fault of the host:
//
//	return pooly.Answered(errNoUser)
//
// To rate by degrees, or independently of the error, f releases the connection itself, as its last
// act:
//
//	c.Release(err, pooly.LatencyScore(time.Since(began), 20*time.Millisecond))
//
// If f panics or ends its goroutine, the connection is closed, the host is not rated, and the panic
// goes on.
//
// Retries: if the error wraps one made by Retry, f runs again.
//   - It gets another host than before. If no other host is up, it gets any host after RetryDelay.
//     If no other host has room, it gets any host after FallbackDelay.
//   - f runs GetAttempts times at most.
//   - There is a budget of retries: a fifth of the calls of Do, and ten more a second. It keeps
//     retries from multiplying the load of hosts that fail because of load. When it is spent, Do
//     returns f's error.
//
// ctx bounds both the wait for a connection and f. A call that has waited gets no connection if
// less time is left than the shortest lease of the last second or two took. It fails with
// ErrOverloaded instead.
//
// If ctx ends while f runs, the connection's socket is closed under f, so that its reads and writes
// fail. Do's error then wraps ctx.Err() and the cause. Do finds the socket if Conn.NetConn does:
// the connection is a net.Conn, or has a method NetConn() net.Conn. It closes the connection at the
// bottom, beneath TLS for example. It does not close connections of other types, nor shared clients
// (see NewSharedDriver): there f must heed ctx.
//
// If ctx is cancelled, the host is not rated. If a deadline passes, the host is rated HostDown,
// unless it had less time than its leases usually take.
//
// Do returns f's error without the mark of Retry or Answered, or the error of GetConnContext. If no
// connection can be had for another run, the error wraps both errors. f must not keep the
// connection.
func (s *Service) Do(ctx context.Context, f func(*Conn) error) error {
	s.retries.request()
	c, err := s.lease(ctx, true)
	if err != nil {
		return err
	}
	var used []*line
	for run := 1; ; run++ {
		if err = c.run(ctx, f); err == nil {
			return nil
		}
		var again *retryError
		retry := errors.As(err, &again)
		err = unmarked(err)
		if !retry {
			return err
		}
		if run >= s.config.GetAttempts || !s.retries.retry(s.clock.now()) {
			return err
		}
		s.retried(ctx, c.Address(), err)
		used = append(used, &c.conn.pool.line)
		var failure error
		if c, failure = s.leaseOther(ctx, used); failure != nil {
			return fmt.Errorf("%w, after %w", failure, err)
		}
	}
}

// Retry marks an error of a function given to Service.Do: another host may serve the request. Use
// it if nothing was done, or if doing it twice does no harm. Retry of nil is nil.
//
// The host is rated HostDown, and the failure counts against its health. The driver's Temporary
// decides about the connection by err itself.
func Retry(err error) error {
	if err == nil {
		return nil
	}
	return &retryError{err}
}

type retryError struct{ err error }

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// unmarked removes the marks of Retry and Answered, unless they are wrapped.
func unmarked(err error) error {
	for {
		switch marked := err.(type) {
		case *retryError:
			err = marked.err
		case *answeredError:
			err = marked.err
		default:
			return err
		}
	}
}

// DoWith is Service.Do for a function that works with the connection itself, a T, and the context:
//
//	err := pooly.DoWith(ctx, s, func(ctx context.Context, c *client) error {
//		return c.set(ctx, "key", "value")
//	})
//
// It returns an error that wraps ErrInvalidArg if the connection is not a T.
func DoWith[T any](ctx context.Context, s *Service, f func(context.Context, T) error) error {
	return s.Do(ctx, func(c *Conn) error {
		value, ok := c.Interface().(T)
		if !ok {
			err := fmt.Errorf("%w: service %s: DoWith needs connections of type %v, not %T",
				ErrInvalidArg, s.name, reflect.TypeFor[T](), c.Interface())
			_ = c.End() // the host has nothing to do with it
			return err
		}
		return f(ctx, value)
	})
}

// CallWith is DoWith for a function that returns a result. If there is an error, the result is the
// zero R.
//
//	user, err := pooly.CallWith(ctx, s, func(ctx context.Context, c *client) (*User, error) {
//		return c.find(ctx, id)
//	})
func CallWith[T, R any](
	ctx context.Context, s *Service, f func(context.Context, T) (R, error),
) (R, error) {
	var result R
	err := DoWith(ctx, s, func(ctx context.Context, c T) (err error) {
		result, err = f(ctx, c)
		return err
	})
	if err != nil {
		var none R
		return none, err
	}
	return result, nil
}

// run calls f with the lease and ends it.
func (c *Conn) run(ctx context.Context, f func(*Conn) error) error {
	p := c.conn.pool
	unwatch := func() bool { return false }
	returned := false
	defer func() {
		if !returned {
			unwatch()
			_ = p.retire(c, outcome{})
		}
	}()
	unwatch = c.watch(ctx)
	err := f(c)
	interrupted := unwatch()
	returned = true

	// The lease may have ended: f may have released it, and Close may have closed it.
	if err == nil {
		_ = p.putBack(c, HostUp)
		return nil
	}
	o := c.outcome(err)
	if errors.Is(ctx.Err(), context.Canceled) {
		if o.fatal {
			p.spend(c, forFailure)
		}
		o = outcome{cause: o.cause}
	}
	_ = p.put(c, o)
	if interrupted {
		return fmt.Errorf("%w: %w", contextError(ctx), err)
	}
	return err
}

// outcome returns the outcome of a lease whose function returned err.
func (c *Conn) outcome(err error) outcome {
	o := outcome{score: HostUp, rated: true}
	cause := err
	var again *retryError
	if errors.As(err, &again) {
		o.score, o.failure, o.cause = HostDown, true, err
		if marked, ok := err.(*retryError); ok {
			cause = marked.err
		}
	}
	return c.conn.pool.outcomeOf(c, cause, o)
}

// watch closes the lease's socket when ctx ends. The returned function ends the watch, and reports
// whether the socket was closed.
func (c *Conn) watch(ctx context.Context) (unwatch func() (interrupted bool)) {
	nc := c.NetConn()
	if ctx.Done() == nil || nc == nil || c.conn.share != nil { // others use a shared socket
		return func() bool { return false }
	}
	done, interrupted := make(chan struct{}), false
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		if interrupted = c.conn.pool.spend(c, forFailure); interrupted {
			c.closeSocket(nc)
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

// closeSocket closes the connection at the bottom of nc, whose Close does not wait for a TLS peer.
func (c *Conn) closeSocket(nc net.Conn) {
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(c.conn.pool.log, "NetConn", v)
		}
	}()
	_ = socketOf(nc).Close()
}
