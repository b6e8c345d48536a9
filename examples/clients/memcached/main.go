// Memcached looks things up in whichever of several caches answers soonest, and fills the cache that did not have
// them. Hosts are rated by latency, so a cache that is slow is asked less, as is one that is down.
//
// Without arguments it starts three servers in the process, and stops one of them halfway:
//
//	go -C examples/clients run ./memcached
//
// Given addresses, it uses what listens there:
//
//	memcached -l 127.0.0.1 -p 11211 & memcached -l 127.0.0.1 -p 11212 &
//	go -C examples/clients run ./memcached 127.0.0.1:11211 127.0.0.1:11212
//
// The protocol is in driver.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newService(addresses ...string) *pooly.Service {
	net := pooly.NewNetDriver("tcp")
	net.SetReadTimeout(100 * time.Millisecond) // a cache that takes longer is none
	s := pooly.NewService("cache", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: driver{net}},
		BanditStrategy: pooly.NewSoftMax(0.1),
	})
	s.SetHosts(addresses...)
	return s
}

// lookup returns the value of a key from a cache, or from load, and then the cache gets it.
func lookup(ctx context.Context, s *pooly.Service, key string, load func() ([]byte, error)) (value []byte, err error) {
	err = s.Do(ctx, func(c *pooly.Conn) error {
		began := time.Now()
		cache := c.Interface().(*conn)
		value, err = cache.get(key)
		took := time.Since(began)
		if errors.Is(err, errMiss) {
			if value, err = load(); err != nil {
				c.Release(nil, pooly.HostUp) // the cache is not to blame
				return err
			}
			err = cache.set(key, value)
		}
		if err == nil {
			c.Release(nil, pooly.LatencyScore(took, time.Millisecond)) // half at a millisecond
		}
		return pooly.Retry(err) // asking another cache is no harm
	})
	return value, err
}

func run(w io.Writer, addresses ...string) error {
	servers, addresses := standin.Start(addresses, standin.Memcached)
	defer servers.StopAll()
	s := newService(addresses...)
	defer s.Close()

	var misses atomic.Int64
	err := demo.Load(10_000, servers.StopOne, func() error {
		_, err := lookup(context.Background(), s, "greeting", func() ([]byte, error) {
			misses.Add(1)
			return []byte("hello"), nil
		})
		return err
	})
	fmt.Fprintf(w, "%d lookups found nothing and filled a cache\n", misses.Load())
	demo.Report(w, s)
	return err
}
