package pooly

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// The lowest and the highest score. Scores between them rate a host by degrees, for example by its
// latency.
const (
	HostDown float64 = 0
	HostUp   float64 = 1
)

// Conn is a lease: a connection between GetConn and Release. Every GetConn returns a new Conn,
// whichever connection is behind it. So a lease that was released can never touch a later one.
//
// Interface, NetConn and Address may be called concurrently. The connection itself must not be used
// after Release.
type Conn struct {
	conn *conn // immutable; nil in a zero Conn
}

// conn is one connection of a pool, through all leases that it serves. What is known of a lease is
// kept here, so that a Conn takes 8 bytes. The fields before live share one cache line, and a pair
// of GetConn and Release touches no others.
type conn struct {
	pool    *Pool             // immutable once adopted; nil until Dial has returned
	lease   *Conn             // guarded by pool.mu; nil while idle or closed
	below   *conn             // guarded by pool.mu; the next in the idle stack
	leases  *[leaseChunk]Conn // guarded by pool.mu, then by the lease; nil before the first
	start   time.Duration     // set by the lease; when it began, by the pool's clock; 0: not timed
	since   int64             // guarded by pool.mu; when the lease began, by the coarse clock
	load    int32             // guarded by pool.mu; the pool's load with the lease, when it began
	epoch   uint32            // guarded by pool.mu; the pool's epoch when the lease began
	used    uint8             // guarded like leases; how many of them were handed out
	fresh   bool              // guarded by pool.mu, then by the lease; dialled and not tested since
	cut     bool              // guarded by pool.mu; Close has closed it under its lease
	spent   reason            // guarded by pool.mu; why its lease is its last; 0: it is not
	sampled bool              // set by the lease; the Observer hears of its end
	retired bool              // guarded by pool.mu; its share is over, see endShareLocked
	outside bool              // immutable once adopted; it is of DialContext

	live      *liveness // NetDriver's, nil for other drivers
	share     *Share    // immutable; nil if the connection serves one lease at a time
	value     any
	origin    Conn // the Conn that the driver's Dial returned; the driver's other methods get it
	adopted   atomic.Bool
	index     int32         // guarded by pool.mu; its index in pool.conns
	era       uint32        // immutable once adopted; the pool's era when its dial began
	born      time.Duration // immutable once adopted; when it was dialled
	expires   time.Duration // immutable once adopted; from MaxConnLifetime; 0: never
	idleSince time.Duration // guarded by pool.mu; set only if connections expire
	watch     *watch        // guarded by pool.mu; nil before LeakTimeout has looked at its leases
	tested    time.Duration // guarded by pool.mu; when it was last tested while leases flow
	kept      time.Duration // guarded by pool.mu; when it was dialled, or last kept alive
}

// NewConn wraps a connection of any type. It is for the Dial method of drivers. Users get a Conn
// from GetConn.
func NewConn(value any) *Conn {
	c := &conn{value: value}
	c.origin.conn = c
	return &c.origin
}

// Interface returns the connection that the driver gave to NewConn.
func (c *Conn) Interface() any {
	if c.conn == nil {
		return nil
	}
	return c.conn.value
}

// Value returns the connection that the driver gave to NewConn, as a T. It panics if the connection
// is of another type, like a type assertion.
func Value[T any](c *Conn) T {
	return c.Interface().(T)
}

// NetConn returns the connection as a net.Conn. If the connection is not a net.Conn but has a
// method NetConn() net.Conn, the result is what that method returns. Otherwise it is nil.
//
// Closing it directly does no harm. But Release must be called all the same, with the error that
// led to the close. The pool does not see the close, and until Release the connection counts in
// MaxConns.
func (c *Conn) NetConn() net.Conn {
	return asNetConn(c.Interface())
}

// Address returns the address of the connection's host, as given to Add. It is empty for a Conn
// that did not come from a pool.
func (c *Conn) Address() string {
	if c.conn == nil || c.conn.pool == nil {
		return ""
	}
	return c.conn.pool.address
}

// Release ends the lease, gives the connection back, and rates its host.
//
// The first argument is the outcome: nil, an error, or a pointer to an error variable. A pointer is
// read when Release runs, so that a deferred Release sees what the function returns:
//
//	func use(s *pooly.Service) (err error) {
//		c, err := s.GetConn()
//		if err != nil {
//			return err
//		}
//		defer c.Release(&err, pooly.HostUp)
//		return ask(c)
//	}
//
// The result must have a name, and the pointer must be its address. If err is a variable of the
// function, "return ask(c)" does not set it. Release then sees nil, and keeps a connection whose
// reply may still come. Service.Do has no such trap.
//
// An error that is the server's answer, such as "not found", is no failure: mark it with Answered.
// The connection is then kept, and the host is rated with score.
//
// If the driver calls the error fatal (see Driver.Temporary), the connection is closed and the host
// is rated HostDown. NetDriver calls every timeout and I/O error fatal. After one of two errors the
// host is not rated, and the error does not count against its health:
//   - context.Canceled;
//   - a timeout, if the host had less time than its leases usually take, and has served somebody in
//     the last two seconds. pooly must know when the lease began, which it does if GetConnContext
//     got a deadline.
//
// Otherwise the connection goes to the next waiting caller or becomes idle, and the host is rated
// with score, in [0, 1]. After an error that the driver calls temporary, HostUp counts as HostDown:
// a host that answers each request with an error at once must not look like the best. A lower score
// counts as it is. A Pool used alone keeps no score.
//
// The connection is given back even if Release returns an error. The error is one of:
//   - ErrConnReleased: the lease had ended before; nothing is touched;
//   - ErrPoolClosed: Close has closed the connection;
//   - ErrInvalidArg: score is not in [0, 1], so nothing is rated; or the outcome is of another
//     type, so the connection is closed too.
//
// If Release is called concurrently, one call has an effect.
func (c *Conn) Release(err any, score float64) error {
	if c.conn == nil || c.conn.pool == nil {
		return fmt.Errorf("%w: Release of a Conn that came from no pool", ErrInvalidArg)
	}
	if isNil(err) && score >= HostDown && score <= HostUp {
		return c.conn.pool.putBack(c, score)
	}
	return c.releaseAfter(err, score)
}

// isNil reports whether the first argument of Release stands for no error.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	err, ok := v.(*error)
	return ok && (err == nil || *err == nil)
}

// releaseAfter is Release for a lease that ended with an error or has a wrong argument.
func (c *Conn) releaseAfter(err any, score float64) error {
	p := c.conn.pool
	cause, argErr := causeOf(err)
	unread := argErr != nil
	if !(score >= HostDown && score <= HostUp) { // so that NaN fails too
		argErr = fmt.Errorf("%w: score %v is outside [0, 1]", ErrInvalidArg, score)
	}
	o := outcome{score: score, rated: argErr == nil}
	switch {
	case unread:
		o.fatal = true
	case cause != nil:
		o = p.outcomeOf(c, cause, o)
	}
	if err := p.put(c, o); err != nil {
		return err
	}
	return argErr
}

// Answered marks an error as an answer of the server, such as "not found", or "duplicate key". The
// server works, and the connection is in order. So Release and Service.Do keep the connection and
// rate the host as after nil, without asking the driver's Temporary. Answered of nil is nil.
//
//	user, err := find(c, id)
//	if errors.Is(err, errNoUser) {
//		return pooly.Answered(err)
//	}
//
// Do not mark an error that leaves a reply unread. A host may answer each request with an error
// because it is not fit to serve, such as Redis while it loads its data. Then return
// Retry(Answered(err)): another host gets the request, the host is rated HostDown, and the
// connection is kept.
//
// The mark may be wrapped, but not joined with other errors. errors.Is and errors.As see through
// it.
func Answered(err error) error {
	if err == nil {
		return nil
	}
	return &answeredError{err}
}

type answeredError struct{ err error }

func (e *answeredError) Error() string { return e.err.Error() }
func (e *answeredError) Unwrap() error { return e.err }

// isAnswer reports whether err was marked by Answered. A joined error may be of another cause too.
func isAnswer(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if _, ok := err.(*answeredError); ok {
			return true
		}
	}
	return false
}

// outcome is what a lease tells about the connection and its host.
type outcome struct {
	score   float64
	rated   bool  // score counts
	failure bool  // it counts against the host's health
	fatal   bool  // the connection must be closed
	timeout bool  // it is a failure by a deadline
	givenUp bool  // its user gave it up: it tells neither that the host works nor that it fails
	apart   bool  // its exchanges were rated and timed apart
	cause   error // what the lease ended with; nil: nothing, or an answer
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

// well reports whether the lease showed that the host serves. A lease that its user cancelled shows
// nothing.
func (o outcome) well() bool {
	return o.rated && !o.failure && !o.fatal && !o.givenUp
}

// causeOf reads the first argument of Release.
func causeOf(v any) (cause, argErr error) {
	if isNil(v) {
		return nil, nil
	}
	switch v := v.(type) {
	case *error:
		return *v, nil
	case error:
		return v, nil
	}
	return nil, fmt.Errorf("%w: the outcome must be an error, *error or nil, not %T", ErrInvalidArg, v)
}

// leaseChunk is how many handles are allocated at once. Handles are never reused, so that a second
// Release is detected.
const leaseChunk = 16
