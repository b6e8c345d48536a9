package pooly_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
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

	probe  func(ctx context.Context, address string) (pooly.Load, error) // set before use
	probes atomic.Int64

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

// rogueDriver misbehaves in whichever methods are set.
type rogueDriver struct {
	pooly.Driver
	dial         func(ctx context.Context, address string) (*pooly.Conn, error)
	close        func(*pooly.Conn)
	testOnBorrow func(*pooly.Conn) error
	temporary    func(error) bool
}

func (d *rogueDriver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	if d.dial != nil {
		return d.dial(ctx, address)
	}
	return d.Driver.Dial(ctx, address)
}

func (d *rogueDriver) Close(c *pooly.Conn) {
	if d.close != nil {
		d.close(c)
		return
	}
	d.Driver.Close(c)
}

func (d *rogueDriver) TestOnBorrow(c *pooly.Conn) error {
	if d.testOnBorrow != nil {
		return d.testOnBorrow(c)
	}
	return d.Driver.TestOnBorrow(c)
}

func (d *rogueDriver) Temporary(err error) bool {
	if d.temporary != nil {
		return d.temporary(err)
	}
	return d.Driver.Temporary(err)
}

// slowToClose returns a driver whose Close takes its time.
func slowToClose(fake *fakeDriver, delay time.Duration) *rogueDriver {
	return &rogueDriver{Driver: fake, close: func(c *pooly.Conn) {
		time.Sleep(delay)
		fake.Close(c)
	}}
}

// notingProbes returns a driver that notes of each dial whether it is a probe.
func notingProbes() (d *rogueDriver, fake *fakeDriver, probes chan bool) {
	fake, probes = newFakeDriver(), make(chan bool, 9)
	return &rogueDriver{Driver: fake, dial: func(ctx context.Context, address string) (*pooly.Conn, error) {
		probes <- pooly.IsProbe(ctx)
		return fake.Dial(ctx, address)
	}}, fake, probes
}

// newService returns a service over a fake network with the given hosts, without prespawned
// connections unless the config asks for them. It is closed when the test ends.
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

// getApart is get for goroutines other than the test's, which must not end the test. If it fails,
// it returns a Conn that is of no use.
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

// stubborn always picks the first host.
type stubborn struct{}

func (stubborn) NewPicker([]pooly.Arm) pooly.Picker { return stubborn{} }

func (stubborn) Pick(*rand.Rand) int { return 0 }

// inOrder picks the first of its addresses that is among the arms.
type inOrder []string

func (b inOrder) NewPicker(arms []pooly.Arm) pooly.Picker {
	for _, address := range b {
		for i, a := range arms {
			if a.Address == address {
				return always(i)
			}
		}
	}
	return always(0)
}

// always picks one arm.
type always int

func (i always) Pick(*rand.Rand) int { return int(i) }

// syncBuffer is a log that goroutines share.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
