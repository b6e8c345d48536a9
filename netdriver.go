package pooly

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/3XX0/pooly/internal/sockpeek"
)

// DefaultConnTimeout is how long a NetDriver tries to connect.
const DefaultConnTimeout = 5 * time.Second

// NetDriver is the Driver for stream connections of package net: TCP and Unix sockets, optionally
// with TLS. Its connections are net.Conns, see Conn.NetConn.
//
// A connection is not handed out again if the peer has closed it, or has sent bytes that nobody
// read: they may be the late reply to someone else's request. TestOnBorrow finds out by peeking at
// the socket. It does not wait and consumes nothing. On systems other than Unix it finds nothing.
//
// A driver for a protocol can embed a *NetDriver, and replace only Dial and Temporary, if each of its
// connections has a method NetConn() net.Conn. DriverOf is shorter still.
//
// Call the Set methods before the driver is used. All other methods may be called concurrently.
type NetDriver struct {
	network      string
	connTimeout  time.Duration
	readTimeout  time.Duration
	writeTimeout time.Duration
	tls          *tls.Config // nil: no TLS
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
	custom       bool // dial was set
}

var _ Driver = (*NetDriver)(nil)

// NewNetDriver returns a driver for a network of net.Dial: "tcp", "tcp4", "tcp6" or "unix".
func NewNetDriver(network string) *NetDriver {
	return &NetDriver{
		network:     network,
		connTimeout: DefaultConnTimeout,
		dial:        new(net.Dialer).DialContext,
	}
}

// SetConnTimeout bounds the time to connect, TLS handshake included. Default 5 s; 0: as long as the
// operating system tries. PoolConfig.DialTimeout is a second bound.
func (d *NetDriver) SetConnTimeout(timeout time.Duration) {
	d.connTimeout = timeout
}

// SetReadTimeout bounds each Read. Release the connection with the timeout's error: it is then
// closed, because the reply may still come. Default 0: no bound.
func (d *NetDriver) SetReadTimeout(timeout time.Duration) {
	d.readTimeout = timeout
}

// SetWriteTimeout bounds each Write, as SetReadTimeout does each Read. Default 0: no bound.
func (d *NetDriver) SetWriteTimeout(timeout time.Duration) {
	d.writeTimeout = timeout
}

// SetTLSConfig has the driver use TLS. Dial completes the handshake. The config is cloned. A nil
// config means no TLS, the default.
//
// If ServerName is empty, the peer's certificate must be valid for the host of the address that is
// dialled. If ClientSessionCache is nil, the driver's connections share a cache, so that only the
// first handshake with a server is a full one.
func (d *NetDriver) SetTLSConfig(config *tls.Config) {
	d.tls = config.Clone()
	if d.tls != nil && d.tls.ClientSessionCache == nil {
		d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
}

// SetDialContext sets the function that connects, for a proxy, an SSH tunnel or socket options. The
// default, also if dial is nil, is DialContext of a net.Dialer. TLS, if set, is added to what dial
// returns.
//
// If a connection is no syscall.Conn, TestOnBorrow cannot examine it and takes it for fit.
func (d *NetDriver) SetDialContext(
	dial func(ctx context.Context, network, address string) (net.Conn, error),
) {
	d.dial, d.custom = dial, dial != nil
	if dial == nil {
		d.dial = new(net.Dialer).DialContext
	}
}

// CheckAddress returns an error if an address can never be dialled over TCP: it is not host:port, or
// has an unknown port. It does not look up the host. Other networks, and a function given to
// SetDialContext, may take any address. See Driver.
func (d *NetDriver) CheckAddress(address string) error {
	if d.custom || !strings.HasPrefix(d.network, "tcp") {
		return nil
	}
	return checkHostPort(d.network, address)
}

// checkHostPort returns an error if an address is not host:port, where port is a number or the name
// of a service.
func checkHostPort(network, address string) error {
	_, service, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := net.LookupPort(network, service) // in a table, without the network
	if err == nil && port == 0 {
		err = &net.AddrError{Err: "missing port in address", Addr: address}
	}
	return err
}

// Dial implements Driver.
func (d *NetDriver) Dial(ctx context.Context, address string) (*Conn, error) {
	if d.connTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.connTimeout)
		defer cancel()
	}
	socket, err := d.dial(ctx, d.network, address)
	if err != nil {
		return nil, err
	}
	if socket == nil {
		return nil, errNilSocket
	}
	var under sockpeek.Checker
	nc := socket
	if d.tls != nil {
		tlsSocket := sockpeek.UnderTLS(socket)
		tc, err := d.handshake(ctx, tlsSocket, address)
		if err != nil {
			_ = socket.Close()
			return nil, err
		}
		tlsSocket.Bind(tc)
		nc, under = tc, tlsSocket
	} else {
		under = sockpeek.Of(socket)
	}
	if d.readTimeout > 0 || d.writeTimeout > 0 {
		nc = newTimeoutConn(nc, d.readTimeout, d.writeTimeout)
	}
	c := NewConn(nc)
	c.conn.live = newLiveness(nc, under)
	return c, nil
}

var errNilSocket = errors.New(
	"the dialer given to SetDialContext returned neither a connection nor an error")

func (d *NetDriver) handshake(
	ctx context.Context, socket net.Conn, address string,
) (*tls.Conn, error) {
	config := d.tls
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		config = config.Clone()
		config.ServerName = host
	}
	tc := tls.Client(socket, config)
	return tc, tc.HandshakeContext(ctx)
}

// Close implements Driver.
func (d *NetDriver) Close(c *Conn) {
	if nc := c.NetConn(); nc != nil {
		_ = nc.Close()
	}
}

// testSocket tests the connection's socket, if it can find one.
func (c *Conn) testSocket() error {
	if c.conn.live == nil { // of another driver
		c.conn.live = livenessOf(c.conn.value)
	}
	return c.conn.live.check()
}

// TestOnBorrow implements Driver. It returns an error if the peer has closed the connection, or if
// there are unread bytes. It also removes a deadline that the last user has left.
func (d *NetDriver) TestOnBorrow(c *Conn) error {
	return c.testSocket()
}

// Temporary implements Driver. It reports true only for an interrupted system call, which does no
// harm to a connection. Timeouts are fatal, because the reply may still come. All other errors are
// fatal too, also errors of the user's protocol. Wrap the driver to keep more connections.
func (d *NetDriver) Temporary(err error) bool {
	return errors.Is(err, syscall.EINTR)
}
