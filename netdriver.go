package pooly

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"
)

// DefaultConnTimeout is how long a NetDriver tries to connect.
const DefaultConnTimeout = 5 * time.Second

// NetDriver is the Driver for stream connections of package net: TCP and Unix sockets, with TLS if wanted. Its
// connections are net.Conns, see Conn.NetConn.
//
// A connection is not handed out again if the peer has closed it or has sent bytes that nobody read, which
// might be the late reply to someone else's request. TestOnBorrow sees either without waiting and without
// consuming anything, by peeking at the socket (on Unix systems; elsewhere it tells nothing).
//
// The Set methods are to be called before the driver is used; everything else may be called concurrently.
type NetDriver struct {
	network      string
	connTimeout  time.Duration
	readTimeout  time.Duration
	writeTimeout time.Duration
	tls          *tls.Config // nil: no TLS
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
}

var _ Driver = (*NetDriver)(nil)

// NewNetDriver returns a driver for a network that net.Dial knows: "tcp", "tcp4", "tcp6" or "unix".
func NewNetDriver(network string) *NetDriver {
	return &NetDriver{
		network:     network,
		connTimeout: DefaultConnTimeout,
		dial:        new(net.Dialer).DialContext,
	}
}

// SetConnTimeout bounds the time to connect, the TLS handshake included. Default 5 s; 0: as long as the
// operating system tries. PoolConfig.DialTimeout bounds it, too.
func (d *NetDriver) SetConnTimeout(timeout time.Duration) {
	d.connTimeout = timeout
}

// SetReadTimeout bounds each Read. A deadline that the user sets holds as well: the earlier of the
// two ends the Read. Default 0: no bound.
//
// After a timeout, release the connection with the error. It is then closed, since the reply may
// still come.
func (d *NetDriver) SetReadTimeout(timeout time.Duration) {
	d.readTimeout = timeout
}

// SetWriteTimeout bounds each Write, as SetReadTimeout does each Read. Default 0: no bound.
func (d *NetDriver) SetWriteTimeout(timeout time.Duration) {
	d.writeTimeout = timeout
}

// SetTLSConfig makes the driver's connections TLS ones; Dial completes the handshake. The config is cloned. If
// its ServerName is empty, the peer's certificate must be valid for the host of the address that is dialled. If
// its ClientSessionCache is nil, the driver's connections share one, so that all but the first handshake with a
// server can be short. A nil config means no TLS, the default.
func (d *NetDriver) SetTLSConfig(config *tls.Config) {
	d.tls = config.Clone()
	if d.tls != nil && d.tls.ClientSessionCache == nil {
		d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
}

// SetDialContext replaces the way to connect, for a proxy, an SSH tunnel or socket options. The default is that
// of a net.Dialer; nil restores it. TLS, if wanted, is put on top of what dial returns. A connection that is no
// syscall.Conn cannot be looked at, so that TestOnBorrow takes it for fit.
func (d *NetDriver) SetDialContext(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	d.dial = dial
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
	nc, live := socket, newLiveness(socket)
	if d.tls != nil {
		if nc, err = d.handshake(ctx, socket, live, address); err != nil {
			_ = socket.Close()
			return nil, err
		}
	}
	if d.readTimeout > 0 || d.writeTimeout > 0 {
		nc = newTimeoutConn(nc, d.readTimeout, d.writeTimeout)
	}
	c := NewConn(nc)
	c.conn.live = live
	return c, nil
}

var errNilSocket = errors.New("the dialer given to SetDialContext returned neither a connection nor an error")

func (d *NetDriver) handshake(ctx context.Context, socket net.Conn, live *liveness, address string) (net.Conn, error) {
	config := d.tls
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			host = address
		}
		config = config.Clone()
		config.ServerName = host
	}
	if live != nil {
		socket = live.underTLS(socket)
	}
	tc := tls.Client(socket, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if live != nil {
		live.tls = tc
	}
	return tc, nil
}

// Close implements Driver.
func (d *NetDriver) Close(c *Conn) {
	if nc := c.NetConn(); nc != nil {
		_ = nc.Close()
	}
}

// TestOnBorrow implements Driver: it returns an error if the peer has closed the connection, or if there are
// unread bytes. It also removes a deadline that the last user has left behind.
func (d *NetDriver) TestOnBorrow(c *Conn) error {
	if c.conn.live == nil {
		return nil
	}
	return c.conn.live.check()
}

// Temporary implements Driver. It holds only for an interrupted system call, which leaves a connection as it
// was. Timeouts are fatal, since the reply that did not come in time may still come, and so is every other
// error, one of the user's own protocol included: wrap the driver to be more lenient.
func (d *NetDriver) Temporary(err error) bool {
	return errors.Is(err, syscall.EINTR)
}
