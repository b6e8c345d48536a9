package poolygrpc_test

import _ "github.com/3XX0/pooly/poolygrpc"

import (
	"sync/atomic"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolygrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
)

// The code of docs/GRPC.md. A test in docs compares them.

func connect(credentials grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("dns:///orders.example.com:443", credentials,
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pooly":{}}]}`))
	return conn, err
}

type Mine struct{ pooly.Bandit }

var orders atomic.Pointer[pooly.Service]

func build() {
	balancer.Register(poolygrpc.Builder{
		Policy:    "mine",
		Configure: func(c *pooly.ServiceConfig) { c.BanditStrategy = new(Mine) },
		Started:   func(s *pooly.Service) { orders.Store(s) }, // for metrics and Stats
	})
}

var _ = []any{connect, build}
