package pooly

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// outdatedWithin is the time in which the connections of clients are replaced after a host was
// added or restored. Each has a random moment of its own, so that they are not dialled together.
const outdatedWithin = 10 * time.Second

var errOutdated = errors.New("pooly: the connection is outdated, dial another")

// Outdated reports whether a client should close an idle connection that DialContext has dialled,
// and dial another one. conn may have layers on it, such as TLS. A connection is outdated in three
// cases:
//   - Its host was removed or drained, or its connections were evicted.
//   - A host was added or restored since the connection was dialled. Such connections become
//     outdated within 10 s, each at a random moment. The strategy then spreads them over all hosts.
//   - It is older than MaxConnLifetime.
//
// Call it when a connection leaves the client's pool or returns to it, for example in PrepareConn
// of pgxpool. Then no request is lost. Clients that check an idle connection by its SyscallConn
// method, such as go-redis and go-sql-driver/mysql, need not ask: that method fails if the
// connection is outdated and no answer is due. If go-redis itself adds TLS, it does not see the
// method.
//
// Outdated reports false while an answer is due, and for all other connections.
func Outdated(conn net.Conn) bool {
	for range maxLayers {
		if c, ok := conn.(interface{ outdated() bool }); ok {
			return c.outdated()
		}
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = outer.NetConn()
	}
	return false
}

func (c *clientConn) outdated() bool {
	if c.asked.Load() != 0 {
		return false
	}
	now := c.host.clock.now()
	gained := time.Duration(c.host.cluster.gainedAt.Load())
	return c.host.ctx.Err() != nil || c.lease.conn.era != c.host.era.Load() ||
		c.lease.conn.outlived(now) ||
		gained > c.born && now-gained >= c.stays
}

// SyscallConn is how clients check an idle connection before they use it.
func (c *clientSocket) SyscallConn() (syscall.RawConn, error) {
	if c.outdated() {
		return nil, errOutdated
	}
	return c.socketMethods.SyscallConn()
}
