// Package dns finds the hosts of a pooly.Service by DNS: by the address records of a name, or by
// SRV records.
//
//	err := s.Follow(ctx, dns.NewHost("cache.internal:11211", nil))
//	err := s.Follow(ctx, dns.NewSRV("memcached", "tcp", "internal", nil))
//
// The name is looked up anew every Interval. While lookups fail, the last good answer stays in
// effect: the hosts of yesterday are better than none, and the service ejects hosts that are gone.
// A name that has vanished is a failure, too, unless the Config says otherwise.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/3XX0/pooly"
)

// The defaults of Config.
const (
	DefaultInterval = 30 * time.Second
	DefaultTimeout  = 5 * time.Second
)

const (
	// jitter is the share of a pause that may be cut off at random, so that clients do not ask in
	// step.
	jitter = 0.2

	// retryBase is the pause after a failed lookup. Each further failure doubles it, up to the
	// interval.
	retryBase = time.Second

	// minInterval keeps an Interval whose unit was forgotten from flooding the name server.
	minInterval = 10 * time.Millisecond
)

// Config configures a Resolver. The zero value of each field stands for its default.
type Config struct {
	// Interval is the longest time between two lookups. Each time is up to a fifth shorter, at
	// random. The standard library does not tell the TTL of records, so choose an interval not far
	// below it. After a failure the next lookup comes sooner: after 1 s, 2 s, 4 s and so on, up to
	// Interval. Default 30 s. An interval below 10 ms is taken for 10 ms.
	Interval time.Duration

	// Timeout bounds one lookup, with all tries of the net.Resolver. A lookup that is given up may
	// keep a goroutine of package net busy for some seconds more. Default 5 s.
	Timeout time.Duration

	// Network is "ip4" or "ip6" for addresses of one family only. NewSRV does not use it. Default
	// "ip": both.
	Network string

	// AllPriorities takes the SRV records of every priority. Default: only the records of the best
	// priority in the answer. The strategy would not keep the others as spares, but send them their
	// share of the traffic.
	AllPriorities bool

	// AllowEmpty has the service lose all its hosts when the server says that the name, or a record
	// of the type, does not exist. Default: that is a failure, and the last good answer stays in
	// effect.
	AllowEmpty bool

	// Resolver asks the servers. Default net.DefaultResolver.
	Resolver *net.Resolver
}

func (c *Config) withDefaults() Config {
	var d Config
	if c != nil {
		d = *c
	}
	if d.Interval < 0 || d.Timeout < 0 {
		panic(fmt.Errorf("%w: dns: Interval %v or Timeout %v is negative",
			pooly.ErrInvalidArg, d.Interval, d.Timeout))
	}
	d.Interval = max(cmp.Or(d.Interval, DefaultInterval), minInterval)
	d.Timeout = cmp.Or(d.Timeout, DefaultTimeout)
	d.Network = cmp.Or(d.Network, "ip")
	d.Resolver = cmp.Or(d.Resolver, net.DefaultResolver)
	return d
}

// Resolver is a pooly.Resolver. It may be used for several services at once.
type Resolver struct {
	// Both are immutable. The config has its defaults filled in.
	config Config
	lookup func(ctx context.Context) (list []string, err error)
}

var _ pooly.Resolver = (*Resolver)(nil)

// NewHost returns a resolver that finds one host for each address record (A and AAAA) of a name. A
// nil config means every default.
//
// The address is name:port, as for net.Dial; the hosts are ip:port. A certificate seldom names the
// IP, so TLS needs a ServerName in its tls.Config.
//
// NewHost panics if address has no port or the config has an impossible value.
func NewHost(address string, config *Config) *Resolver {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		panic(fmt.Errorf("%w: dns: %w", pooly.ErrInvalidArg, err))
	}
	r := &Resolver{config: config.withDefaults()}
	r.lookup = func(ctx context.Context) ([]string, error) {
		ips, err := r.config.Resolver.LookupNetIP(ctx, r.config.Network, name)
		list := make([]string, len(ips))
		for i, ip := range ips {
			list[i] = net.JoinHostPort(ip.Unmap().String(), port)
		}
		return list, err
	}
	return r
}

// NewSRV returns a resolver that finds one host for each SRV record of _service._proto.name, or of
// name itself if service and proto are empty. A nil config means every default.
//
// The hosts are target:port. The driver looks the target up when it dials, and a certificate for
// the target's name is good for TLS. The weights of records are not used: the strategy learns how
// much each host can take.
//
// NewSRV panics if the config has an impossible value.
func NewSRV(service, proto, name string, config *Config) *Resolver {
	r := &Resolver{config: config.withDefaults()}
	r.lookup = func(ctx context.Context) ([]string, error) {
		_, records, err := r.config.Resolver.LookupSRV(ctx, service, proto, name)
		if len(records) > 0 {
			err = nil // the error says that other records are malformed
		}
		var list []string
		for _, record := range records { // the best priority first
			if record.Priority != records[0].Priority && !r.config.AllPriorities {
				break
			}
			// RFC 2782: the target "." means that the service is not there.
			if target := strings.TrimSuffix(record.Target, "."); target != "" {
				list = append(list, net.JoinHostPort(target, strconv.Itoa(int(record.Port))))
			}
		}
		return list, err
	}
	return r
}

var errNoRecord = errors.New("dns: the answer has no usable record")

// find looks the list up. It returns an empty list only if that is allowed.
func (r *Resolver) find(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	list, err := r.lookup(ctx)
	var failure *net.DNSError
	if errors.As(err, &failure) && failure.IsNotFound && r.config.AllowEmpty {
		return nil, nil
	}
	if err == nil && len(list) == 0 && !r.config.AllowEmpty {
		err = errNoRecord
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// Watch implements pooly.Resolver.
func (r *Resolver) Watch(ctx context.Context) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		var last []string
		known := false
		retry := retryBase
		for {
			pause := r.config.Interval
			list, err := r.find(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				pause = min(retry, pause)
				retry = min(2*retry, r.config.Interval)
				if !yield(nil, err) {
					return
				}
			} else {
				retry = retryBase
				if !known || !slices.Equal(list, last) {
					last, known = list, true
					if !yield(slices.Clone(list), nil) {
						return
					}
				}
			}
			if !sleep(ctx, time.Duration(float64(pause)*(1-jitter*rand.Float64()))) {
				return
			}
		}
	}
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
