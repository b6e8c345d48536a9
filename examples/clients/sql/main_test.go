package main

import (
	"sync"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, standin.Postgres)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Postgres(t))
}

// Queries go to all servers, and reads do not notice that one of them is killed under them.
func TestReadsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Postgres(t)
	s := newService(real.Addresses(servers)...)
	defer func() { _ = s.Close() }()
	db := poolysql.Open(s)
	defer func() { _ = db.Close() }()
	var mu sync.Mutex
	seen := make(map[string]int)
	require.NoError(t, demo.Load(2000, servers[1].Kill, func() error {
		port, err := read(t.Context(), db, "select current_setting('port')")
		mu.Lock()
		defer mu.Unlock()
		seen["127.0.0.1:"+port]++
		return err
	}))
	for _, server := range servers {
		require.Positive(t, seen[server.Address], server.Address)
	}
}
