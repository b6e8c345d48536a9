package pooly

import (
	"context"
	"errors"
	"reflect"
	"syscall"
	"time"
)

// The calls to the driver. Each is made without a lock. Each survives a method that panics, or that
// ends its goroutine (runtime.Goexit, for example t.FailNow in a test's driver).

var (
	errTestHangs = errors.New("the driver's TestOnBorrow takes longer than TestTimeout")
	errNilError  = errors.New("the driver's Dial returned a nil pointer as its error")
	errExited    = errors.New("the driver ended the goroutine that called it")
	errPingHangs = errors.New("the driver's Ping or Check does not heed its context")
)

func (p *Pool) callDial(ctx context.Context) (c *Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			c, err = nil, recovered(p.log, "Driver.Dial", v)
		}
	}()
	c, err = p.config.Driver.Dial(ctx, p.address)
	if v := reflect.ValueOf(err); v.Kind() == reflect.Pointer && v.IsNil() && err != nil {
		err = errNilError // its methods would panic
	}
	return c, err
}

// examined returns an error that is safe to examine under a lock: err, or what its methods panic
// with.
func (p *Pool) examined(err error) (safe error) {
	defer func() {
		if v := recover(); v != nil {
			safe = recovered(p.log, "a method of an error", v)
		}
	}()
	isLocal(err)
	return err
}

// isLocal reports whether a dial failed because this process or machine ran out of something. That
// says nothing about the host.
func isLocal(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// checkAddress asks the driver whether the address can be dialled. Most drivers cannot tell.
func (p *Pool) checkAddress() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = recovered(p.log, "Driver.CheckAddress", v)
		}
	}()
	if d, ok := p.config.Driver.(interface{ CheckAddress(string) error }); ok {
		return d.CheckAddress(p.address)
	}
	return nil
}

func (p *Pool) callClose(c *Conn) {
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(p.log, "Driver.Close", v)
		}
	}()
	defer p.config.Driver.Close(c) // even if OnClose ends the goroutine
	p.callOnClose(c)
}

// test returns why a leased connection is unfit, nil if it is fit. l is its lease.
func (p *Pool) test(c *conn, l *Conn) (err error) {
	if timeout := p.config.TestTimeout; timeout > 0 {
		return p.testWithin(c, timeout)
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = recovered(p.log, "Driver.TestOnBorrow", v)
		} else { // the caller's goroutine ends
			p.takeBack(l, forUnfit)
		}
	}()
	err = p.config.Driver.TestOnBorrow(&c.origin)
	returned = true
	return err
}

func (p *Pool) testWithin(c *conn, timeout time.Duration) error {
	result := make(chan error, 1)
	go func() {
		err := errExited
		defer func() {
			if v := recover(); v != nil {
				err = recovered(p.log, "Driver.TestOnBorrow", v)
			}
			result <- err
		}()
		err = p.config.Driver.TestOnBorrow(&c.origin)
	}()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case err := <-result:
		return err
	case <-t.C:
		return errTestHangs
	}
}

// callPing pings a connection that nobody uses. It returns an error that is safe to examine.
func (p *Pool) callPing(c *conn) error {
	err := p.callWithin(p.ctx, min(p.config.DialTimeout, pingMost), "Driver.Ping",
		func(ctx context.Context) error {
			err := p.pinger.Ping(ctx, &c.origin)
			isTimeout(err) // what it asks may panic, and will be asked under the lock
			return err
		})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pings++
	if err != nil {
		p.pingFailures++
	}
	return err
}

// pingMost is how long a ping may take at most.
const pingMost = 5 * time.Second

// callCheck asks the driver about a new connection to an ejected host.
func (p *Pool) callCheck(ctx context.Context, timeout time.Duration, c *conn) error {
	return p.callWithin(ctx, timeout, "Driver.Check",
		func(ctx context.Context) error { return p.checker.Check(ctx, &c.origin) })
}

// callWithin calls a method of the driver that may wait for the network. It returns when the method
// does, and at most closeGrace after the timeout or the end of ctx.
func (p *Pool) callWithin(
	ctx context.Context, timeout time.Duration, method string, call func(context.Context) error,
) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		err := errExited
		defer func() {
			if v := recover(); v != nil {
				err = recovered(p.log, method, v)
			}
			result <- err
		}()
		err = call(ctx)
	}()
	select {
	case err := <-result:
		return p.examined(err)
	case <-ctx.Done():
	}
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case err := <-result:
		return p.examined(err)
	case <-t.C:
		return errPingHangs
	}
}

// temporary asks the driver whether a leased connection is fit for use after an error.
func (p *Pool) temporary(l *Conn, cause error) (ok bool) {
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			ok = false
			_ = recovered(p.log, "Driver.Temporary", v)
		} else { // the caller's goroutine ends
			_ = p.put(l, outcome{fatal: true})
		}
	}()
	ok = p.config.Driver.Temporary(cause)
	returned = true
	return ok
}

// outcomeOf returns what a lease tells that ended with an error. If the connection is still fit for
// use, that is otherwise, with HostDown in place of HostUp.
func (p *Pool) outcomeOf(l *Conn, cause error, otherwise outcome) outcome {
	if isAnswer(cause) {
		return otherwise
	}
	rated := otherwise.rated && !errors.Is(cause, context.Canceled) // the caller's wish
	if p.temporary(l, cause) {
		otherwise.rated, otherwise.cause = rated, cause
		if otherwise.score == HostUp {
			otherwise.score = HostDown // an error is no success
		}
		return otherwise
	}
	return outcome{score: HostDown, rated: rated, failure: rated, fatal: true,
		timeout: rated && isTimeout(cause), cause: cause}
}
