package http

import (
	"fmt"
	"maps"
	"slices"
)

// PoolyHooks divert what a Transport does to another implementation. If the functions are nil, the
// Transport serves itself, but an http.Client takes it for another implementation.
type PoolyHooks struct {
	// RoundTrip sends a request to the address, host:port, that its URL names. "" means that the
	// URL names none.
	RoundTrip func(t *Transport, address string, req *Request) (*Response, error)
	// CloseIdleConnections closes the idle connections that stand for those of the transport.
	CloseIdleConnections func(t *Transport)
	// Idle returns the number of idle connections for each key of the form "|scheme|host:port".
	Idle func(t *Transport) map[string]int
	// Pending returns the number of requests in flight.
	Pending func(t *Transport) int
}

// They are set before all requests.
var (
	foreign    bool
	poolyHooks *PoolyHooks // nil: a Transport serves itself
)

// SetPoolyHooks must be called before any request.
func SetPoolyHooks(h *PoolyHooks) {
	foreign = true
	if h.RoundTrip != nil {
		poolyHooks = h
	}
}

func (t *Transport) hookedRoundTrip(req *Request) (*Response, error) {
	if poolyHooks == nil {
		return t.roundTrip(req)
	}
	address := ""
	if req.URL != nil {
		if s := req.URL.Scheme; s != "http" && s != "https" {
			return t.roundTrip(req) // RegisterProtocol, or an error
		}
		if req.URL.Host != "" {
			address = canonicalAddr(req.URL)
		}
	}
	testHookEnterRoundTrip()
	return poolyHooks.RoundTrip(t, address, req)
}

// idleKeys returns a string for each address with idle connections.
func (h *PoolyHooks) idleKeys(t *Transport) []string {
	return slices.Sorted(maps.Keys(h.Idle(t)))
}

// idleStrings returns a string for each idle connection.
func (h *PoolyHooks) idleStrings(t *Transport) (idle []string) {
	for key, n := range h.Idle(t) {
		for i := range n {
			idle = append(idle, fmt.Sprintf("%s#%d", key, i))
		}
	}
	slices.Sort(idle)
	return idle
}

// WatchesRetries reports whether the test wants Retried to be called.
func WatchesRetries() bool { return watchesRetries }

// Retried tells the test that a request is sent again.
func Retried() { testHookRoundTripRetried() }

var watchesRetries bool

func setRetriedHook(f func()) {
	watchesRetries = f != nil
	if f == nil {
		f = nop
	}
	testHookRoundTripRetried = f
}
