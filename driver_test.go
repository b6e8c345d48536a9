package pooly_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

var (
	errFatal     = errors.New("fatal for the connection")
	errTemporary = errors.New("temporary")
	errDead      = errors.New("connection died while idle")
)

// fakeDriver is a network in memory. Its hosts are up, and connect at once, unless a test says otherwise.
type fakeDriver struct {
	probe  func(ctx context.Context, address string) (pooly.Load, error) // set before use
	probes atomic.Int64

	mu    sync.Mutex
	hosts map[string]*fakeHost
	test  func(*fakeConn) error // what TestOnBorrow does besides; nil: nothing
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
	host *fakeHost
	id   int

	mu     sync.Mutex
	dead   bool // guarded by mu
	closed bool // guarded by mu
}

func newFakeDriver() *fakeDriver {
	return &fakeDriver{hosts: make(map[string]*fakeHost)}
}

// on gives access to a host under the driver's lock.
func (d *fakeDriver) on(address string, f func(*fakeHost)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hosts[address] == nil {
		d.hosts[address] = new(fakeHost)
	}
	f(d.hosts[address])
}

// host returns a copy of what is known of a host.
func (d *fakeDriver) host(address string) (copied fakeHost) {
	d.on(address, func(h *fakeHost) {
		copied = *h
		copied.at = slices.Clone(h.at)
	})
	return copied
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
	c := &fakeConn{}
	var delay time.Duration
	d.on(address, func(h *fakeHost) {
		c.host, c.id, delay = h, h.dials, h.delay
		h.at = append(h.at, time.Now())
		h.dials++
		h.dialing++
		h.open++
		h.peak = max(h.peak, h.open)
		if h.deaf {
			ctx = context.Background()
		}
	})
	var err error
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	d.on(address, func(h *fakeHost) {
		h.dialing--
		if err == nil {
			err = h.err
		}
		if err != nil {
			h.open--
		}
	})
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(c), nil
}

func (d *fakeDriver) Close(c *pooly.Conn) {
	fc := c.Interface().(*fakeConn)
	fc.mu.Lock()
	again := fc.closed
	fc.closed = true
	fc.mu.Unlock()
	if again {
		panic("connection closed twice")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fc.host.open--
	fc.host.closed++
}

func (d *fakeDriver) TestOnBorrow(c *pooly.Conn) error {
	fc := c.Interface().(*fakeConn)
	if d.test != nil {
		if err := d.test(fc); err != nil {
			return err
		}
	}
	fc.mu.Lock()
	defer fc.mu.Unlock()
	if fc.dead {
		return errDead
	}
	return nil
}

func (d *fakeDriver) Temporary(err error) bool { return errors.Is(err, errTemporary) }

func (c *fakeConn) die() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
}

func (c *fakeConn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

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

func release(t *testing.T, c *pooly.Conn) {
	t.Helper()
	require.NoError(t, c.Release(nil, pooly.HostUp))
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
