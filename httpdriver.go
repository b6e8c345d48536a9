package pooly

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// HTTPDriver is the Driver for NewHTTPTransport. Its connections are of type *http.ClientConn and
// kept alive.
//
// An HTTP/2 connection serves many requests at once, but a lease only one. So Dial returns one
// HTTP/2 connection as often as the server allows streams, each time as a new Conn. The connection
// is closed when the last of these Conns is closed. With HTTP/2, MaxConns bounds the requests in
// flight per host, and Stats counts these Conns, not sockets.
type HTTPDriver struct {
	scheme    string
	transport *http.Transport

	mu    sync.Mutex // guards the fields below; not held while dialling
	conns map[*http.ClientConn]*httpConn
	hosts map[string]*httpHost // hosts that spoke HTTP/2
}

var _ Driver = (*HTTPDriver)(nil)

// httpConn is a connection that Dial has returned. It is guarded by the driver's lock.
type httpConn struct {
	address string
	places  int // how many of its Conns are open
}

// httpHost is a host whose connections are shared.
type httpHost struct {
	turn chan struct{}    // full while someone looks for a connection or dials
	conn *http.ClientConn // guarded by the driver's lock; the newest, nil if it was closed
}

// NewHTTPDriver returns a driver for hosts that speak HTTP. scheme is "http" or "https"; anything
// else panics. The transport says how to connect: its DialContext, TLSClientConfig, Protocols,
// limits and so on are used, but not its own pool. A nil transport means one like
// http.DefaultTransport, without a proxy.
//
// If hosts are added by addresses that their certificates do not name, set
// TLSClientConfig.ServerName.
func NewHTTPDriver(scheme string, transport *http.Transport) *HTTPDriver {
	if scheme != "http" && scheme != "https" {
		panic(fmt.Errorf("%w: NewHTTPDriver: scheme %q is neither http nor https", ErrInvalidArg, scheme))
	}
	if transport == nil {
		transport = &http.Transport{ForceAttemptHTTP2: true}
		if d, ok := http.DefaultTransport.(*http.Transport); ok {
			transport = d.Clone()
			transport.Proxy = nil
		}
	}
	return &HTTPDriver{
		scheme:    scheme,
		transport: transport,
		conns:     make(map[*http.ClientConn]*httpConn),
		hosts:     make(map[string]*httpHost),
	}
}

// Dial implements Driver. It takes DefaultConnTimeout at most.
func (d *HTTPDriver) Dial(ctx context.Context, address string) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultConnTimeout)
	defer cancel()
	d.mu.Lock()
	h := d.hosts[address]
	d.mu.Unlock()
	if h != nil {
		select {
		case h.turn <- struct{}{}:
			defer func() { <-h.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if cc := d.share(h); cc != nil {
			return NewConn(cc), nil
		}
	}
	cc, err := d.transport.NewClientConn(ctx, d.scheme, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[cc] = &httpConn{address: address, places: 1}
	if cc.Available() > 1 {
		if d.hosts[address] == nil {
			d.hosts[address] = &httpHost{turn: make(chan struct{}, 1)}
		}
		d.hosts[address].conn = cc
	}
	return NewConn(cc), nil
}

// share returns a host's connection once more, nil if none can serve one more request.
func (d *HTTPDriver) share(h *httpHost) *http.ClientConn {
	d.mu.Lock()
	defer d.mu.Unlock()
	cc := h.conn
	if cc == nil || cc.Err() != nil {
		return nil
	}
	available := cc.Available() // 0 also after GOAWAY
	if c := d.conns[cc]; available > 0 && c.places < available+cc.InFlight() {
		c.places++
		return cc
	}
	return nil
}

// Close implements Driver.
func (d *HTTPDriver) Close(c *Conn) {
	cc, ok := c.Interface().(*http.ClientConn)
	if ok && d.leave(cc) {
		_ = cc.Close()
	}
}

// leave closes one Conn of a connection, and reports whether it was the last.
func (d *HTTPDriver) leave(cc *http.ClientConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.conns[cc]
	if c == nil {
		return false
	}
	if c.places--; c.places > 0 {
		return false
	}
	delete(d.conns, cc)
	if h := d.hosts[c.address]; h != nil && h.conn == cc {
		h.conn = nil
	}
	return true
}

var errNoMoreRequests = errors.New("the server takes no more requests on this connection")

// TestOnBorrow implements Driver. It returns an error if the connection was closed, or if the
// server has asked to close it.
func (d *HTTPDriver) TestOnBorrow(c *Conn) error {
	cc, ok := c.Interface().(*http.ClientConn)
	if !ok {
		return errNotHTTP
	}
	if err := cc.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	shared := d.conns[cc] != nil && d.hosts[d.conns[cc].address] != nil
	if shared && cc.Available() == 0 { // an HTTP/1 connection may be about to become available
		return errNoMoreRequests
	}
	return nil
}

var errNotHTTP = errors.New("not a connection of HTTPDriver")

// Temporary implements Driver. It reports false: a request that fails leaves its connection unfit.
// An HTTP/2 error may concern only one stream, but giving up its place costs nothing.
func (d *HTTPDriver) Temporary(error) bool {
	return false
}
