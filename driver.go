package pooly

import "context"

// Driver tells a pool how to connect, close and judge one kind of connection. [NetDriver] is the
// driver for TCP, Unix sockets and TLS. [DriverOf] makes a driver from functions, and
// [NewSharedDriver] one for clients that serve many callers at once. In the repository,
// examples/clients has drivers for Redis and memcached.
//
// All methods are called concurrently, for different connections, and never with a lock held. Each
// gets the *Conn that Dial returned, not the lease that GetConn hands out. If a method panics, the
// connection counts as broken, and the panic and its stack are logged.
//
// A driver may implement Pinger, Checker and Prober. It may also have these methods:
//   - DefaultMaxConns() int returns what MaxConns is if the configuration leaves it 0, for a
//     protocol that the usual default does not suit.
//   - CheckAddress(address string) error returns an error if an address can never be dialled, such
//     as a URL where host:port is needed. It must not wait for the network. The service logs the
//     error once, as a warning, when it begins to use the address. The host is used all the same.
type Driver interface {
	// Dial connects to address, and wraps the connection with NewConn. Each call returns a Conn of
	// its own.
	//
	// It should give up when ctx ends: after DialTimeout, and when the host is removed or the
	// service is closed. A caller that stops waiting does not end ctx, because the connection can
	// serve another caller. The exception is DialContext, which dials with its caller's context.
	//
	// If a caller's wait starts the dial, ctx has the values of that caller's context, such as its
	// trace. Another caller may get the connection, so it must not depend on the values. Dials in
	// the background have no values: dials for PrespawnConns, probes, and dials while no host is
	// up.
	//
	// Its error is the cause that GetConn reports for the address.
	//
	// If connections share something, such as a socket, Dial must make a new one if IsProbe(ctx).
	Dial(ctx context.Context, address string) (*Conn, error)

	// Close closes the connection. It is called once for each connection that Dial returned. If it
	// takes longer than a second, the pool does not wait for it: another connection may take the
	// place of the closed one.
	Close(c *Conn)

	// TestOnBorrow says whether an idle connection is fit for use. After an error the connection is
	// closed and not handed out. TestOnBorrow is called:
	//   - before each lease;
	//   - about once a second for idle connections, while others are leased;
	//   - after KeepAlive for connections that stay idle.
	//
	// Every GetConn calls it, so it must not wait for the network. If it might, set
	// PoolConfig.TestTimeout.
	TestOnBorrow(c *Conn) error

	// Temporary reports whether a connection is still fit for use after an operation on it failed
	// with err. err is what the user gave to Release, and never nil. If Temporary reports false,
	// the error is fatal: the connection is closed and its host is rated HostDown. In doubt it
	// should report false. If a connection is kept while a reply is on its way, the next request
	// gets that reply.
	Temporary(err error) bool
}

// Pinger is a Driver that can ask the server, over an idle connection, for a sign of life. See
// PoolConfig.KeepAlive and ServiceConfig.CheckInterval.
type Pinger interface {
	// Ping sends a request and waits for its answer. It returns an error if the connection is broken
	// or the server cannot serve. It is called like the methods of Driver, and only for connections
	// that nobody uses. It may wait for the network until ctx ends: after 5 s, or DialTimeout if
	// that is shorter, and when the host is removed or the service is closed. It must leave no
	// deadline and nothing unread on the connection.
	Ping(ctx context.Context, c *Conn) error
}

// Checker is a Driver that can tell whether an ejected host is fit to serve again.
type Checker interface {
	// Check is called on each connection that was dialled to an ejected host, before the host takes
	// traffic again. After an error the connection is closed, and the host stays ejected with the
	// error as its cause. It may wait for the network until ctx ends: Dial and Check together have
	// DialTimeout. A panic counts as an error.
	//
	// Connections of DialContext are not checked, since their protocol is the client's. They do not
	// restore a host then. A lease that ends well may restore a host without Check.
	Check(ctx context.Context, c *Conn) error
}

// pingerOf returns the driver as a Pinger, nil if it is none.
func pingerOf(d Driver) Pinger {
	if o, ok := d.(optional); ok && !o.pings() {
		return nil
	}
	p, _ := d.(Pinger)
	return p
}

// checkerOf returns the driver as a Checker, nil if it is none.
func checkerOf(d Driver) Checker {
	if o, ok := d.(optional); ok && !o.checks() {
		return nil
	}
	c, _ := d.(Checker)
	return c
}

// optional is a driver that is a Pinger or Checker only if its user gave it the functions.
type optional interface {
	pings() bool
	checks() bool
}

// IsProbe reports whether a Dial with this context must share nothing with older connections of the
// host. There are two reasons:
//   - The dial finds out whether an ejected host is back. Older connections do not prove that.
//   - Evict was called, so older connections are to be closed.
func IsProbe(ctx context.Context) bool {
	return ctx.Value(probeKey{}) != nil
}

type probeKey struct{}

// asProbe returns a context for which IsProbe reports true.
func asProbe(ctx context.Context) context.Context {
	return context.WithValue(ctx, probeKey{}, true)
}

// defaultMaxConns returns the MaxConns of a pool whose configuration leaves it 0.
func defaultMaxConns(d Driver) int {
	if d, ok := d.(interface{ DefaultMaxConns() int }); ok {
		return max(1, d.DefaultMaxConns())
	}
	return DefaultMaxConns
}
