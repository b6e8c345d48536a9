package poolyhttp

//lint:file-ignore SA1019 Transports that set the deprecated Dial and DialTLS work as with net/http.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
)

// Driver is the pooly.Driver for NewTransport. Only a Transport can use its connections. Its
// methods may be called concurrently.
//
// An HTTP/2 connection serves many requests at once, and a lease is for one request. So Dial
// returns an open HTTP/2 connection again, as a new Conn, up to the number of streams that the
// server allows. The connection is closed when the last of these Conns is closed. With HTTP/2,
// MaxConns bounds the requests in flight per host, and Stats counts these Conns, not sockets.
//
// An HTTP/2 connection that is older than MaxConnLifetime gets no new requests. It is closed when
// the requests on it have ended.
type Driver struct {
	scheme    string
	transport *http.Transport
	upgrades  *http.Transport // speaks HTTP/1 only
	dials     bool            // the transport has a dial function of its own
	epoch     time.Time

	sharing atomic.Bool // a host has spoken HTTP/2

	mu    sync.Mutex // guards the fields below; not held while dialling
	hosts map[string]*host
}

var _ pooly.Driver = (*Driver)(nil)

// host is a host that has connections or is being dialled. It is guarded by the driver's lock.
type host struct {
	turn   chan struct{} // immutable; full while someone looks for a connection to share, or dials
	users  int           // connections and dials; without any, the driver forgets the host
	plain  bool          // it has spoken HTTP/1
	newest *conn         // the newest shared connection; nil if it was closed

	brokeAt time.Duration // when a kept connection last broke before an answer, since driver.epoch
}

// conn is what NewConn gets: an HTTP/1 connection, or an HTTP/2 connection for one more request.
type conn struct {
	*http.ClientConn
	driver  *Driver
	address string
	shared  bool         // HTTP/2
	share   *pooly.Share // nil with HTTP/1
	socket  net.Conn     // for httptrace; without TLS; nil if it is unknown

	places  int          // guarded by driver.mu; how many of its Conns are open
	streams atomic.Int64 // how many requests the server allows at once, as of the last dial
	silent  atomic.Bool  // a request timed out and nothing came meanwhile: no more requests
	losses  atomic.Int32 // copies of requests on it that lost in a row, see hedge
	used    atomic.Bool  // it has served a request
	heardAt atomic.Int64 // when the last answer came, since driver.epoch
	idleAt  atomic.Int64 // when it was dialled, or its last lease ended, since driver.epoch
}

// DefaultMaxConns is the MaxConns of a service with a Driver if the configuration leaves it 0.
//
// net/http has no limit by default, so this limit only stops a flood. While requests time out, the
// service finds a lower limit by itself (see pooly.PoolConfig.MaxConns).
const DefaultMaxConns = 10_000

// NewDriver returns a driver for hosts that speak HTTP. scheme must be "http" or "https", or
// NewDriver panics. The driver connects with a copy of the transport: its DialContext,
// TLSClientConfig, Protocols, timeouts and so on. A nil transport stands for a copy of
// http.DefaultTransport without its proxy.
//
// These fields have no effect: MaxConnsPerHost, MaxIdleConns and a positive MaxIdleConnsPerHost.
// pooly.PoolConfig.MaxConns bounds connections instead. The driver uses net/http's own HTTP/2, even
// if golang.org/x/net/http2 has configured the transport.
//
// If you add hosts by addresses that their certificates do not name, set
// TLSClientConfig.ServerName. If requests over HTTP/2 have no deadline, set HTTP2.SendPingTimeout:
// otherwise nothing finds a connection that has died silently.
func NewDriver(scheme string, transport *http.Transport) *Driver {
	if scheme != "http" && scheme != "https" {
		panic(fmt.Errorf("%w: NewDriver: scheme %q is neither http nor https",
			pooly.ErrInvalidArg, scheme))
	}
	dials := transport != nil && (transport.DialContext != nil || transport.DialTLSContext != nil ||
		transport.Dial != nil || transport.DialTLS != nil)
	if transport == nil {
		transport = &http.Transport{ForceAttemptHTTP2: true}
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			transport = t.Clone()
			transport.Proxy = nil
		}
	}
	d := &Driver{
		scheme:    scheme,
		transport: adapt(transport),
		dials:     dials,
		epoch:     time.Now(),
		hosts:     make(map[string]*host),
	}
	d.upgrades = d.transport.Clone()
	d.upgrades.Protocols = new(http.Protocols)
	d.upgrades.Protocols.SetHTTP1(true)
	if tls := d.upgrades.TLSClientConfig; tls != nil {
		tls.NextProtos = slices.Clone(tls.NextProtos) // the original still needs its own
		tls.NextProtos = slices.DeleteFunc(tls.NextProtos, func(p string) bool { return p == "h2" })
	}
	return d
}

// adapt returns a copy of a transport that reports its sockets (see socketKey).
func adapt(given *http.Transport) *http.Transport {
	// The custom dial functions below would turn off HTTP/2 for a transport that has it by default.
	usual := given.TLSClientConfig == nil && given.DialContext == nil && given.DialTLSContext == nil &&
		given.Dial == nil && given.DialTLS == nil
	offered := given.TLSClientConfig != nil && slices.Contains(given.TLSClientConfig.NextProtos, "h2")
	t := given.Clone()
	if t.Protocols == nil && t.TLSNextProto == nil && (usual || offered) {
		t.ForceAttemptHTTP2 = true
	}
	if t.TLSNextProto["h2"] != nil { // set by x/net/http2; the copy cannot use it
		t.TLSNextProto, t.ForceAttemptHTTP2 = nil, true
	}
	// Connections of NewClientConn are not counted when they are made, but when they are closed.
	t.MaxConnsPerHost = 0
	dial := t.DialContext
	switch legacy := t.Dial; {
	case dial == nil && legacy != nil:
		dial = func(_ context.Context, network, address string) (net.Conn, error) {
			return legacy(network, address)
		}
	case dial == nil:
		dial = new(net.Dialer).DialContext
	}
	t.DialContext = tellSocket(dial)
	if t.DialTLSContext != nil {
		t.DialTLSContext = tellSocket(t.DialTLSContext)
	}
	return t
}

// socketKey is the key of a *net.Conn in the context of a dial, for the socket that it makes.
type socketKey struct{}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func tellSocket(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if socket, ok := ctx.Value(socketKey{}).(*net.Conn); ok && err == nil {
			*socket = c
		}
		return c, err
	}
}

// DefaultMaxConns returns DefaultMaxConns, see pooly.Driver.
func (d *Driver) DefaultMaxConns() int {
	return DefaultMaxConns
}

// CheckAddress returns an error if an address is not host:port, unless the transport has a dial
// function of its own. See pooly.Driver.
func (d *Driver) CheckAddress(address string) error {
	if d.dials {
		return nil
	}
	if strings.HasSuffix(address, ":") {
		address += d.scheme // the scheme's port is meant
	}
	return pooly.NewNetDriver("tcp").CheckAddress(address)
}

// Dial implements pooly.Driver. It takes pooly.DefaultConnTimeout at most.
func (d *Driver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, pooly.DefaultConnTimeout)
	defer cancel()
	h := d.enter(address)
	c, err := d.dial(ctx, h, address)
	if err != nil {
		d.leave(address)
		return nil, err
	}
	return c, nil
}

// dial connects to a host, or shares its HTTP/2 connection. Unless the host is known to speak
// HTTP/1, it is dialled by one caller at a time: the new connection may serve all others.
func (d *Driver) dial(ctx context.Context, h *host, address string) (*pooly.Conn, error) {
	if d.sharing.Load() && !d.speaksPlain(h) && !pooly.IsProbe(ctx) {
		select {
		case h.turn <- struct{}{}:
			defer func() { <-h.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c := d.share(h); c != nil {
			return c, nil
		}
	}
	c := &conn{driver: d, address: address, places: 1}
	ctx = context.WithValue(ctx, socketKey{}, &c.socket)
	cc, err := d.transport.NewClientConn(ctx, d.scheme, address)
	if notTLS := new(tls.RecordHeaderError); errors.As(err, notTLS) && string(notTLS.RecordHeader[:]) == "HTTP/" {
		err = http.ErrSchemeMismatch
	}
	if err != nil {
		return nil, err
	}
	c.ClientConn = cc
	c.idleAt.Store(int64(d.now()))
	streams := cc.Available()
	c.shared = streams > 1 // an HTTP/2 connection allows many before the server has said how many
	c.streams.Store(int64(streams))
	d.mu.Lock()
	defer d.mu.Unlock()
	h.plain = !c.shared
	if !c.shared {
		return pooly.NewConn(c), nil
	}
	c.share = pooly.NewShare(c)
	h.newest = c
	d.sharing.Store(true)
	return c.share.Conn(), nil
}

// dialHTTP1 connects to a host for a request that HTTP/2 cannot carry.
func (d *Driver) dialHTTP1(ctx context.Context, address string) (*http.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, pooly.DefaultConnTimeout)
	defer cancel()
	return d.upgrades.NewClientConn(ctx, d.scheme, address)
}

// enter counts one more user of a host.
func (d *Driver) enter(address string) *host {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[address]
	if h == nil {
		h = &host{turn: make(chan struct{}, 1)}
		d.hosts[address] = h
	}
	h.users++
	return h
}

// leave counts one user of a host less.
func (d *Driver) leave(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[address]
	if h.users--; h.users == 0 {
		delete(d.hosts, address)
	}
}

func (d *Driver) speaksPlain(h *host) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return h.plain
}

// share returns a host's connection once more, or nil if no connection can serve one more request.
func (d *Driver) share(h *host) *pooly.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := h.newest
	if c == nil || c.share.Over() || c.silent.Load() || c.Err() != nil {
		return nil
	}
	available := c.Available() // 0 also after GOAWAY
	streams := available + c.InFlight()
	if available == 0 || c.places >= streams {
		return nil
	}
	c.streams.Store(int64(streams))
	c.places++
	return c.share.Conn()
}

// stopSharingIdle lets no further lease share an HTTP/2 connection that serves no request.
func (d *Driver) stopSharingIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, h := range d.hosts {
		if h.newest != nil && h.newest.InFlight() == 0 {
			h.newest = nil
		}
	}
}

// Close implements pooly.Driver.
func (d *Driver) Close(pc *pooly.Conn) {
	c, ok := pc.Interface().(*conn)
	if !ok {
		return
	}
	d.mu.Lock()
	c.places--
	last := c.places == 0
	if h := d.hosts[c.address]; last && h.newest == c {
		h.newest = nil
	}
	d.mu.Unlock()
	if last {
		_ = c.ClientConn.Close()
		if c.socket != nil {
			_ = c.socket.Close() // after an upgrade, it was the client's
		}
	}
	d.leave(c.address)
}

var (
	errNotHTTP        = errors.New("not a connection of poolyhttp.Driver")
	errNoMoreRequests = errors.New("the server takes no more requests on this connection")
	errSilent         = errors.New("the connection was silent while a request timed out")
	errIdle           = errors.New("the connection was idle for longer than IdleConnTimeout")
)

// TestOnBorrow implements pooly.Driver. It returns an error if the connection was closed, if no
// more requests can be sent on it, or if it was idle for longer than the transport's
// IdleConnTimeout.
func (d *Driver) TestOnBorrow(pc *pooly.Conn) error {
	c, ok := pc.Interface().(*conn)
	if !ok {
		return errNotHTTP
	}
	if err := c.Err(); err != nil {
		return err
	}
	if c.silent.Load() {
		return errSilent
	}
	// An HTTP/2 connection may be full for a moment, since streams end a little after their answers.
	if c.Available() == 0 && !(c.shared && int64(c.InFlight()) >= c.streams.Load()) {
		return errNoMoreRequests
	}
	timeout := d.transport.IdleConnTimeout
	if timeout > 0 && !c.shared && d.now()-time.Duration(c.idleAt.Load()) > timeout {
		return errIdle // HTTP/2 connections close themselves
	}
	return nil
}

// Temporary implements pooly.Driver. It reports false: whoever releases a connection with an error
// should not get it again.
func (d *Driver) Temporary(error) bool {
	return false
}

func (d *Driver) now() time.Duration {
	return time.Since(d.epoch)
}

// reusable reports whether another lease may use the connection.
func (c *conn) reusable() bool {
	if c.shared {
		return !c.silent.Load() && c.Err() == nil
	}
	return c.Available() > 0
}
