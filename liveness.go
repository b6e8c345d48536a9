package pooly

import (
	"net"
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
