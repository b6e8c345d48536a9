package pooly

import (
	"context"
	"errors"
	"time"
)

// The calls to the driver. Each contains a panic, and is made without a lock held.

func (p *Pool) callDial(ctx context.Context) (c *Conn, err error) {
	defer func() {
		if v := recover(); v != nil {
			c, err = nil, recovered(p.log, "Driver.Dial", v)
		}
	}()
	return p.config.Driver.Dial(ctx, p.address)
}

func (p *Pool) callClose(c *Conn) {
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(p.log, "Driver.Close", v)
		}
	}()
	p.config.Driver.Close(c)
}

// test returns why a connection is unfit, nil if it is fit. The driver has as long as timeout, 0: as it likes.
func (p *Pool) test(c *conn, timeout time.Duration) (err error) {
	if timeout > 0 {
		return p.testWithin(c, timeout)
	}
	defer func() {
		if v := recover(); v != nil {
			err = recovered(p.log, "Driver.TestOnBorrow", v)
		}
	}()
	return p.config.Driver.TestOnBorrow(&c.origin)
}

func (p *Pool) testWithin(c *conn, timeout time.Duration) error {
	result := make(chan error, 1)
	go func() { result <- p.test(c, 0) }()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case err := <-result:
		return err
	case <-t.C:
		return errTestHangs
	}
}

func (p *Pool) temporary(cause error) (ok bool) {
	defer func() {
		if v := recover(); v != nil {
			ok = false
			_ = recovered(p.log, "Driver.Temporary", v)
		}
	}()
	return p.config.Driver.Temporary(cause)
}

var errTestHangs = errors.New("the driver's TestOnBorrow takes longer than TestTimeout")
