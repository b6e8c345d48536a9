package pooly

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/3XX0/pooly/internal/sockpeek"
)

// DefaultConnTimeout is how long a NetDriver tries to connect.
const DefaultConnTimeout = 5 * time.Second

// NetDriver is the Driver for stream connections of package net: TCP and Unix sockets, with TLS if
// wanted. Its connections are net.Conns, see Conn.NetConn.
//
// A connection is not handed out again if the peer has closed it, or has sent bytes that nobody
// read: they may be the late reply to someone else's request. See TestOnBorrow.
//
// Call the Set methods before the driver is used. All other methods are safe for concurrent use.
type NetDriver struct {
	network      string
	connTimeout  time.Duration
	readTimeout  time.Duration
	writeTimeout time.Duration
	tls          *tls.Config // nil: no TLS
	dial         func(ctx context.Context, network, address string) (net.Conn, error)
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

// SetConnTimeout bounds the time to connect, including the TLS handshake. PoolConfig.DialTimeout
// bounds it, too. Default 5 s. 0 means as long as the operating system tries.
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

// SetTLSConfig has the driver use TLS. Dial completes the handshake. A nil config means no TLS, the
// default.
//
// The config is cloned. If its ServerName is empty, the server's certificate must be valid for the
// host of the address. If its ClientSessionCache is nil, the driver's connections share one, so
// that all but the first handshake with a server can be short.
func (d *NetDriver) SetTLSConfig(config *tls.Config) {
	d.tls = config.Clone()
	if d.tls != nil && d.tls.ClientSessionCache == nil {
		d.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
}

// SetDialContext replaces the way to connect, for a proxy, an SSH tunnel or socket options. The
// default is that of a net.Dialer; nil restores it. TLS, if wanted, runs on what dial returns.
//
// TestOnBorrow needs the socket of a connection. A type that wraps a connection should have the
// method SyscallConn if it only passes bytes on, or else a method NetConn() net.Conn, as tls.Conn
// has. TestOnBorrow says what either leads to.
func (d *NetDriver) SetDialContext(
	dial func(ctx context.Context, network, address string) (net.Conn, error),
) {
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
	var tc *tls.Conn
	var under sockpeek.Checker
	nc := socket
	if d.tls != nil {
		tlsSocket := sockpeek.UnderTLS(socket)
		if tc, err = d.handshake(ctx, tlsSocket, address); err != nil {
			_ = socket.Close()
			return nil, err
		}
		tlsSocket.Bind(tc)
		nc, under = tc, tlsSocket
	} else {
		tc, _ = socket.(*tls.Conn)
		under = sockpeek.Of(socket)
	}
	if d.readTimeout > 0 || d.writeTimeout > 0 {
		nc = newTimeoutConn(nc, d.readTimeout, d.writeTimeout)
	}
	c := NewConn(nc)
	c.conn.live = newLiveness(nc, tc, under)
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

// TestOnBorrow implements Driver. It returns an error if the peer has closed the connection, or if
// there are unread bytes. It also removes deadlines that the last user has left behind.
//
// It consumes no reply and does not wait for the network. What it sees depends on the connection:
//   - It peeks at a socket, and at any syscall.Conn.
//   - On TLS by SetTLSConfig it also sees what is decrypted, or has come in part. Session tickets
//     do not count as unread.
//   - On a tls.Conn that a tls.Dialer has made, it sees the same, except for half a record. A
//     session ticket there costs a millisecond, once for each connection.
//   - If NetConn methods lead to a socket below layers that it does not know, it peeks at that. Any
//     byte there counts as unread, even one that only concerns a layer. What a layer has read ahead
//     is not seen.
//   - A connection without a socket that can be found passes for fit. So does any connection on a
//     system without MSG_PEEK, such as Windows.
func (d *NetDriver) TestOnBorrow(c *Conn) error {
	if c.conn.live == nil { // of another driver
		return nil
	}
	return c.conn.live.check()
}

// Temporary implements Driver. It is true only for an interrupted system call, which leaves the
// connection as it was. A timeout is fatal, since the reply may still come. So is every other
// error, including those of the user's own protocol: wrap the driver to be more lenient.
func (d *NetDriver) Temporary(err error) bool {
	return errors.Is(err, syscall.EINTR)
}
