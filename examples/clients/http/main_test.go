package main

import (
	"strings"
	"sync"
	"testing"

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
	real.RunWithStandIns(t, run, standin.HTTP)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Nginx(t))
}

// Every request is answered although a server is killed under them, and all servers have their part.
func TestRequestsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Nginx(t)
	s := newService(real.Addresses(servers)...)
	defer func() { _ = s.Close() }()
	client := newClient(s)
	var seen sync.Map
	require.NoError(t, demo.Load(4000, servers[1].Kill, func() error {
		port, err := get(client, "http://web/")
		seen.Store("127.0.0.1:"+strings.TrimSpace(port), true)
		return err
	}))
	for _, server := range servers {
		_, ok := seen.Load(server.Address)
		require.True(t, ok, "%s was asked", server.Address)
	}
}
