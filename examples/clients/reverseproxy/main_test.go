package main

import (
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Nginx(t))
}

// The balancer's clients do not notice that a backend is killed, and all backends have their part.
func TestClientsDoNotNoticeThatABackendIsKilled(t *testing.T) {
	servers := real.Nginx(t)
	balancer, s := newBalancer(real.Addresses(servers)...)
	defer s.Close()
	front := httptest.NewServer(balancer)
	defer front.Close()
	var seen sync.Map
	require.NoError(t, demo.Load(3000, servers[1].Kill, func() error {
		port, err := get(front.Client(), front.URL)
		seen.Store("127.0.0.1:"+strings.TrimSpace(port), true)
		return err
	}))
	for _, server := range servers {
		_, ok := seen.Load(server.Address)
		require.True(t, ok, "%s was asked", server.Address)
	}
}
