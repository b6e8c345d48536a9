package pooly

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Share is an open connection that serves many leases at once, such as one of HTTP/2. It is for
// drivers whose Dial returns a share of an open connection: each time a Conn of its own, from the
// method Conn. NewSharedDriver and package poolyhttp are examples.
//
// A Share is over in these cases:
//   - It is older than MaxConnLifetime, also while it is leased all the time.
//   - One of its Conns was closed after its lease, because of a fatal error or CloseOnRelease.
//
// Then its idle Conns are closed, and its leased ones when their leases end. The driver closes the
// connection itself with the last of them. Dial must then open another connection.
//
// Its methods may be called concurrently.
type Share struct {
	value    any
	born     time.Time             // immutable
	shorter  float64               // immutable; this part of its lifetime is cut off
	over     atomic.Bool           // it gets no new leases
	replaces atomic.Pointer[Share] // the one before; nil if there is none, or once that is over

	address string // NewSharedDriver's; immutable
	places  int    // NewSharedDriver's; guarded by its mutex; Conns that are not closed
}

// NewShare returns a Share of a connection that was just opened. Conn.Interface returns value for
// all its Conns.
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
