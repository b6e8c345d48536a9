// Goredis puts pooly under go-redis: the client keeps its own pool, and pooly chooses the server of each connection
// and learns from what happens on it.
//
// Without arguments it starts three servers in the process, and stops one of them halfway:
//
//	go -C examples/clients run ./goredis
//
// Given addresses, it reads from what listens there:
//
//	redis-server --port 6379 & redis-server --port 6380 --replicaof 127.0.0.1 6379 &
//	redis-cli set greeting hello
//	go -C examples/clients run ./goredis 127.0.0.1:6379 127.0.0.1:6380
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/redis/go-redis/v9"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newClient returns a client that is connected by the service. It repeats a command that failed, up to three times,
// and gives connections up after a while, so that the strategy gets to choose again.
func newClient(s *pooly.Service) *redis.Client {
	return redis.NewClient(&redis.Options{
		Dialer:          s.DialContext,
		PoolSize:        8,
		ConnMaxLifetime: time.Minute,
		ReadTimeout:     500 * time.Millisecond,
	})
}

func run(w io.Writer, addresses ...string) error {
	servers, addresses := standin.Start(addresses, standin.Redis)
	defer servers.StopAll()
	s := pooly.NewService("redis", nil)
	defer s.Close()
	s.SetHosts(addresses...)
	client := newClient(s)
	defer client.Close() // before the service, which would wait for its connections

	greeting, err := client.Get(context.Background(), "greeting").Result()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "greeting is %q\n", greeting)
	err = demo.Load(10_000, servers.StopOne, func() error {
		return client.Get(context.Background(), "greeting").Err()
	})
	demo.Report(w, s)
	return err
}
