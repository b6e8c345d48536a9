//go:build montecarlo_simulation

package pooly_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/3XX0/pooly"
)

// An overloadClient is what a caller of the overload simulations uses to get at the hosts.
type overloadClient interface {
	// call runs f with a connection, and after an error closes that and runs f again if the case
	// says so. The error of f is fatal for its connection.
	call(ctx context.Context, f func(*overloadConn) error) error
	close() error
}

// An overloadContender is one of the clients that the overload simulations compare.
type overloadContender struct {
	name string
	make func(w *overloadWorld, seed uint64) overloadClient
}

var overloadContenders = []overloadContender{
	{"pooly", func(w *overloadWorld, seed uint64) overloadClient {
		return newPoolyClient(w, pooly.ServiceConfig{})
	}},
	{"pooly without ejection", func(w *overloadWorld, seed uint64) overloadClient {
		return newPoolyClient(w, pooly.ServiceConfig{ConsecutiveFailures: -1})
	}},
	{"a pool per host in turn", func(w *overloadWorld, seed uint64) overloadClient {
		return newTurnClient(w, seed)
	}},
}

// A poolyClient is a service.
type poolyClient struct {
	*pooly.Service
	parts bool
	again bool
}

// newPoolyClient returns a service for a world. It adds to the config what the case says, and
// nothing else.
func newPoolyClient(w *overloadWorld, config pooly.ServiceConfig) *poolyClient {
	config.Driver, config.MaxConns = w, w.maxConns
	config.Logger = slog.New(slog.DiscardHandler)
	if w.tries > 1 {
		config.GetAttempts = w.tries
	}
	if w.strategy != nil {
		config.BanditStrategy = w.strategy()
	}
	s := pooly.NewService("simulated", &config)
	s.SetHosts(w.names...)
	return &poolyClient{s, w.parts, w.tries > 1}
}

func (p *poolyClient) call(ctx context.Context, f func(*overloadConn) error) error {
	if p.parts {
		c, err := p.GetConnContext(ctx)
		if err != nil {
			return err
		}
		defer c.Release(&err, pooly.HostUp)
		err = f(c.Interface().(*overloadConn))
		return err
	}
	return p.Do(ctx, func(c *pooly.Conn) error {
		err := f(c.Interface().(*overloadConn))
		if p.again {
			return pooly.Retry(err)
		}
		return err
	})
}

func (p *poolyClient) close() error { return p.Close() }

// A turnClient stands for what one writes without pooly: a pool for each host, such as
// jackc/puddle, and a counter that chooses them in turn. Nothing is learnt of a host, and a caller
// that waits for one pool does not look at the others.
type turnClient struct {
	pools []*fifoPool
	tries int
	next  atomic.Uint64
}

func newTurnClient(w *overloadWorld, seed uint64) *turnClient {
	c := &turnClient{tries: max(1, w.tries)}
	c.next.Store(seed)
	for _, name := range w.names {
		c.pools = append(c.pools, &fifoPool{
			dial:   func() (*overloadConn, error) { return w.dial(name) },
			places: make(chan struct{}, w.conns()),
		})
	}
	return c
}

func (t *turnClient) call(ctx context.Context, f func(*overloadConn) error) (err error) {
	for range t.tries {
		p := t.pools[t.next.Add(1)%uint64(len(t.pools))]
		if err = p.run(ctx, f); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func (*turnClient) close() error { return nil }

// A fifoPool lends connections to one host. Who finds all in use waits, and is served in order.
type fifoPool struct {
	dial   func() (*overloadConn, error)
	places chan struct{} // one for each connection that is lent or dialled; senders are served in their order

	mu   sync.Mutex
	idle []*overloadConn // the one used last on top
}

func (p *fifoPool) run(ctx context.Context, f func(*overloadConn) error) error {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	case <-ctx.Done():
		return ctx.Err()
	}
	c := p.take()
	if c == nil {
		var err error
		if c, err = p.dial(); err != nil {
			return err
		}
	}
	err := f(c)
	if err == nil {
		p.put(c)
	}
	return err
}

// take returns an idle connection that the host has not closed, or nil.
func (p *fifoPool) take() *overloadConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if c.alive() == nil {
			return c
		}
	}
	return nil
}

func (p *fifoPool) put(c *overloadConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}
