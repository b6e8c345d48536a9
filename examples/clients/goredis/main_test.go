package main

import (
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, standin.Redis)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Redis(t))
}

// The client's commands do not notice that one of the servers is killed under them.
func TestReadsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Redis(t)
	s := pooly.NewService("redis", nil)
	defer s.Close()
	s.SetHosts(real.Addresses(servers)...)
	client := newClient(s)
	defer client.Close()
	held := make([]*redis.Conn, 6) // connections go to the servers in turn
	for i := range held {
		held[i] = client.Conn()
		require.NoError(t, held[i].Ping(t.Context()).Err())
	}
	for _, c := range held {
		require.NoError(t, c.Close()) // gives it back
	}
	require.NoError(t, demo.Load(4000, servers[1].Kill, func() error {
		return client.Get(t.Context(), "greeting").Err()
	}))
	for _, h := range s.Stats().Hosts {
		require.NotZero(t, h.Gets, h.Address)
		require.Equal(t, h.Address == servers[1].Address, h.InUse == 0, h.Address)
	}
}
