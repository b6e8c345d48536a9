package pooly

import "context"

// Driver tells a pool how to connect, close and judge one kind of connection. [NetDriver] is the ready-made
// one for TCP, Unix sockets and TLS; examples/clients in the repository has others, for Redis and memcached.
//
// All methods are called concurrently, for different connections, and never with a lock held. Each gets the
// very *Conn that Dial returned, not the lease that GetConn hands out. A method that panics is contained: the
// connection is taken for broken, and the panic and its stack are logged.
type Driver interface {
	// Dial connects to address, and wraps the connection with NewConn. Each call returns a Conn of its own.
	//
	// It should give up when ctx ends, which happens when the host is removed or the service closed; a caller
	// that stops waiting does not end it, since the connection will serve another. Its error is the cause that
	// GetConn reports for the address.
	Dial(ctx context.Context, address string) (*Conn, error)

	// Close closes the connection. It is called once for each connection that Dial returned. One that takes
	// longer than a second is left to finish in the background, and its place in the pool is given away.
	Close(c *Conn)

	// TestOnBorrow is called before a connection is leased; an error keeps it from being handed out, and it is
	// closed. It is on the way of every GetConn, so it must not wait for the network; see PoolConfig.TestTimeout for one
	// that might.
	TestOnBorrow(c *Conn) error

	// Temporary reports whether a connection is still fit for use after an operation on it failed with err, which
	// is what the user gave to Release and never nil. If not, the error is fatal: the connection is closed and
	// its host rated HostDown. In doubt it should report false: a connection that is kept although a reply is
	// still on its way will hand that reply to the wrong request.
	Temporary(err error) bool
}
