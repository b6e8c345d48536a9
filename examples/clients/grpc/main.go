// Grpc puts pooly under gRPC channels: pooly chooses the server of each connection, and another when that fails. A
// channel has one connection for all its calls, so a few channels spread them.
//
// Example grpcbalancer has pooly choose for each call, which is what most programs want. This one is for
// when the rest of a program finds and rates its hosts by pooly.
//
// It checks the health of what listens there, such as etcd:
//
//	etcd & go -C examples/clients run ./grpc 127.0.0.1:2379
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"

	"github.com/3XX0/pooly"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
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

// channels are some connections to a service, used in turn.
type channels struct {
	all  []*grpc.ClientConn
	next atomic.Uint64
}

func newChannels(s *pooly.Service, n int) (*channels, error) {
	c := new(channels)
	for range n {
		channel, err := grpc.NewClient("passthrough:///"+s.Name(), // the name is never looked up
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return s.DialContext(ctx, "", "")
			}))
		if err != nil {
			c.close()
			return nil, err
		}
		c.all = append(c.all, channel)
	}
	return c, nil
}

func (c *channels) pick() *grpc.ClientConn {
	return c.all[c.next.Add(1)%uint64(len(c.all))]
}

func (c *channels) close() {
	for _, channel := range c.all {
		_ = channel.Close()
	}
}

// check asks a server whether it is well. The question may be repeated, so it is if a connection breaks under it.
func (c *channels) check(ctx context.Context) (err error) {
	for range 3 {
		client := grpc_health_v1.NewHealthClient(c.pick())
		_, err = client.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		if status.Code(err) != codes.Unavailable {
			break
		}
	}
	return err
}

func run(w io.Writer, addresses ...string) error {
	s := pooly.NewService("health", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(addresses...)
	channels, err := newChannels(s, 6)
	if err != nil {
		return err
	}
	defer channels.close() // before the service, which would wait for their connections

	for range 1000 {
		if err := channels.check(context.Background()); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}
