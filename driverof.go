package pooly

import (
	"context"
	"fmt"
)

// DriverFuncs are the functions from which DriverOf and NewSharedDriver make a driver. T is the
// type of a connection. Only Dial is required. All are called concurrently, and never with a lock
// held.
type DriverFuncs[T any] struct {
	// Dial connects to address. It should give up when ctx ends, see Driver.Dial.
	Dial func(ctx context.Context, address string) (T, error)

	// Close closes a connection. Its error is ignored. Default nil: the connection's method Close.
	// If it has none, the net.Conn that its method NetConn returns is closed.
	Close func(T) error

	// Test returns an error if a connection is unfit for use, see Driver.TestOnBorrow. It must not
	// wait for the network. Default nil: all connections are fit.
	Test func(T) error

	// Temporary reports whether a connection is still fit for use after an error, see
	// Driver.Temporary. Default nil: no error is temporary.
	Temporary func(error) bool

	// Ping asks the server for a sign of life, see Pinger. Default nil: there are no pings.
	Ping func(ctx context.Context, connection T) error

	// Check tells whether an ejected host is back, see Checker. Default nil: a dial is enough.
	Check func(ctx context.Context, connection T) error
}

// need panics if a function is missing that constructor needs.
func (f *DriverFuncs[T]) need(constructor string) {
	if f.Dial == nil {
		panic(fmt.Errorf("%w: %s: DriverFuncs.Dial is nil", ErrInvalidArg, constructor))
	}
}

func (f *DriverFuncs[T]) close(value T) {
	if f.Close != nil {
		_ = f.Close(value)
		return
	}
	switch closer := any(value).(type) {
	case interface{ Close() error }:
		_ = closer.Close()
	case interface{ Close() }:
		closer.Close()
	default:
		if nc := asNetConn(value); nc != nil {
			_ = nc.Close()
		}
	}
}

// DriverOf returns a driver made from functions. Conn.Interface and Value return a connection, a T.
// DoWith hands it to a function.
//
//	type client struct {
//		net.Conn
//		r *bufio.Reader // must stay with the socket
//	}
//
//	tcp := pooly.NewNetDriver("tcp")
//	d := pooly.DriverOf(pooly.DriverFuncs[*client]{
//		Dial: func(ctx context.Context, address string) (*client, error) {
//			c, err := tcp.Dial(ctx, address)
//			if err != nil {
//				return nil, err
//			}
//			return &client{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
//		},
//	})
//
// If T is a net.Conn (for example because it embeds one), or has a method NetConn() net.Conn, the
// driver knows its socket:
//   - As with NetDriver, a connection is not handed out again if its peer has closed it, or if it
//     holds unread bytes. Deadlines that the last user left are removed. Test is called too.
//   - Service.Do closes the socket when its context ends.
//
// It panics if Dial is nil.
func DriverOf[T any](funcs DriverFuncs[T]) Driver {
	funcs.need("DriverOf")
	return &funcsDriver[T]{optionalFuncs[T]{funcs.Ping, funcs.Check}, funcs}
}

type funcsDriver[T any] struct {
	optionalFuncs[T]
	funcs DriverFuncs[T]
}

// optionalFuncs are the methods of Pinger and Checker for drivers made of functions.
type optionalFuncs[T any] struct {
	ping, check func(context.Context, T) error
}

func (o *optionalFuncs[T]) pings() bool  { return o.ping != nil }
func (o *optionalFuncs[T]) checks() bool { return o.check != nil }

// Ping implements Pinger.
func (o *optionalFuncs[T]) Ping(ctx context.Context, c *Conn) error {
	return o.ping(ctx, Value[T](c))
}

// Check implements Checker.
func (o *optionalFuncs[T]) Check(ctx context.Context, c *Conn) error {
	return o.check(ctx, Value[T](c))
}

func (d *funcsDriver[T]) Dial(ctx context.Context, address string) (*Conn, error) {
	value, err := d.funcs.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return NewConn(value), nil
}

func (d *funcsDriver[T]) Close(c *Conn) {
	if value, ok := c.Interface().(T); ok {
		d.funcs.close(value)
	}
}

func (d *funcsDriver[T]) TestOnBorrow(c *Conn) error {
	if err := c.testSocket(); err != nil || d.funcs.Test == nil {
		return err
	}
	return d.funcs.Test(Value[T](c))
}

func (d *funcsDriver[T]) Temporary(err error) bool {
	return d.funcs.Temporary != nil && d.funcs.Temporary(err)
}
