// Memcached looks things up in whichever of several caches answers soonest, and fills the cache that did not have
// them. Hosts are rated by latency, so a cache that is slow is asked less, as is one that is down.
//
//	memcached -l 127.0.0.1 -p 11211 & memcached -l 127.0.0.1 -p 11212 &
//	go -C examples/clients run ./memcached 127.0.0.1:11211 127.0.0.1:11212
//
// Each cache comes to hold everything. That is for caches beside each other that hold the same, such as one per zone.
// If each key has its one server, as with gomemcache's ServerList, pooly is the wrong tool: half of the lookups would
// ask a server that does not have the key.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/3XX0/pooly"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go run main.go host:port...")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newService(addresses ...string) *pooly.Service {
	s := pooly.NewService("cache", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: newDriver()},
		BanditStrategy: pooly.NewSoftMax(0.1),
	})
	s.SetHosts(addresses...)
	return s
}

// lookup returns the value of a key from a cache, or from load, and then the cache gets it.
func lookup(ctx context.Context, s *pooly.Service, key string, load func() ([]byte, error)) (value []byte, err error) {
	err = s.Do(ctx, func(c *pooly.Conn) error {
		began := time.Now()
		cache := pooly.Value[*conn](c)
		value, err = cache.get(key)
		took := time.Since(began)
		if errors.Is(err, errMiss) {
			if value, err = load(); err != nil {
				return pooly.Answered(err) // the cache is not to blame
			}
			err = cache.set(key, value)
		}
		if err == nil {
			_ = c.Release(nil, pooly.LatencyScore(took, time.Millisecond)) // half at a millisecond
		}
		return pooly.Retry(err) // asking another cache is no harm
	})
	return value, err
}

func run(w io.Writer, addresses ...string) error {
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	misses := 0
	for range 1000 {
		_, err := lookup(context.Background(), s, "greeting", func() ([]byte, error) {
			misses++
			return []byte("hello"), nil
		})
		if err != nil {
			return err
		}
	}
	_, _ = fmt.Fprintf(w, "%d lookups found nothing and filled a cache\n", misses)
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}

// conn is one memcached connection: a socket and its buffered reader, which must stay together.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// errMiss is an answer that leaves the connection as good as before.
var errMiss = errors.New("cache miss")

func newDriver() pooly.Driver {
	tcp := pooly.NewNetDriver("tcp")
	tcp.SetReadTimeout(100 * time.Millisecond) // a cache that takes longer is none
	return pooly.DriverOf(pooly.DriverFuncs[*conn]{
		Dial: func(ctx context.Context, address string) (*conn, error) {
			c, err := tcp.Dial(ctx, address)
			if err != nil {
				return nil, err
			}
			return &conn{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
		},
		Test: func(c *conn) error {
			if n := c.r.Buffered(); n > 0 { // or the next caller would read it
				return fmt.Errorf("%d bytes of a reply that nobody read", n)
			}
			return nil
		},
	})
}

// get returns the value of a key, or errMiss.
func (c *conn) get(key string) (value []byte, err error) {
	if _, err := fmt.Fprintf(c, "get %s\r\n", key); err != nil {
		return nil, err
	}
	line, err := c.r.ReadString('\n')
	switch {
	case err != nil:
		return nil, err
	case line == "END\r\n":
		return nil, errMiss
	}
	var name string
	var flags, size int
	if _, err := fmt.Sscanf(line, "VALUE %s %d %d", &name, &flags, &size); err != nil {
		return nil, fmt.Errorf("memcached answered %q", line)
	}
	value = make([]byte, size+len("\r\nEND\r\n"))
	_, err = io.ReadFull(c.r, value)
	return value[:size], err
}

// set stores a value for an hour.
func (c *conn) set(key string, value []byte) error {
	if _, err := fmt.Fprintf(c, "set %s 0 3600 %d\r\n%s\r\n", key, len(value), value); err != nil {
		return err
	}
	line, err := c.r.ReadString('\n')
	if err == nil && line != "STORED\r\n" {
		err = fmt.Errorf("memcached answered %q", line)
	}
	return err
}
