package pooly

import (
	"context"
	"errors"
	"sync"
)

// NewSharedDriver returns a driver for clients that serve many callers at once over one connection:
// SSH, AMQP, LDAP, or a whole sql.DB or redis.Client per host. There is one client per host. Many
// callers lease it at the same time, and MaxConns is how many. Conn.Interface returns the client,
// a T.
//
//	d := pooly.NewSharedDriver(pooly.DriverFuncs[*amqp.Connection]{
//		Dial: func(ctx context.Context, address string) (*amqp.Connection, error) {
//			return amqp.Dial("amqp://" + address)
//		},
//	})
//
// A client that fails is replaced for all callers at once. Leases that are out keep the old client
// until they end. Later leases get a new client, which one of them dials for all. The old client is
// closed when its last lease has ended. A client has failed in these cases:
//   - Test returns an error.
//   - A lease of it ends with an error that Temporary does not call temporary. If the error is a
//     timeout, the client stays, unless the host has served nobody in the last two seconds.
//     context.Canceled is always temporary: one caller's wish must not cost the others.
//   - A function given to Do panics, or Conn.CloseOnRelease was called.
//   - It is older than MaxConnLifetime.
//   - Its host was ejected, and a probe has made a new client.
//
// So errors that are answers must be temporary, or marked by their caller. Otherwise each of them
// costs a dial.
//
// Stats counts each lease as a connection. Do does not close the client's socket when its context
// ends, because others use it: the function must heed the context. DialContext does not work with
// this driver.
//
// It panics if Dial is nil.
func NewSharedDriver[T any](funcs DriverFuncs[T]) Driver {
	funcs.need("NewSharedDriver")
	return &sharedDriver[T]{
		optionalFuncs: optionalFuncs[T]{funcs.Ping, funcs.Check},

		funcs:   funcs,
		clients: make(map[string]sharedClient[T]),
		dials:   make(map[string]*sharedDial),
	}
}

// sharedDriver implements NewSharedDriver. Each Conn that it returns is a place at a client.
type sharedDriver[T any] struct {
	optionalFuncs[T]
	funcs DriverFuncs[T]

	mu      sync.Mutex // guards the fields below and places; not held while calling funcs
	clients map[string]sharedClient[T]
	dials   map[string]*sharedDial // dials in flight, without those of probes
}

type sharedClient[T any] struct {
	*Share
	value T
}

// sharedDial is one dial in flight, whose result all callers get.
type sharedDial struct {
	done      chan struct{} // closed when the dial has ended
	err       error         // set before done is closed
	abandoned bool          // set before done is closed; its context has ended
}

func (d *sharedDriver[T]) Dial(ctx context.Context, address string) (*Conn, error) {
	if IsProbe(ctx) {
		return d.connect(ctx, address)
	}
	for {
		place, dial, mine := d.join(address)
		if place != nil {
			return place, nil
		}
		if mine {
			return d.lead(ctx, address, dial)
		}
		select {
		case <-dial.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if dial.err != nil && !dial.abandoned {
			return nil, dial.err
		}
	}
}

// join returns a place at the client of an address. If there is no client, it returns the dial that
// makes one. mine says that the caller must dial.
func (d *sharedDriver[T]) join(address string) (place *Conn, dial *sharedDial, mine bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if client, ok := d.clients[address]; ok && !client.Over() {
		return client.placeLocked(), nil, false
	}
	if dial = d.dials[address]; dial != nil {
		return nil, dial, false
	}
	dial = &sharedDial{done: make(chan struct{}), err: errDialExited}
	d.dials[address] = dial
	return nil, dial, true
}

var errDialExited = errors.New("the Dial of a shared driver panicked or ended its goroutine")

// lead dials for all who have joined.
func (d *sharedDriver[T]) lead(
	ctx context.Context, address string, dial *sharedDial,
) (place *Conn, err error) {
	defer func() {
		d.mu.Lock()
		delete(d.dials, address)
		d.mu.Unlock()
		close(dial.done)
	}()
	place, err = d.connect(ctx, address)
	dial.err, dial.abandoned = err, ctx.Err() != nil
	return place, err
}

// connect makes a new client, which takes the place of the old one.
func (d *sharedDriver[T]) connect(ctx context.Context, address string) (*Conn, error) {
	value, err := d.funcs.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	client := sharedClient[T]{NewShare(value), value}
	client.address = address
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.clients[address].Share; old != nil {
		old.over.Store(true)
		client.replaces.Store(old)
	}
	d.clients[address] = client
	return client.placeLocked(), nil
}

func (c sharedClient[T]) placeLocked() *Conn {
	c.places++
	return c.Conn()
}

func (d *sharedDriver[T]) Close(c *Conn) {
	if value, ok := c.Interface().(T); ok && d.leave(c.conn.share) {
		d.funcs.close(value)
	}
}

// leave gives up a place. It reports whether it was the client's last.
func (d *sharedDriver[T]) leave(s *Share) (last bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.places--
	if s.places > 0 {
		return false
	}
	if d.clients[s.address].Share == s {
		delete(d.clients, s.address)
	}
	return true
}

var errReplaced = errors.New("the shared client was replaced")

func (d *sharedDriver[T]) TestOnBorrow(c *Conn) error {
	if c.conn.share.Over() {
		return errReplaced
	}
	if d.funcs.Test == nil {
		return nil
	}
	value, _ := c.Interface().(T)
	err := d.funcs.Test(value)
	if err != nil {
		c.conn.share.over.Store(true)
	}
	return err
}

func (d *sharedDriver[T]) Temporary(err error) bool {
	return errors.Is(err, context.Canceled) || d.funcs.Temporary != nil && d.funcs.Temporary(err)
}
