// Goredis puts pooly under go-redis: the client keeps its own pool, and pooly chooses the server of each connection
// and learns from what happens on it.
//
// All hosts of a service must be equal: here, replicas that are read. For writes, make a second service that has only
// the primary, and a second client over it. Keys that are spread over servers need redis.NewClusterClient or
// redis.NewRing, and not pooly.
//
// It reads from what listens there:
//
//	redis-server --port 6379 & redis-server --port 6380 --replicaof 127.0.0.1 6379 &
//	redis-cli set greeting hello
//	go -C examples/clients run ./goredis 127.0.0.1:6379 127.0.0.1:6380
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/3XX0/pooly"
	"github.com/redis/go-redis/v9"
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

// newClient returns a client that is connected by the service. It repeats a command that failed, up to three times,
// writes too. For commands that must not run twice, set MaxRetries to -1.
//
// When a host was removed, added or restored, an idle connection that should move is replaced before its next command.
// The client finds that out by itself. If Dialer adds TLS, the client cannot: set ConnMaxLifetime then.
func newClient(s *pooly.Service) *redis.Client {
	return redis.NewClient(&redis.Options{
		Dialer:      s.DialContext,
		ReadTimeout: 500 * time.Millisecond,
	})
}

var errNoGreeting = errors.New("no greeting: set one with redis-cli, and give the replica some seconds to copy it")

func run(w io.Writer, addresses ...string) error {
	s := pooly.NewService("redis", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(addresses...)
	client := newClient(s)
	defer func() { _ = client.Close() }() // before the service, which would wait for its connections

	greeting, err := client.Get(context.Background(), "greeting").Result()
	if errors.Is(err, redis.Nil) {
		return errNoGreeting
	}
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(w, "greeting is %q\n", greeting)

	for range 1000 {
		if err := client.Get(context.Background(), "greeting").Err(); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}
