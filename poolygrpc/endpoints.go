package poolygrpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/3XX0/pooly"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/resolver"
)

// endpoint is a server as the resolver lists it. Leases are shares of it.
type endpoint struct {
	ready atomic.Pointer[balancer.Picker] // picks its connection; nil unless READY
	lost  bool                            // guarded by policy.mu; it was READY and is not
}

// endpoints are the endpoints that have been READY, by name. They are the driver of the policy's
// service: a dial makes a share, and fails at once if the endpoint is not READY.
type endpoints struct {
	mu     sync.Mutex
	byName map[string]*endpoint
}

var errNotConnected = errors.New("gRPC is not connected to it")

func (e *endpoints) get(name string) *endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.byName[name]
}

func (e *endpoints) set(name string, to *endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.byName[name] = to
}

// keep drops the endpoints whose names are not given. It returns the names of the others, and
// whether any was dropped.
func (e *endpoints) keep(listed map[string]bool) (names []string, dropped bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name := range e.byName {
		if listed[name] {
			names = append(names, name)
			continue
		}
		delete(e.byName, name)
		dropped = true
	}
	return names, dropped
}

// Dial implements pooly.Driver.
func (e *endpoints) Dial(_ context.Context, name string) (*pooly.Conn, error) {
	to := e.get(name)
	if to == nil || to.ready.Load() == nil {
		return nil, fmt.Errorf("poolygrpc: %s: %w", name, errNotConnected)
	}
	return pooly.NewConn(to), nil
}

// Close implements pooly.Driver.
func (e *endpoints) Close(*pooly.Conn) {}

// TestOnBorrow implements pooly.Driver. Pick finds out whether the endpoint is READY.
func (e *endpoints) TestOnBorrow(*pooly.Conn) error { return nil }

// Temporary implements pooly.Driver. Shares do not break.
func (e *endpoints) Temporary(error) bool { return true }

// nameOf returns the host's name of an endpoint: its addresses, in most cases a single one. Their
// order does not matter, as for endpoint sharding.
func nameOf(e resolver.Endpoint) string {
	if len(e.Addresses) == 1 {
		return e.Addresses[0].Addr
	}
	addresses := make([]string, len(e.Addresses))
	for i, a := range e.Addresses {
		addresses[i] = a.Addr
	}
	slices.Sort(addresses)
	return strings.Join(addresses, ",")
}
