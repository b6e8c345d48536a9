package pooly_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolytest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	errFatal     = errors.New("fatal for the connection")
	errTemporary = errors.New("temporary")
	errDead      = errors.New("connection died while idle")
)

// fakeDriver is a driver to a network in memory. Its hosts are up, and connect at once, unless a
// test says otherwise.
type fakeDriver struct {
	*pooly.NetDriver
	net  *poolytest.Net
	test func(*fakeConn) error // what TestOnBorrow does besides; nil: nothing

	mu    sync.Mutex
	hosts map[string]*fakeHost
}

type fakeHost struct {
	err   error         // what dials fail with; nil: the host is up
	delay time.Duration // how long dials take
	deaf  bool          // dials do not end with their context

	dials   int // begun
	dialing int // in flight
	open    int // connections and dials in flight
	peak    int // the most that were open at once
	closed  int
	at      []time.Time // when each dial began
}

type fakeConn struct {
	*poolytest.Conn
	host *fakeHost
	id   int
}

func newFakeDriver() *fakeDriver {
	n := poolytest.NewNet()
	d := &fakeDriver{NetDriver: n.Driver(), net: n, hosts: make(map[string]*fakeHost)}
	d.SetConnTimeout(0)
	return d
}

// on gives access to what is known of a host, and puts its changes into effect.
func (d *fakeDriver) on(address string, f func(*fakeHost)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.known(address)
	f(h)
	d.net.Fail(address, h.err)
	d.net.SlowDials(address, h.delay)
}

// host returns a copy of what is known of a host.
func (d *fakeDriver) host(address string) fakeHost {
	d.mu.Lock()
	defer d.mu.Unlock()
	return *d.known(address)
}

// known returns what is known of a host by now. d.mu is held.
func (d *fakeDriver) known(address string) *fakeHost {
	h := d.hosts[address]
	if h == nil {
		h = new(fakeHost)
		d.hosts[address] = h
	}
	s := d.net.Stats(address)
	h.dials, h.dialing, h.open = s.Dials, s.Dialing, s.Open+s.Dialing
	h.peak, h.closed, h.at = s.Peak, s.Closed, s.DialTimes
	return h
}

func (d *fakeDriver) refuse(addresses ...string) {
	for _, address := range addresses {
		d.on(address, func(h *fakeHost) { h.err = syscall.ECONNREFUSED })
	}
}

func (d *fakeDriver) accept(addresses ...string) {
	for _, address := range addresses {
		d.on(address, func(h *fakeHost) { h.err = nil })
	}
}

func (d *fakeDriver) slow(address string, delay time.Duration) {
	d.on(address, func(h *fakeHost) { h.delay = delay })
}

func (d *fakeDriver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	d.mu.Lock()
	h := d.known(address)
	if h.deaf {
		ctx = context.WithoutCancel(ctx)
	}
	d.mu.Unlock()
	c, err := d.NetDriver.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	under := c.NetConn().(*poolytest.Conn)
	return pooly.NewConn(&fakeConn{under, h, under.ID()}), nil
}

func (d *fakeDriver) Close(c *pooly.Conn) {
	if err := fakeOf(c).Close(); err != nil {
		panic(err) // the pool has closed it twice
	}
}

func (d *fakeDriver) TestOnBorrow(c *pooly.Conn) error {
	if d.test != nil {
		if err := d.test(fakeOf(c)); err != nil {
			return err
		}
	}
	return d.NetDriver.TestOnBorrow(c)
}

func (d *fakeDriver) Temporary(err error) bool { return errors.Is(err, errTemporary) }

// die ends the connection at its host.
func (c *fakeConn) die() { c.Break(nil) }

func (c *fakeConn) isClosed() bool { return c.Closed() }

// fakeOf returns the connection behind a lease.
func fakeOf(c *pooly.Conn) *fakeConn { return c.Interface().(*fakeConn) }

// newService returns a service over a fake network with the given hosts, without prespawned connections unless
// the config asks for them. It is closed when the test ends.
func newService(t *testing.T, config pooly.ServiceConfig, addresses ...string) (*pooly.Service, *fakeDriver) {
	t.Helper()
	d := newFakeDriver()
	config.Driver = d
	if config.PrespawnConns == 0 {
		config.PrespawnConns = -1
	}
	s := pooly.NewService("test", &config)
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range addresses {
		s.Add(a)
	}
	return s, d
}

func get(t *testing.T, s *pooly.Service) *pooly.Conn {
	t.Helper()
	c, err := s.GetConn()
	require.NoError(t, err)
	return c
}

// getApart is get for goroutines other than the test's, which must not end the test. If it fails, it
// returns a Conn that is of no use.
func getApart(t *testing.T, s *pooly.Service) *pooly.Conn {
	t.Helper()
	c, err := s.GetConn()
	if !assert.NoError(t, err) {
		return pooly.NewConn(nil)
	}
	return c
}

// release may be called by any goroutine.
func release(t *testing.T, c *pooly.Conn) {
	t.Helper()
	assert.NoError(t, c.Release(nil, pooly.HostUp))
}

// hostStats returns one host's figures.
func hostStats(t *testing.T, s *pooly.Service, address string) pooly.HostStats {
	t.Helper()
	for _, h := range s.Stats().Hosts {
		if h.Address == address {
			return h
		}
	}
	require.Failf(t, "no such host", "%s in %s", address, s.Name())
	return pooly.HostStats{}
}
