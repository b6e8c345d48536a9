// Grpcbalancer has pooly choose the server of each gRPC call, by two lines: the import of poolygrpc,
// and the channel's service config. Example grpc puts pooly under channels instead, where it chooses
// the server of each connection.
//
// It checks the health of what listens there, such as etcd:
//
//	etcd & go -C examples/clients run ./grpcbalancer 127.0.0.1:2379
package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	_ "github.com/3XX0/pooly/poolygrpc" // registers the policy "pooly"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// serviceConfig names the policy. The retry policy is gRPC's: it repeats calls whose server is gone,
// so it is for calls that may be made twice. pooly chooses the server of each attempt.
const serviceConfig = `{
	"loadBalancingConfig": [{"pooly": {"strategy": "least_latency"}}],
	"methodConfig": [{
		"name": [{"service": "grpc.health.v1.Health"}],
		"retryPolicy": {
			"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
			"retryableStatusCodes": ["UNAVAILABLE"]
		}
	}]
}`

// newChannel returns a channel to servers at fixed addresses. With a target such as
// "dns:///orders.example.com:443" it needs no resolver of its own.
func newChannel(addresses ...string) (*grpc.ClientConn, error) {
	var state resolver.State
	for _, a := range addresses {
		state.Endpoints = append(state.Endpoints,
			resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	list := manual.NewBuilderWithScheme("list")
	list.InitialState(state)
	return grpc.NewClient("list:///health",
		grpc.WithResolvers(list),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig))
}

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

func run(w io.Writer, addresses ...string) error {
	channel, err := newChannel(addresses...)
	if err != nil {
		return err
	}
	defer channel.Close()
	client := grpc_health_v1.NewHealthClient(channel)
	answered := make(map[string]int)
	for range 1000 {
		var server peer.Peer
		_, err := client.Check(context.Background(), &grpc_health_v1.HealthCheckRequest{},
			grpc.WaitForReady(true), grpc.Peer(&server))
		if err != nil {
			return err
		}
		answered[server.Addr.String()]++
	}
	for _, a := range slices.Sorted(maps.Keys(answered)) {
		fmt.Fprintf(w, "%s answered %d calls\n", a, answered[a])
	}
	return nil
}
