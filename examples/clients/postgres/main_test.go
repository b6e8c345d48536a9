package main

import (
	"fmt"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/jackc/pgx/v5/pgxpool"
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

// Reads go to all servers, and do not notice that one of them is killed under them.
func TestReadsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Postgres(t)
	s := pooly.NewService("postgres", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	pool, err := newPool(t.Context(), s)
	require.NoError(t, err)
	defer pool.Close()
	seen := make(map[string]bool)
	held := make([]*pgxpool.Conn, 6) // connections go to the servers in turn
	for i := range held {
		held[i], err = pool.Acquire(t.Context())
		require.NoError(t, err)
		var port string
		require.NoError(t, held[i].QueryRow(t.Context(), "select current_setting('port')").Scan(&port))
		seen["127.0.0.1:"+port] = true
	}
	for i, server := range servers {
		require.True(t, seen[server.Address], "%s was asked", server.Address)
		held[2*i].Release()
		held[2*i+1].Release()
	}
	require.NoError(t, demo.Load(2000, servers[1].Kill, func() error {
		port, err := read[string](t.Context(), pool, "select current_setting('port') where $1::int = 42", 42)
		if err == nil && !seen["127.0.0.1:"+port] {
			err = fmt.Errorf("answer from nowhere: %s", port)
		}
		return err
	}))
}

// Connections come back to a server that was down, and leave one that is removed, and no query fails for that.
func TestConnectionsComeBackToARealServer(t *testing.T) {
	servers := real.Postgres(t)
	s := pooly.NewService("postgres", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	pool, err := newPool(t.Context(), s)
	require.NoError(t, err)
	defer pool.Close()
	once := func() error {
		var n int
		return pool.QueryRow(t.Context(), "select 42").Scan(&n)
	}
	require.NoError(t, demo.Load(500, servers[1].Kill, func() error {
		_, err := read[int](t.Context(), pool, "select 42")
		return err
	}))
	servers[1].Restart(t)
	real.ComesBack(t, s, servers[1].Address, once)
	s.Remove(servers[0].Address)
	require.NoError(t, demo.Load(500, func() {}, once))
}
