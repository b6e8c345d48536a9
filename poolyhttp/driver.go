// Package poolyhttp balances HTTP requests over the hosts of a pooly.Service: each request, over
// HTTP/1 and HTTP/2.
package poolyhttp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/3XX0/pooly"
)

// Driver is the pooly.Driver for NewTransport. Its connections are of type *http.ClientConn and
// kept alive.
//
// An HTTP/2 connection serves many requests at once, but a lease only one. So Dial returns one
// HTTP/2 connection as often as the server allows streams, each time as a new Conn. The connection
// is closed when the last of these Conns is closed. With HTTP/2, MaxConns bounds the requests in
// flight per host, and Stats counts these Conns, not sockets.
type Driver struct {
	scheme    string
	transport *http.Transport

	mu    sync.Mutex // guards the fields below; not held while dialling
	conns map[*http.ClientConn]*httpConn
	hosts map[string]*httpHost // hosts that spoke HTTP/2
}

var _ pooly.Driver = (*Driver)(nil)

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

// NewDriver returns a driver for hosts that speak HTTP. scheme is "http" or "https"; anything
// else panics. The transport says how to connect: its DialContext, TLSClientConfig, Protocols,
// limits and so on are used, but not its own pool. A nil transport means one like
// http.DefaultTransport, without a proxy.
//
// If hosts are added by addresses that their certificates do not name, set
// TLSClientConfig.ServerName.
func NewDriver(scheme string, transport *http.Transport) *Driver {
	if scheme != "http" && scheme != "https" {
		panic(fmt.Errorf("%w: NewDriver: scheme %q is neither http nor https", pooly.ErrInvalidArg, scheme))
	}
	if transport == nil {
		transport = &http.Transport{ForceAttemptHTTP2: true}
		if d, ok := http.DefaultTransport.(*http.Transport); ok {
			transport = d.Clone()
			transport.Proxy = nil
		}
	}
	return &Driver{
		scheme:    scheme,
		transport: transport,
		conns:     make(map[*http.ClientConn]*httpConn),
		hosts:     make(map[string]*httpHost),
	}
}

// Dial implements Driver. It takes pooly.DefaultConnTimeout at most.
func (d *Driver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, pooly.DefaultConnTimeout)
	defer cancel()
	d.mu.Lock()
	h := d.hosts[address]
	d.mu.Unlock()
	if h != nil && !pooly.IsProbe(ctx) {
		select {
		case h.turn <- struct{}{}:
			defer func() { <-h.turn }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if cc := d.share(h); cc != nil {
			return pooly.NewConn(cc), nil
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
	return pooly.NewConn(cc), nil
}

// share returns a host's connection once more, nil if none can serve one more request.
func (d *Driver) share(h *httpHost) *http.ClientConn {
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
func (d *Driver) Close(c *pooly.Conn) {
	cc, ok := c.Interface().(*http.ClientConn)
	if ok && d.leave(cc) {
		_ = cc.Close()
	}
}

// leave closes one Conn of a connection, and reports whether it was the last.
func (d *Driver) leave(cc *http.ClientConn) bool {
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
func (d *Driver) TestOnBorrow(c *pooly.Conn) error {
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

var errNotHTTP = errors.New("not a connection of Driver")

// Temporary implements Driver. It reports false: a request that fails leaves its connection unfit.
// An HTTP/2 error may concern only one stream, but giving up its place costs nothing.
func (d *Driver) Temporary(error) bool {
	return false
}
