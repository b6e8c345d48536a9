package faults_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// proxy stands in front of a server and spoils what it carries.
type proxy struct {
	*toxiproxy.Proxy
	t testing.TB
}

func startProxy(t testing.TB, upstream string) *proxy {
	t.Helper()
	log := zerolog.Nop()
	api := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), log)
	p := &proxy{Proxy: toxiproxy.NewProxy(api, "faults", "127.0.0.1:0", upstream), t: t}
	require.NoError(t, p.Start())
	t.Cleanup(p.Stop)
	return p
}

// spoil adds a toxic: see toxiproxy's README for what there is.
func (p *proxy) spoil(toxic, stream, attributes string) {
	p.t.Helper()
	_, err := p.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name":"it","type":%q,"stream":%q,"attributes":%s}`, toxic, stream, attributes)))
	require.NoError(p.t, err)
}

// heal takes the toxic away. Toxiproxy may wait for ever to do so if nobody reads from a connection; the proxy is started
// anew then, which closes that.
func (p *proxy) heal() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Toxics.RemoveToxic(context.Background(), "it")
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		p.Stop()
		require.NoError(p.t, p.Start())
	}
}

// One of three hosts is spoilt in each way, under load. With one retry no request may fail, none may get the reply to
// another, and the host must get traffic again once it is healed.
func TestFaultsOfOneHostFailNoRequestWithOneRetry(t *testing.T) {
	for _, tt := range []struct {
		name   string
		toxic  string
		stream string
		with   string
		size   uint32
	}{
		{name: "latency", toxic: "latency", stream: "downstream", with: `{"latency":200}`},
		{name: "jitter", toxic: "latency", stream: "downstream", with: `{"latency":300,"jitter":300}`},
		{name: "latency beyond the timeout", toxic: "latency", stream: "downstream", with: `{"latency":700}`},
		{name: "bandwidth", toxic: "bandwidth", stream: "downstream", with: `{"rate":10}`, size: 8 << 10},
		{name: "reset", toxic: "reset_peer", stream: "downstream", with: `{"timeout":50}`},
		{name: "reset of requests", toxic: "reset_peer", stream: "upstream", with: `{"timeout":0}`},
		{name: "replies vanish", toxic: "timeout", stream: "downstream", with: `{"timeout":0}`},
		{name: "requests vanish", toxic: "timeout", stream: "upstream", with: `{"timeout":0}`},
		{name: "replies end inside", toxic: "limit_data", stream: "downstream", with: `{"bytes":100}`, size: 20},
		{name: "slow close", toxic: "slow_close", stream: "downstream", with: `{"delay":700}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, addresses := startServers(t, 3)
			p := startProxy(t, addresses[0])
			addresses[0] = p.Listen
			c := newClient(t, 2, pooly.ServiceConfig{}, addresses...)
			stop := c.load(8, func() request { return request{after: time.Millisecond, size: tt.size} })
			time.Sleep(100 * time.Millisecond)
			p.spoil(tt.toxic, tt.stream, tt.with)
			time.Sleep(2 * time.Second)
			p.heal()
			served := func() uint64 {
				for _, h := range c.service.Stats().Hosts {
					if h.Address == p.Listen {
						return h.Gets
					}
				}
				return 0
			}
			before := served()
			require.Eventually(t, func() bool { return served() > before+100 }, 10*time.Second, 10*time.Millisecond, "healed")
			stop()
			c.report(t)
			require.Zero(t, c.failed.Load())
			c.settle(t)
		})
	}
}

// Servers that end their side, or say too much, leave connections that must not be used again.
func TestConnectionsThatServersEndAreNotUsedAgain(t *testing.T) {
	for name, f := range map[string]fault{
		"half-close after a reply": halfCloseAfter, "half-close instead": halfCloseInstead, "close inside": closeInside,
		"a byte too many": excess,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, addresses := startServers(t, 2)
			c := newClient(t, 2, pooly.ServiceConfig{}, addresses...)
			for i := range 200 {
				r := request{size: 100}
				if i%4 == 0 {
					r.fault = f
				}
				require.NoError(t, c.do(r))
				if i%4 == 0 {
					time.Sleep(time.Millisecond) // until the end has come
				}
			}
			c.report(t)
			if f == halfCloseAfter || f == excess {
				require.Zero(t, c.broken.Load(), "the request itself went well")
			} else {
				require.EqualValues(t, 50, c.broken.Load())
			}
			c.settle(t)
		})
	}
}

// A reply that comes after its request has timed out must not be taken for that of the next request.
func TestLateRepliesReachNobody(t *testing.T) {
	_, addresses := startServers(t, 2)
	d := newDriver()
	d.SetReadTimeout(20 * time.Millisecond)
	c := newClient(t, 1, pooly.ServiceConfig{
		PoolConfig:          pooly.PoolConfig{Driver: d, MaxConns: 4},
		ConsecutiveFailures: -1,
	}, addresses...)
	n := 0
	stop := c.load(1, func() request {
		n++
		return request{after: time.Duration(n%4) * 10 * time.Millisecond} // around the timeout
	})
	time.Sleep(2 * time.Second)
	stop()
	c.report(t)
	require.Positive(t, c.failed.Load())
	require.Less(t, c.failed.Load(), c.requests.Load())
	c.settle(t)
}

// A host that takes connections and never answers a byte is one that fails requests, and is ejected for it.
func TestHostThatAcceptsAndSaysNothingIsEjected(t *testing.T) {
	_, addresses := startServers(t, 2)
	l, err := net.Listen("tcp", "127.0.0.1:0") // connections stay in its backlog
	require.NoError(t, err)
	defer l.Close()
	d := newDriver()
	d.SetReadTimeout(50 * time.Millisecond)
	c := newClient(t, 2, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}}, append(addresses, l.Addr().String())...)
	for range 100 {
		require.NoError(t, c.do(quick()))
	}
	c.report(t)
	require.LessOrEqual(t, c.broken.Load(), uint64(2*pooly.DefaultConsecutiveFailures))
	c.settle(t)
}
