package http_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
)

// A Transport has a service for each scheme and host that it is asked for. So a test meets the
// hosts that its URLs name.

type serviceKey struct {
	transport *http.Transport
	scheme    string
	address   string
	settings
}

// settings are what tests change of a Transport that they have used. A poolyhttp.Driver copies its
// Transport, so that it needs another one then.
type settings struct {
	tls               *tls.Config
	disableKeepAlives bool
	idleConnTimeout   time.Duration
	maxConnsPerHost   int
}

type hostService struct {
	*pooly.Service
	transport http.RoundTripper
	scope     *int
}

var (
	servicesMu sync.Mutex // guards the variables below
	services   = make(map[serviceKey]*hostService)
	scope      = new(int) // whose services closeServices closes: a synctest bubble's, or all others
)

// installPooly is called by TestMain.
func installPooly() {
	if os.Getenv("POOLY_STDIN") != "" {
		os.Unsetenv("POOLY_STDIN") // it is not for processes that tests start
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(1) // the process that runs the tests has ended
		}()
	}
	switch os.Getenv("POOLY_NETHTTP") {
	case "pooly":
		http.SetPoolyHooks(&http.PoolyHooks{
			RoundTrip:            poolyRoundTrip,
			CloseIdleConnections: poolyCloseIdleConnections,
			Idle:                 poolyIdle,
			Pending:              poolyPending,
		})
	case "foreign":
		http.SetPoolyHooks(&http.PoolyHooks{})
	}
}

func poolyRoundTrip(t *http.Transport, address string, req *http.Request) (*http.Response, error) {
	fmt.Println("\nPOOLY sends")
	scheme := "http"
	if req.URL != nil {
		scheme = req.URL.Scheme
	}
	s := serviceFor(t, scheme, address)
	if !http.WatchesRetries() {
		return s.transport.RoundTrip(req)
	}
	sends := 0
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GetConn: func(string) {
			if sends++; sends > 1 {
				http.Retried()
			}
		},
	})
	resp, err := s.transport.RoundTrip(req.WithContext(ctx))
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

func serviceFor(t *http.Transport, scheme, address string) *hostService {
	if address == "" {
		address = "127.0.0.1:1" // the request must be refused, whatever host the service has
	}
	servicesMu.Lock()
	defer servicesMu.Unlock()
	key := serviceKey{t, scheme, address, settings{
		t.TLSClientConfig, t.DisableKeepAlives, t.IdleConnTimeout, t.MaxConnsPerHost,
	}}
	if s := services[key]; s != nil {
		return s
	}
	service := pooly.NewService("test", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{
			Driver:          poolyhttp.NewDriver(scheme, t),
			MaxConns:        t.MaxConnsPerHost,
			ConnIdleTimeout: t.IdleConnTimeout,
		},
		PrespawnConns: -1, // http.Transport dials only for requests,
		GetAttempts:   1,  // and only once
		CloseDeadline: 100 * time.Millisecond,
		Logger:        slog.New(slog.DiscardHandler),
	})
	service.Add(address)
	s := &hostService{Service: service, transport: poolyhttp.NewTransport(service, nil), scope: scope}
	services[key] = s
	return s
}

// eachService calls f for each service of the transport.
func eachService(t *http.Transport, f func(serviceKey, *hostService)) {
	servicesMu.Lock()
	found := make(map[serviceKey]*hostService)
	for key, s := range services {
		if key.transport == t {
			found[key] = s
		}
	}
	servicesMu.Unlock()
	for key, s := range found {
		f(key, s)
	}
}

func poolyCloseIdleConnections(t *http.Transport) {
	eachService(t, func(_ serviceKey, s *hostService) {
		if c, ok := s.transport.(interface{ CloseIdleConnections() }); ok {
			c.CloseIdleConnections()
		}
	})
}

func poolyIdle(t *http.Transport) map[string]int {
	idle := make(map[string]int)
	eachService(t, func(key serviceKey, s *hostService) {
		if n := s.Stats().Idle; n > 0 {
			idle["|"+key.scheme+"|"+key.address] = n
		}
	})
	return idle
}

func poolyPending(t *http.Transport) (n int) {
	eachService(t, func(_ serviceKey, s *hostService) { n += s.Stats().InUse })
	return n
}

// closeServices closes the services that were made in the current scope.
func closeServices() {
	servicesMu.Lock()
	var found []*hostService
	for key, s := range services {
		if s.scope == scope {
			found = append(found, s)
			delete(services, key)
		}
	}
	servicesMu.Unlock()
	var all sync.WaitGroup
	for _, s := range found {
		all.Go(func() { _ = s.Close() })
	}
	all.Wait()
}

// synctestTest is synctest.Test. It closes the services that f's requests have made.
func synctestTest(t *testing.T, f func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		servicesMu.Lock()
		outer := scope
		scope = new(int)
		servicesMu.Unlock()
		t.Cleanup(func() {
			closeServices()
			servicesMu.Lock()
			defer servicesMu.Unlock()
			scope = outer
		})
		f(t)
	})
}
