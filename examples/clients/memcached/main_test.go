package main

import (
	"errors"
	"sync/atomic"
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
	real.RunWithStandIns(t, run, standin.Memcached)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Memcached(t))
}

// Each cache is filled, and lookups do not notice that one of them is killed under them.
func TestLookupsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Memcached(t)
	s := newService(real.Addresses(servers)...)
	defer func() { _ = s.Close() }()
	var misses atomic.Int64
	require.NoError(t, demo.Load(4000, servers[1].Kill, func() error {
		value, err := lookup(t.Context(), s, "greeting", func() ([]byte, error) {
			misses.Add(1)
			return []byte("hello"), nil
		})
		if err == nil && string(value) != "hello" {
			return errors.New("wrong value: " + string(value))
		}
		return err
	}))
	require.GreaterOrEqual(t, misses.Load(), int64(3), "each cache had to be filled")
	require.LessOrEqual(t, misses.Load(), int64(24), "and then had it; eight may miss at a time")
}

func TestWhatCannotBeLoadedIsNotTheCachesFault(t *testing.T) {
	s := newService(real.Addresses(real.Memcached(t))...)
	defer func() { _ = s.Close() }()
	errLoad := errors.New("the database is down")
	for range 30 {
		_, err := lookup(t.Context(), s, "missing", func() ([]byte, error) { return nil, errLoad })
		require.ErrorIs(t, err, errLoad)
	}
	for _, h := range s.Stats().Hosts {
		require.False(t, h.Ejected, h.Address)
		require.LessOrEqual(t, h.Dials, uint64(2), h.Address)
	}
}
