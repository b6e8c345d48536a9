package pooly

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Share is an open connection that serves many leases at once, such as an HTTP/2 connection. It is
// for drivers whose Dial often opens no connection, but returns one more Conn of an open
// connection. NewSharedDriver and package poolyhttp are examples.
//
// A Share is over in these cases:
//   - It is older than MaxConnLifetime, even if it was never without a lease.
//   - The lease of one of its Conns ended with a fatal error, or after CloseOnRelease.
//
// pooly then closes its idle Conns at once, and its leased Conns when their leases end. The driver
// should close the connection with the last Conn. pooly may notice the age only when Dial returns
// one more Conn of the Share: it closes that Conn and dials again.
//
// Its methods may be called concurrently.
type Share struct {
	value    any
	born     time.Time             // immutable
	shorter  float64               // immutable; this part of its lifetime is cut off
	over     atomic.Bool           // it gets no new leases
	replaces atomic.Pointer[Share] // the Share before; nil if none, or once that is over

	address string // NewSharedDriver's; immutable
	places  int    // NewSharedDriver's; guarded by its mutex; Conns that are not closed
}

// NewShare returns a Share for a connection that Dial has just opened. Conn.Interface returns value
// for each of its Conns.
func NewShare(value any) *Share {
	return &Share{value: value, born: time.Now(), shorter: lifetimeJitter * rand.Float64()}
}

// Conn returns one more Conn, for Dial to return.
func (s *Share) Conn() *Conn {
	c := NewConn(s.value)
	c.conn.share = s
	return c
}

// Over reports whether Dial must open another connection.
func (s *Share) Over() bool {
	return s.over.Load()
}

// ends returns when a connection that was dialled now passes the given lifetime.
func (c *conn) ends(lifetime, now time.Duration) time.Duration {
	shorter, age := lifetimeJitter*rand.Float64(), time.Duration(0)
	if c.share != nil {
		shorter, age = c.share.shorter, time.Since(c.share.born)
	}
	lifetime -= time.Duration(shorter * float64(lifetime))
	return max(1, later(now, lifetime-age))
}
