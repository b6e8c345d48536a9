package faults_test

import (
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A server that is killed takes with it the requests that are on their way, and no others.
func TestKilledServerCostsOnlyRequestsInFlight(t *testing.T) {
	servers, addresses := startServers(t, 3)
	c := newClient(t, 2, pooly.ServiceConfig{}, addresses...)
	const goroutines, kills = 16, 5
	stop := c.load(goroutines, func() request { return request{after: time.Millisecond} })
	for i := range kills {
		time.Sleep(200 * time.Millisecond)
		servers[i%len(servers)].restart(200 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond)
	stop()
	c.report(t)
	require.Zero(t, c.failed.Load())
	require.LessOrEqual(t, c.broken.Load(), uint64(kills*goroutines), "one for each request in flight")
	require.Greater(t, c.requests.Load(), uint64(1000))
	c.settle(t)
}

// As a deployment does it: every host is killed and started anew, one after the other, under load.
func TestRollingRestartFailsNoRequestWithOneRetry(t *testing.T) {
	servers, addresses := startServers(t, 5)
	c := newClient(t, 2, pooly.ServiceConfig{}, addresses...)
	stop := c.load(32, func() request { return request{after: time.Millisecond} })
	for _, s := range servers {
		time.Sleep(300 * time.Millisecond)
		s.restart(300 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond)
	stop()
	c.report(t)
	require.Zero(t, c.failed.Load())
	require.Less(t, time.Duration(c.slowest.Load()), time.Second)
	for _, h := range c.service.Stats().Hosts {
		require.Positive(t, h.Gets)
	}
	c.settle(t)
}

// All hosts at once: requests fail while there is nobody to serve them, and not a moment longer than that.
func TestServiceRecoversOnceAnyServerIsBack(t *testing.T) {
	servers, addresses := startServers(t, 3)
	c := newClient(t, 2, pooly.ServiceConfig{}, addresses...)
	stop := c.load(8, func() request { return request{after: time.Millisecond} })
	time.Sleep(200 * time.Millisecond)
	for _, s := range servers {
		s.kill()
	}
	time.Sleep(2 * time.Second) // far into the backoff
	require.Positive(t, c.refused.Load())
	servers[1].start()
	require.Eventually(t, func() bool {
		before := c.failed.Load()
		return c.do(quick()) == nil && c.failed.Load() == before
	}, time.Second, time.Millisecond)
	failed := c.failed.Load()
	time.Sleep(200 * time.Millisecond)
	require.Equal(t, failed, c.failed.Load())
	stop()
	c.report(t)
	c.settle(t)
}
