package faults_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

var (
	errWrongReply = errors.New("the reply to another request")
	errRefused    = errors.New("GetConn failed")
)

// client sends requests through a service, and counts what becomes of them.
type client struct {
	service *pooly.Service
	ids     atomic.Uint64

	requests atomic.Uint64
	broken   atomic.Uint64 // failed at first, and would have failed without a retry
	failed   atomic.Uint64 // failed for good
	refused  atomic.Uint64 // of these, because GetConn failed
	wrong    atomic.Uint64 // replies to other requests
	slowest  atomic.Int64
}

// newClient returns a client of a service with the given hosts, for which a request may be sent runs times.
func newClient(t testing.TB, runs int, config pooly.ServiceConfig, addresses ...string) *client {
	t.Helper()
	if config.Driver == nil {
		config.Driver = newDriver()
	}
	config.GetAttempts = runs
	c := &client{service: pooly.NewService("faults", &config)}
	c.service.SetHosts(addresses...)
	t.Cleanup(func() { _ = c.service.Close() })
	return c
}

// newDriver returns a driver with which a request takes half a second at most.
func newDriver() *pooly.NetDriver {
	d := pooly.NewNetDriver("tcp")
	d.SetConnTimeout(time.Second)
	d.SetReadTimeout(500 * time.Millisecond)
	d.SetWriteTimeout(500 * time.Millisecond)
	return d
}

// do sends a request, and again to another host if that fails and may be tried again.
func (c *client) do(r request) error {
	began := time.Now()
	run := 0
	err := c.service.Do(context.Background(), func(conn *pooly.Conn) error {
		run++
		r.id = c.ids.Add(1)
		if run > 1 {
			r.fault, r.after = none, 0 // what is wrong is wrong with the first
		}
		return pooly.Retry(c.exchange(conn, r))
	})
	c.requests.Add(1)
	if err != nil || run > 1 {
		c.broken.Add(1)
	}
	if err != nil {
		c.failed.Add(1)
		if run == 0 {
			c.refused.Add(1)
			err = fmt.Errorf("%w: %w", errRefused, err)
		}
	}
	for d := int64(time.Since(began)); ; {
		slowest := c.slowest.Load()
		if d <= slowest || c.slowest.CompareAndSwap(slowest, d) {
			return err
		}
	}
}

// exchange sends a request on a connection and reads the reply.
func (c *client) exchange(conn *pooly.Conn, r request) error {
	nc := conn.NetConn()
	if _, err := nc.Write(r.encode()); err != nil {
		return err
	}
	reply := make([]byte, 8+r.size)
	if _, err := io.ReadFull(nc, reply); err != nil {
		return err
	}
	if id := binary.BigEndian.Uint64(reply); id != r.id {
		c.wrong.Add(1)
		return fmt.Errorf("%w: %d instead of %d from %s", errWrongReply, id, r.id, conn.Address())
	}
	return nil
}

// load sends requests from several goroutines until stop is called, which waits for them.
func (c *client) load(goroutines int, next func() request) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					_ = c.do(next())
				}
			}
		})
	}
	return func() {
		close(done)
		wg.Wait()
	}
}

// quick is a request that takes no time.
func quick() request { return request{} }

// settle closes the service, and holds if nothing is left leased and no reply went astray.
func (c *client) settle(t testing.TB) {
	t.Helper()
	stats := c.service.Stats()
	require.Zero(t, stats.InUse, "leases")
	require.Zero(t, stats.Waiting)
	require.Equal(t, stats.Gets, stats.Puts)
	require.Zero(t, c.wrong.Load(), "wrong replies")
	require.NoError(t, c.service.Close())
}

// report logs what became of the requests.
func (c *client) report(t testing.TB) {
	t.Helper()
	t.Logf("%d requests: %d would have failed without a retry, %d failed with one (%d in GetConn); the slowest took %v",
		c.requests.Load(), c.broken.Load(), c.failed.Load(), c.refused.Load(),
		time.Duration(c.slowest.Load()).Round(time.Millisecond))
}
