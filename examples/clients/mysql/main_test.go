package main

import (
	"fmt"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.MariaDB(t))
}

// Reads do not notice that one of the servers is killed under them, and come back to it.
func TestReadsGoOnAndComeBackWhenARealServerIsKilledAndRestarted(t *testing.T) {
	servers := real.MariaDB(t)
	s := pooly.NewService("mysql", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	db, err := open(s)
	require.NoError(t, err)
	defer func() { _ = db.Close() }()
	load := func(n int, halfway func()) error {
		return demo.Load(n, halfway, func() error {
			n, err := read[int](t.Context(), db, "select 41 + ?", 1)
			if err == nil && n != 42 {
				err = fmt.Errorf("got %d", n)
			}
			return err
		})
	}
	require.NoError(t, load(2000, servers[1].Kill))
	servers[1].Restart(t)
	// Nothing may fail now, and nothing is repeated: each query once.
	query := func() error {
		var n int
		return db.QueryRowContext(t.Context(), "select 42").Scan(&n)
	}
	real.ComesBack(t, s, servers[1].Address, query)

	s.Remove(servers[0].Address)
	require.NoError(t, demo.Load(500, func() {}, query))
}
