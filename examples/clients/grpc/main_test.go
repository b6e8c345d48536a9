package main

import (
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, standin.GRPC)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Etcd(t))
}

// Calls do not notice that one of the servers, each an etcd, is killed under them.
func TestCallsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Etcd(t)
	s := pooly.NewService("health", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	channels, err := newChannels(s, 6)
	require.NoError(t, err)
	defer channels.close()
	require.NoError(t, demo.Load(2000, servers[1].Kill, func() error { return channels.check(t.Context()) }))
	for _, h := range s.Stats().Hosts {
		require.NotZero(t, h.Gets, h.Address)
	}
}
