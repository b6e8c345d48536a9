package pooly

import (
	"net"
	"reflect"
	"time"

	"github.com/3XX0/pooly/internal/sockpeek"
)

// liveness tells whether an idle socket is fit for use, without waiting. It is made once per
// connection, so that a check allocates nothing. It belongs to the current lease.
type liveness struct {
	conn  net.Conn         // what the user gets; nil if it has no deadlines
	under sockpeek.Checker // nil if there is no socket to look at
}

// newLiveness returns the liveness of conn, which NetDriver has just dialled. It also removes a
// deadline that the dialer has left on conn.
func newLiveness(conn net.Conn, under sockpeek.Checker) *liveness {
	l := &liveness{under: under}
	// An SSH channel, for one, has no deadlines and says so. Then a user cannot leave one, either.
	if conn.SetDeadline(time.Time{}) == nil {
		l.conn = conn
	}
	return l
}

// livenessOf returns the liveness of a connection of any type.
func livenessOf(value any) *liveness {
	nc := asNetConn(value)
	if nc == nil {
		return &liveness{}
	}
	inner := withoutClient(nc)
	if t, ok := inner.(*timeoutConn); ok {
		inner = t.Conn
	}
	return newLiveness(nc, sockpeek.Of(inner))
}

// asNetConn returns a connection, or what its method NetConn returns. It returns nil if the
// connection is not a net.Conn and has no such method.
func asNetConn(value any) net.Conn {
	switch v := value.(type) {
	case net.Conn:
		return v
	case interface{ NetConn() net.Conn }:
		return v.NetConn()
	}
	return nil
}

// withoutClient returns the connection that a client embeds, such as
//
//	struct {
//		net.Conn
//		r *bufio.Reader
//	}
//
// It returns nc itself if nc is a connection of another kind.
func withoutClient(nc net.Conn) net.Conn {
	v := reflect.Indirect(reflect.ValueOf(nc))
	if v.Kind() != reflect.Struct {
		return nc
	}
	f, ok := v.Type().FieldByName("Conn")
	if !ok || !f.Anonymous || len(f.Index) > 1 {
		return nc
	}
	if inner, ok := v.Field(f.Index[0]).Interface().(net.Conn); ok {
		return inner
	}
	return nc
}

// socketOf returns the connection at the bottom of nc, whose Close does not wait for a TLS peer.
func socketOf(nc net.Conn) net.Conn {
	nc = withoutClient(nc)
	for range maxLayers {
		outer, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner := outer.NetConn()
		if inner == nil {
			break
		}
		nc = inner
	}
	return nc
}

// maxLayers ends the search for a socket beneath layers that lead back to themselves.
const maxLayers = 16

// check returns an error if the peer has closed the connection, or if there is something to read.
// It removes a deadline that the last user has left.
func (l *liveness) check() error {
	if l.conn != nil {
		// Use the connection that the user had, since a layer may keep deadlines of its own.
		if err := l.conn.SetDeadline(time.Time{}); err != nil {
			return err
		}
	}
	if l.under == nil {
		return nil
	}
	return l.under.Check()
}
