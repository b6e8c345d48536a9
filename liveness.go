package pooly

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/3XX0/pooly/internal/sockpeek"
)

// errUnread says that a connection has bytes that its last user did not read.
var errUnread = sockpeek.ErrUnread

// liveness tells whether an idle connection of a NetDriver is fit for use, without waiting. It is
// made once per connection, so that a check of a plain socket allocates nothing. It belongs to
// whoever has the lease.
type liveness struct {
	conn  net.Conn         // what the user gets; nil if it has no deadlines
	tls   *tls.Conn        // of which a check may have consumed a byte; nil if there is none
	under sockpeek.Checker // nil if there is no socket to look at
}

// newLiveness returns the liveness of conn, which NetDriver has just dialled. It also removes a
// deadline that the dialer has left on conn.
func newLiveness(conn net.Conn, tc *tls.Conn, under sockpeek.Checker) *liveness {
	l := &liveness{tls: tc, under: under}
	// An SSH channel, for one, has no deadlines and says so. Then a user cannot leave one, either.
	if conn.SetDeadline(time.Time{}) == nil {
		l.conn = conn
	}
	return l
}

// check returns an error if the peer has closed the connection, or if there is something to read.
// It removes a deadline that the last user has left.
func (l *liveness) check() error {
	if l.conn != nil {
		// By the connection that the user had, since a layer may keep deadlines of its own.
		if err := l.conn.SetDeadline(time.Time{}); err != nil {
			return err
		}
	}
	if l.under == nil {
		return nil
	}
	return l.under.Check()
}
