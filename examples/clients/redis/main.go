// Redis reads from a Redis server and its replicas, over connections in pooly's own pools: each read goes to the
// server that answers soonest, and one that is down costs nothing but a repetition.
//
// Without arguments it starts three servers in the process, and stops one of them halfway:
//
//	go -C examples/clients run ./redis
//
// Given addresses, it reads from what listens there:
//
//	redis-server --port 6379 & redis-server --port 6380 --replicaof 127.0.0.1 6379 &
//	redis-cli set greeting hello
//	go -C examples/clients run ./redis 127.0.0.1:6379 127.0.0.1:6380
//
// The protocol is in resp.go: a driver of a hundred lines, most of them to read replies.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

// newService returns a service of Redis servers. A server that says nothing for half a second is left for another.
func newService(addresses ...string) *pooly.Service {
	net := pooly.NewNetDriver("tcp")
	net.SetReadTimeout(500 * time.Millisecond)
	s := pooly.NewService("redis", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: driver{net}},
		BanditStrategy: pooly.NewLeastLatency(),
	})
	s.SetHosts(addresses...)
	return s
}

// read runs a command that changes nothing, so that it may be repeated on another server.
func read(ctx context.Context, s *pooly.Service, args ...string) (reply any, err error) {
	err = s.Do(ctx, func(c *pooly.Conn) error {
		reply, err = c.Interface().(*conn).do(args...)
		if errors.As(err, new(replyError)) {
			return err // another server would say the same
		}
		return pooly.Retry(err)
	})
	return reply, err
}

func run(w io.Writer, addresses ...string) error {
	servers, addresses := standin.Start(addresses, standin.Redis)
	defer servers.StopAll()
	s := newService(addresses...)
	defer s.Close()

	greeting, err := read(context.Background(), s, "GET", "greeting")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "greeting is %q\n", greeting)
	err = demo.Load(10_000, servers.StopOne, func() error {
		_, err := read(context.Background(), s, "GET", "greeting")
		return err
	})
	demo.Report(w, s)
	return err
}
