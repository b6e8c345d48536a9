package pooly

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// The scores for all or nothing. Anything between them rates a host by degrees, such as by its latency.
const (
	HostDown float64 = 0
	HostUp   float64 = 1
)

// Conn is a lease: a connection between GetConn and Release. Every GetConn returns a new one, whichever
// connection is behind it, so a lease that was released can never touch a later one.
//
// Interface, NetConn and Address may be called concurrently. The connection itself must not be used after
// Release.
type Conn struct {
	conn *conn // immutable; nil in a zero Conn
}

// conn is one connection of a pool, through all the leases it serves.
//
// The fields are in such an order that a pair of GetConn and Release touches one cache line (see Pool). What is known of
// the lease that is out stands here and not in the lease, so that a lease takes 8 bytes.
type conn struct {
	pool    *Pool             // immutable once adopted; nil for a Conn that Dial has not returned yet
	lease   *Conn             // guarded by pool.mu; nil while idle or closed
	below   *conn             // guarded by pool.mu; the next in the idle stack
	leases  *[leaseChunk]Conn // guarded by pool.mu, then by the lease; nil before the first
	used    uint8             // guarded like leases; how many were handed out
	fresh   bool              // guarded by pool.mu, then by the lease; just dialled, for the caller who waits for it
	cut     bool              // guarded by pool.mu; closed under its lease, by Close at the deadline
	spent   bool              // guarded by pool.mu; its lease is its last
	load    int32             // guarded by pool.mu; how many leases of the host were out when this one began, itself included
	start   atomic.Int64      // set by the lease: when it began, by the pool's clock; 0: it is not timed, or there is none
	sampled bool              // set by the lease: Release sends its duration to statsd
	epoch   uint8             // guarded by pool.mu; the pool's when the lease began
	origin  Conn              // what the driver's Dial returned, and what its other methods get

	live      *liveness // NetDriver's, nil for other drivers
	value     any
	adopted   atomic.Bool
	expires   time.Duration // immutable once adopted; by MaxConnLifetime, 0 if that is not set
	index     int           // guarded by pool.mu; its place in pool.conns
	idleSince time.Duration // guarded by pool.mu; kept only if an idle timeout is set
}

// NewConn wraps a connection of any type. It is for the Dial method of drivers: users get theirs from GetConn.
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

// NetConn returns the connection as a net.Conn, or nil if it is none.
//
// Closing it directly is no harm, but Release must be called all the same, with the error that led to it:
// the pool does not see the close, and keeps the connection's place until then.
func (c *Conn) NetConn() net.Conn {
	nc, _ := c.Interface().(net.Conn)
	return nc
}

// Address returns the address of the host that the connection leads to, as given to Add. It is empty for a
// Conn that did not come from a pool.
func (c *Conn) Address() string {
	if c.conn == nil || c.conn.pool == nil {
		return ""
	}
	return c.conn.pool.address
}

// Release ends the lease, gives the connection back, and rates its host.
//
// The first argument is the outcome of using the connection: nil, an error, or a pointer to an error variable,
// which is read when Release runs, so that a deferred Release sees what the function returns:
//
//	defer c.Release(&err, pooly.HostUp)
//
// If the driver calls the error fatal (see Driver.Temporary; NetDriver does for every timeout and I/O error),
// the connection is closed and the host is rated HostDown. Otherwise the connection goes to the longest
// waiting GetConn or becomes idle, and the host is rated with score, in [0, 1]. A Pool used alone keeps no
// score.
//
// The connection is given back even if Release returns an error. The error is ErrConnReleased if the lease
// had ended before, and then nothing is touched; ErrPoolClosed if Close ended it by closing the connection;
// ErrInvalidArg, and then nothing is rated, if score is no number in [0, 1], or if the outcome is of another
// type, and then the connection is closed, since nothing is known of it. Only one of several concurrent calls
// has an effect.
func (c *Conn) Release(err any, score float64) error {
	if c.conn == nil || c.conn.pool == nil {
		return fmt.Errorf("%w: Release of a Conn that came from no pool", ErrInvalidArg)
	}
	if isNil(err) && score >= HostDown && score <= HostUp {
		return c.conn.pool.putBack(c, score)
	}
	return c.releaseAfter(err, score)
}

// isNil reports whether the first argument of Release tells of no error.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	err, ok := v.(*error)
	return ok && (err == nil || *err == nil)
}

// releaseAfter is Release for a lease that did not end well, or with an argument that is wrong.
func (c *Conn) releaseAfter(err any, score float64) error {
	p := c.conn.pool
	cause, argErr := causeOf(err)
	unread := argErr != nil
	if !(score >= HostDown && score <= HostUp) { // so that NaN fails too
		argErr = fmt.Errorf("%w: score %v is outside [0, 1]", ErrInvalidArg, score)
	}
	o := outcome{score: score, rated: argErr == nil}
	if unread || cause != nil && !p.temporary(cause) {
		o.score, o.fatal, o.cause = HostDown, true, cause
	}
	if err := p.put(c, o); err != nil {
		return err
	}
	return argErr
}

// outcome is what a lease tells about the connection and its host.
type outcome struct {
	score float64
	rated bool  // whether score counts
	fatal bool  // whether the connection must be closed
	cause error // of a fatal outcome; nil if it is unknown
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
