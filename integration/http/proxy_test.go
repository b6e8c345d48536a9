package http_test

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

var proxyTurns = flag.Int("turns", 2, "how many turns each load balancer has, half a second each")

// newBalancer returns that of examples/clients/reverseproxy.
func newBalancer(t *testing.T, backends ...string) http.Handler {
	s := pooly.NewService("backends", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
		BanditStrategy: pooly.NewHotCold(5, 0.84),
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.SetHosts(backends...)
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "backends"})
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: poolyhttp.NewTransport(s, nil),
		ErrorLog:  log.New(io.Discard, "", 0),
	}
}

const leastConn = `upstream backends { least_conn; %s keepalive 64; }
server {
  listen LISTEN;
  location / { proxy_pass http://backends; proxy_http_version 1.1; proxy_set_header Connection ""; }
}`

// A balancer is one load balancer, and what its clients saw.
type balancer struct {
	name   string
	url    string
	mu     sync.Mutex // guards the fields below
	took   []time.Duration
	failed int
}

func (b *balancer) get(client *http.Client) {
	began := time.Now()
	resp, err := client.Get(b.url)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("answered %s", resp.Status)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.took = append(b.took, time.Since(began))
	if err != nil {
		b.failed++
	}
}

// quantile returns that of the latencies, which must be sorted.
func (b *balancer) quantile(q float64) time.Duration {
	return b.took[int(q*float64(len(b.took)-1))].Round(100 * time.Microsecond)
}

// The reverse proxy over poolyhttp takes turns with nginx over the same four backends, of which one is slow, or answers
// 503 at once. For the figures of docs/GUIDE.md, see there.
func TestReverseProxyBesideNginx(t *testing.T) {
	for name, odd := range map[string]http.HandlerFunc{
		"OneSlow": func(http.ResponseWriter, *http.Request) { time.Sleep(100 * time.Millisecond) },
		"One503":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
	} {
		t.Run(name, func(t *testing.T) {
			var addresses []string
			var lines strings.Builder
			for i := range 4 {
				handler := func(http.ResponseWriter, *http.Request) { time.Sleep(5 * time.Millisecond) }
				if i == 3 {
					handler = odd
				}
				s := httptest.NewServer(http.HandlerFunc(handler))
				t.Cleanup(s.Close)
				addresses = append(addresses, s.Listener.Addr().String())
				fmt.Fprintf(&lines, "server %s; ", s.Listener.Addr())
			}
			cert, _ := certificate(t)
			other := startNginx(t, http1, cert, fmt.Sprintf(leastConn, lines.String()))
			front := httptest.NewServer(newBalancer(t, addresses...))
			t.Cleanup(front.Close)
			balancers := []*balancer{
				{name: "ReverseProxy over poolyhttp", url: front.URL},
				{name: "nginx, least_conn", url: "http://" + other.address},
			}
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: 10 * time.Second}
			t.Cleanup(client.CloseIdleConnections)
			for range *proxyTurns {
				for _, b := range balancers {
					oneTurn(client, b)
				}
			}
			t.Log("| load balancer | requests | p50 | p95 | p99 | over 50 ms | errors |")
			for _, b := range balancers {
				slices.Sort(b.took)
				fast, _ := slices.BinarySearch(b.took, 50*time.Millisecond)
				all := float64(len(b.took))
				t.Logf("| %s | %d | %v | %v | %v | %.2f %% | %.2f %% |", b.name, len(b.took), b.quantile(0.5),
					b.quantile(0.95), b.quantile(0.99), 100*(1-float64(fast)/all), 100*float64(b.failed)/all)
				require.NotEmpty(t, b.took)
			}
			ours := balancers[0]
			if name == "OneSlow" {
				require.Zero(t, ours.failed)
			} else {
				require.Less(t, float64(ours.failed), 0.25*float64(len(ours.took)), "less than its fair share")
			}
		})
	}
}

// oneTurn has callers send requests through a load balancer for half a second.
func oneTurn(client *http.Client, b *balancer) {
	end := time.Now().Add(500 * time.Millisecond)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for time.Now().Before(end) {
				b.get(client)
			}
		})
	}
	wg.Wait()
}
