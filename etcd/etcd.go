// Package etcd finds the hosts of a pooly.Service by the keys under a prefix in etcd. It hears of
// each change at once. It is a module of its own, so that pooly does not need etcd's client.
//
//	client, err := clientv3.New(clientv3.Config{
//		Endpoints:         []string{"127.0.0.1:2379"},
//		DialKeepAliveTime: 10 * time.Second, // notices a member that vanished silently
//	})
//	...
//	err = s.Follow(ctx, etcd.NewPrefix(client, "services/cache/", nil))
//
// Each host registers itself with a key, bound to a lease that the host keeps alive. It may do so
// by etcdctl put services/cache/1 10.0.0.1:11211 --lease=... or by etcd's package
// naming/endpoints.
package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/3XX0/pooly"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// DefaultTimeout is how long one read of the prefix may take.
const DefaultTimeout = 5 * time.Second

// The pauses after a failure: 1 s, then each twice as long as the last, up to 30 s. Up to a fifth
// is cut off at random. A change that a working watch tells of does not wait.
const (
	retryBase = time.Second
	retryCap  = 30 * time.Second
	jitter    = 0.2
)

// Config configures a Resolver. The zero value of each field stands for its default.
type Config struct {
	// Timeout bounds one read of the prefix. Default 5 s.
	Timeout time.Duration

	// Address makes an address from a key, without the prefix, and its value. If it returns "", the
	// key is left out. If it panics, the key is left out and the panic is reported as a failure.
	// Default: the function [Address].
	Address func(key, value string) string

	// AllowEmpty has the service lose all its hosts when no key is left. Default: that is a
	// failure, and the last good answer stays in effect. If all leases expire at once, more likely
	// etcd or the network is at fault than the hosts.
	AllowEmpty bool
}

// Address is the default way to make an address of a key and its value:
//   - the field Addr of a value that is a JSON object, as etcd's package naming/endpoints
//     writes it;
//   - any other value as it is;
//   - the key if the value is empty.
func Address(key, value string) string {
	value = strings.TrimSpace(value)
	if strings.HasPrefix(value, "{") {
		var endpoint struct{ Addr string }
		if json.Unmarshal([]byte(value), &endpoint) != nil {
			return ""
		}
		return endpoint.Addr
	}
	return cmp.Or(value, key)
}

// Resolver is a pooly.Resolver. It may be used for several services at once.
type Resolver struct {
	client *clientv3.Client // immutable
	prefix string           // immutable
	config Config           // immutable, with its defaults filled in
}

var _ pooly.Resolver = (*Resolver)(nil)

// NewPrefix returns a resolver that finds one host for each key that begins with prefix. A nil
// config means every default. Close the services that follow the resolver before the client.
//
// NewPrefix panics if client is nil, if Timeout is negative, or if prefix is empty: every key in
// etcd has the empty prefix.
func NewPrefix(client *clientv3.Client, prefix string, config *Config) *Resolver {
	r := &Resolver{client: client, prefix: prefix}
	if config != nil {
		r.config = *config
	}
	switch {
	case client == nil:
		panic(fmt.Errorf("%w: etcd: nil client", pooly.ErrInvalidArg))
	case prefix == "":
		panic(fmt.Errorf("%w: etcd: empty prefix", pooly.ErrInvalidArg))
	case r.config.Timeout < 0:
		panic(fmt.Errorf("%w: etcd: Timeout %v is negative", pooly.ErrInvalidArg, r.config.Timeout))
	}
	r.config.Timeout = cmp.Or(r.config.Timeout, DefaultTimeout)
	if r.config.Address == nil {
		r.config.Address = Address
	}
	return r
}

// Watch implements pooly.Resolver. It reads the prefix, and then hears of changes. The client
// resumes the watch by itself when it has to go to another member. If it cannot, because the
// history was compacted or the member has no leader, Watch reads the prefix anew.
func (r *Resolver) Watch(ctx context.Context) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		h := &hosts{resolver: r, yield: yield, retry: retryBase}
		for {
			err := h.follow(ctx)
			if ctx.Err() != nil || errors.Is(err, errStopped) {
				return
			}
			if errors.Is(err, rpctypes.ErrCompacted) {
				continue // no failure: the next read sees what the watch can no longer tell
			}
			if !yield(nil, fmt.Errorf("etcd: prefix %s: %w", r.prefix, err)) {
				return
			}
			if !sleep(ctx, time.Duration(float64(h.retry)*(1-jitter*rand.Float64()))) {
				return
			}
			h.retry = min(2*h.retry, retryCap)
		}
	}
}

var (
	errStopped = errors.New("the consumer of the answers has stopped")
	errNoKey   = errors.New("no key has an address")
	errEnded   = errors.New("the watch ended")
)

// hosts are the addresses under the prefix, by key, as the watch has told them so far.
type hosts struct {
	resolver *Resolver
	yield    func([]string, error) bool
	retry    time.Duration // the longest pause after the next failure
	byKey    map[string]string
	odd      map[string]error // the keys for which Config.Address panicked
	reports  []error          // panics that the consumer has not been told of

	told   bool     // the consumer has had an answer, which was:
	last   []string // this list,
	failed bool     // as a failure
}

// follow reads the prefix, watches it from there on, and returns why it cannot go on.
func (h *hosts) follow(ctx context.Context) error {
	r := h.resolver
	read, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	now, err := r.client.Get(read, r.prefix, clientv3.WithPrefix())
	if err != nil {
		return err
	}
	h.retry = retryBase
	h.byKey, h.odd = make(map[string]string, len(now.Kvs)), make(map[string]error)
	for _, kv := range now.Kvs {
		h.put(string(kv.Key), string(kv.Value))
	}
	if err := h.answer(); err != nil {
		return err
	}
	watch, cancel := context.WithCancel(ctx)
	defer cancel() // otherwise the server goes on sending
	for changes := range r.client.Watch(watch, r.prefix, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1)) {
		if err := changes.Err(); err != nil {
			return err
		}
		for _, e := range changes.Events {
			if e.Type == clientv3.EventTypeDelete {
				delete(h.byKey, string(e.Kv.Key))
				delete(h.odd, string(e.Kv.Key))
			} else {
				h.put(string(e.Kv.Key), string(e.Kv.Value))
			}
		}
		if err := h.answer(); err != nil {
			return err
		}
	}
	return errEnded
}

func (h *hosts) put(key, value string) {
	delete(h.odd, key)
	address, err := h.address(key, value)
	if err != nil {
		h.odd[key] = err
		h.reports = append(h.reports, err)
	}
	h.byKey[key] = address
}

// address calls Config.Address. One odd value must not hide all other keys, so a panic ends here.
func (h *hosts) address(key, value string) (address string, err error) {
	r := h.resolver
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("etcd: Config.Address panicked on key %q with value %q: %v", key, value, v)
		}
	}()
	return r.config.Address(strings.TrimPrefix(key, r.prefix), value), nil
}

// answer yields the addresses if they have changed, and then the new reports. An empty list that is
// not allowed is a failure. The watch tells when the list is no longer empty.
func (h *hosts) answer() error {
	r := h.resolver
	list := []string{}
	for _, address := range h.byKey {
		if address != "" {
			list = append(list, address)
		}
	}
	slices.Sort(list)
	list = slices.Compact(list)
	failed := len(list) == 0 && (!r.config.AllowEmpty || len(h.odd) > 0)
	if !h.told || failed != h.failed || !slices.Equal(list, h.last) {
		h.told, h.failed, h.last = true, failed, list
		var err error
		if failed {
			err = fmt.Errorf("etcd: prefix %s: %w", r.prefix, errNoKey)
		}
		if !h.yield(slices.Clone(list), err) {
			return errStopped
		}
	}
	for _, err := range h.reports {
		if !h.yield(nil, err) {
			return errStopped
		}
	}
	h.reports = nil
	return nil
}

// sleep reports false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
