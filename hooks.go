package pooly

import (
	"context"
	"fmt"
	"time"
)

// Hooks are functions that pools call when a connection is dialled, leased, released and closed.
// All are optional.
//
// They are called concurrently for different connections, one at a time for each connection, and
// never with a lock held. Each gets the *Conn that the driver's Dial returned, the same for the
// life of the connection. It is no lease: Release of it returns ErrConnReleased. If a hook panics,
// that counts as refusing the connection, and the panic and its stack are logged.
//
// With NewSharedDriver each place at the client counts as a connection. Set a client up in Dial.
type Hooks struct {
	// OnConnect is called after the driver's Dial, before the connection is used: for what a
	// session needs first, such as HELLO or SET ROLE. ctx is the dial's context, so DialTimeout
	// bounds both together. An error closes the connection, and the dial has failed with that
	// error.
	//
	// It is also called for probes of ejected hosts, and for connections of DialContext.
	OnConnect func(ctx context.Context, c *Conn) error

	// PrepareConn is called before each lease, after the driver's TestOnBorrow, in the goroutine of
	// the caller and with the caller's context. It has the shape of pgxpool's PrepareConn:
	//   - true, nil: the caller gets the connection.
	//   - false, nil: the connection is closed, and the caller gets another one.
	//   - true, err: the connection stays idle, and the call fails with err.
	//   - false, err: the connection is closed, and the call fails with err.
	//
	// errors.Is and errors.As find err in the error of the call. A refusal neither rates the host
	// nor ejects it: return an error to Release, or from OnConnect, if the host is to blame. Three
	// refused connections that were dialled after the call began end the call with an error.
	//
	// The caller waits as long as PrepareConn takes. It is not called for DialContext.
	PrepareConn func(ctx context.Context, c *Conn) (ok bool, err error)

	// AfterRelease is called when a lease has ended and its connection would be kept, for example
	// to reset a session. If it returns false, the connection is closed. Either way, the host is
	// rated as Release says.
	//
	// It runs in the goroutine of Release, which returns after it. Until then the connection counts
	// as leased, and its time as time of the lease. It is not called for DialContext.
	AfterRelease func(c *Conn) bool

	// OnClose is called before the driver's Close, for each connection that Dial returned, also if
	// OnConnect failed. The second that Close has (see Driver) includes it.
	OnClose func(c *Conn)
}

// refusedMost is how many connections PrepareConn may refuse that were dialled after the call
// began. Older connections do not count, because there are only so many.
const refusedMost = 3

// preparation is what one call knows of the connections that PrepareConn has refused.
type preparation struct {
	began   time.Duration // when the call began
	refused int           // connections that were dialled since
}

// prepare calls PrepareConn for a lease that its caller has not seen. If the lease is refused, it
// returns false. If the connection must be destroyed, it returns the connection and the reason. An
// error ends the call.
func (r *preparation) prepare(
	ctx context.Context, l *Conn,
) (ok bool, unfit *conn, why reason, err error) {
	c := l.conn
	p := c.pool
	keep, err := p.callPrepareConn(ctx, l)
	if keep && err == nil {
		return true, nil, 0, nil
	}
	if !keep {
		why = forUnfit
	}
	unfit, why = p.undo(l, why)
	if err != nil {
		return false, unfit, why, fmt.Errorf("PrepareConn of a connection to %s: %w",
			quoteAddress(p.address), err)
	}
	if c.born >= r.began {
		r.refused++
	}
	if r.refused >= refusedMost {
		err = fmt.Errorf("PrepareConn refused %d new connections, the last to %s",
			r.refused, quoteAddress(p.address))
	}
	return false, unfit, why, err
}

// callPrepareConn calls PrepareConn, if there is one. If the hook ends the goroutine, the lease is
// given up.
func (p *Pool) callPrepareConn(ctx context.Context, l *Conn) (ok bool, err error) {
	hook := p.config.Hooks.PrepareConn
	if hook == nil {
		return true, nil
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			ok, err = false, recovered(p.log, "Hooks.PrepareConn", v)
		} else {
			p.takeBack(l, forUnfit)
		}
	}()
	ok, err = hook(ctx, &l.conn.origin)
	returned = true
	return ok, p.examined(err)
}

// callOnConnect calls OnConnect, if there is one, and closes the connection if that fails.
func (p *Pool) callOnConnect(ctx context.Context, c *conn) (err error) {
	hook := p.config.Hooks.OnConnect
	if hook == nil {
		return nil
	}
	err = errExited
	defer func() {
		if v := recover(); v != nil {
			err = recovered(p.log, "Hooks.OnConnect", v)
		}
		if err != nil {
			p.callClose(&c.origin)
		}
	}()
	if err = hook(ctx, &c.origin); err != nil {
		err = p.examined(fmt.Errorf("OnConnect: %w", err))
	}
	return err
}

// callOnClose calls OnClose, if there is one.
func (p *Pool) callOnClose(c *Conn) {
	hook := p.config.Hooks.OnClose
	if hook == nil {
		return
	}
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(p.log, "Hooks.OnClose", v)
		}
	}()
	hook(c)
}

// afterReleaseLocked calls AfterRelease for a lease that ends with o, if its connection would be
// kept. It releases p.mu during the call. It returns the handle by which the connection is leased
// then: l is released already, so that a second Release of l returns ErrConnReleased.
func (p *Pool) afterReleaseLocked(l *Conn, o outcome) *Conn {
	c := l.conn
	if c.lease != l || c.cut || c.spent != 0 || o.fatal || p.closed || p.barred {
		return l
	}
	held := &Conn{conn: c}
	c.lease = held
	p.unlock()
	keep, returned := false, false
	defer func() {
		p.mu.Lock()
		if !keep && c.spent == 0 {
			c.spent = forUnfit
		}
		if !returned { // the hook ends the goroutine
			_ = p.endLease(held, o)
		}
	}()
	keep, returned = p.callAfterRelease(&c.origin), true
	return held
}

func (p *Pool) callAfterRelease(c *Conn) (keep bool) {
	defer func() {
		if v := recover(); v != nil {
			keep = false
			_ = recovered(p.log, "Hooks.AfterRelease", v)
		}
	}()
	return p.config.Hooks.AfterRelease(c)
}

// withValues is a pool's context with the values of a caller's.
type withValues struct {
	context.Context
	values context.Context
}

// Value returns what the pool's context has, or else what the caller's has. The mark of a probe is
// left out: if a caller is itself a driver that probes, this dial is no probe (see IsProbe).
func (c withValues) Value(key any) any {
	if v := c.Context.Value(key); v != nil || key == (probeKey{}) {
		return v
	}
	return c.values.Value(key)
}
