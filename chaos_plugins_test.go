package pooly_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Drivers, hooks and callers that misbehave in every way, while an operator changes everything.
// When all are well again, no place is lost, each host serves, and Close leaves nothing.
func TestChaosOfPlugInsLosesNoPlace(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &mischief{config: rand.New(rand.NewPCG(seed, 1))}
				c.run(t)
			})
		})
	}
}

// mischief is one run. Its configuration follows from the seed, what happens does not.
type mischief struct {
	config  *rand.Rand
	service *pooly.Service
	over    atomic.Bool  // all is well
	clients atomic.Int32 // of the shared driver, that are open
	fake    *fakeDriver  // nil with the shared driver
}

// happens reports true with probability p, until the chaos is over.
func (c *mischief) happens(p float64) bool { return !c.over.Load() && rand.Float64() < p }

// misbehave is what each plug-in does first.
func (c *mischief) misbehave() {
	switch {
	case c.happens(0.3):
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(200*time.Millisecond)))
	case c.happens(0.02):
		time.Sleep(20 * time.Second)
	case c.happens(0.01):
		panic("chaos")
	case c.happens(0.01):
		runtime.Goexit()
	}
}

func (c *mischief) fails(p float64, err error) error {
	c.misbehave()
	if c.happens(p) {
		return err
	}
	return nil
}

func (c *mischief) sharedDriver() pooly.Driver {
	return pooly.NewSharedDriver(pooly.DriverFuncs[*int]{
		Dial: func(context.Context, string) (*int, error) {
			if err := c.fails(0.2, errFatal); err != nil {
				return nil, err
			}
			c.clients.Add(1)
			return new(int), nil
		},
		Close: func(*int) error { c.clients.Add(-1); return nil },
		Test:  func(*int) error { return c.fails(0.05, errDead) },
		Ping:  func(context.Context, *int) error { return c.fails(0.1, errDead) },
		Check: func(context.Context, *int) error { return c.fails(0.3, errDead) },
	})
}

// socketDriver has no Ping in one half of the cases.
func (c *mischief) socketDriver() pooly.Driver {
	c.fake = newFakeDriver()
	c.fake.test = func(*fakeConn) error { return c.fails(0.05, errDead) }
	d := &rogueDriver{Driver: c.fake}
	d.dial = func(ctx context.Context, address string) (*pooly.Conn, error) {
		if err := c.fails(0.2, errFatal); err != nil {
			return nil, err
		}
		return c.fake.Dial(ctx, address)
	}
	if c.config.IntN(2) == 0 {
		return d
	}
	return &chaosPinger{d, c}
}

type chaosPinger struct {
	*rogueDriver
	chaos *mischief
}

func (d *chaosPinger) Ping(context.Context, *pooly.Conn) error {
	return d.chaos.fails(0.1, errDead)
}

func (c *mischief) hooks() (h pooly.Hooks) {
	if c.config.IntN(2) == 0 {
		h.OnConnect = func(context.Context, *pooly.Conn) error { return c.fails(0.05, errHook) }
		h.AfterRelease = func(*pooly.Conn) bool { return c.fails(0.1, errHook) == nil }
		h.OnClose = func(*pooly.Conn) { c.misbehave() }
	}
	if c.config.IntN(2) == 0 {
		h.PrepareConn = func(context.Context, *pooly.Conn) (bool, error) {
			err := c.fails(0.1, errHook)
			if c.happens(0.5) {
				return err == nil, nil
			}
			return !c.happens(0.05), err
		}
	}
	return h
}

func (c *mischief) oneOf(choices ...time.Duration) time.Duration {
	return choices[c.config.IntN(len(choices))]
}

func (c *mischief) configure() pooly.ServiceConfig {
	config := pooly.ServiceConfig{
		Logger:        slog.New(slog.DiscardHandler),
		CheckInterval: c.oneOf(0, time.Second, 10*time.Second),
		PrespawnConns: c.config.IntN(4) - 1,
		CloseDeadline: 2 * time.Second,
		PoolConfig: pooly.PoolConfig{
			Hooks:           c.hooks(),
			KeepAlive:       c.oneOf(-1, time.Second, 5*time.Second),
			ConnIdleTimeout: c.oneOf(0, 0, time.Second, 10*time.Second),
			MaxConnLifetime: c.oneOf(0, 0, 2*time.Second, 20*time.Second),
			LeakTimeout:     c.oneOf(0, 500*time.Millisecond, 5*time.Second),
			TestTimeout:     c.oneOf(0, 0, time.Second),
			DialTimeout:     3 * time.Second,
			WaitTimeout:     10 * time.Second,
			MaxConns:        c.config.IntN(5),
			MaxWaiting:      10 * c.config.IntN(2),
		},
	}
	config.Driver = c.socketDriver()
	if c.config.IntN(2) == 0 {
		config.Driver, c.fake = c.sharedDriver(), nil
	}
	if c.config.IntN(2) == 0 {
		config.MinIdle = c.config.IntN(config.MaxConns + 1)
	}
	if c.config.IntN(3) == 0 {
		config.MaxIdle = config.MinIdle + 1
	}
	return config
}

func (c *mischief) run(t *testing.T) {
	addresses := []string{"a", "b", "c"}
	config := c.configure()
	c.service = pooly.NewService("chaos", &config)
	s := c.service
	s.SetHosts(addresses...)
	clients := c.fake != nil && c.config.IntN(3) == 0
	var callers sync.WaitGroup
	for range 12 {
		callers.Go(func() {
			for !c.over.Load() {
				var call sync.WaitGroup // a plug-in may end the goroutine
				call.Go(func() { c.call(clients) })
				call.Wait()
				time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond)
			}
		})
	}
	for range 60 {
		time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		c.operate(addresses[rand.IntN(len(addresses))])
	}
	for _, address := range addresses {
		_ = s.Resume(address)
	}
	c.over.Store(true)
	callers.Wait()
	time.Sleep(3*time.Minute + 37*time.Millisecond)
	synctest.Wait()

	require.Empty(t, pooly.LookInside(s).Fault, "%+v", config)
	stats := s.Stats()
	require.Zero(t, stats.InUse, "%+v", config)
	require.Zero(t, stats.Dialing, "%+v", config)
	require.Equal(t, stats.Open, stats.Idle, "%+v", config)
	for range 20 {
		release(t, get(t, s))
	}
	require.NoError(t, s.Close())
	synctest.Wait()
	require.Zero(t, c.clients.Load())
	for _, address := range addresses {
		if c.fake != nil {
			require.Zero(t, c.fake.host(address).open)
		}
	}
	time.Sleep(time.Minute)
}

// call makes one call of a user. clients says that it may use DialContext.
func (c *mischief) call(clients bool) {
	defer func() { _ = recover() }()
	timeout := time.Duration(1+rand.IntN(5000)) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var lease *pooly.Conn
	var err error
	switch kind := rand.IntN(10); {
	case kind == 0:
		lease, err = c.service.TryLease(ctx)
	case kind == 1 && clients:
		if nc, err := c.service.DialContext(ctx, "", ""); err == nil {
			defer func() { _ = nc.Close() }()
			c.misbehave()
		}
		return
	case kind < 4:
		_ = c.service.Do(ctx, func(*pooly.Conn) error { return c.fails(0.1, errFatal) })
		return
	case kind < 7:
		lease, err = c.service.GetConn()
	default:
		lease, err = c.service.GetConnContext(ctx)
	}
	if err != nil {
		return
	}
	defer func() {
		switch {
		case c.happens(0.1):
			_ = lease.Release(errFatal, pooly.HostDown)
		case c.happens(0.05):
			_ = lease.Release(context.DeadlineExceeded, pooly.HostDown)
		default:
			_ = lease.Release(nil, pooly.HostUp)
		}
	}()
	c.misbehave()
}

func (c *mischief) operate(address string) {
	s := c.service
	switch rand.IntN(8) {
	case 0:
		_ = s.Evict(address)
	case 1:
		_ = s.Resize(1 + rand.IntN(5))
	case 2:
		_ = s.Drain(address)
	case 3, 4:
		_ = s.Resume(address)
	case 5:
		s.Remove(address)
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		s.Add(address)
	case 6:
		s.Report(address, errFatal)
	case 7:
		s.CloseIdle()
	}
}
