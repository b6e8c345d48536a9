package main

import (
	"runtime"
	"sync"
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

// The client's own pool is larger than pooly's default of MaxConns, and must not wait for it.
func TestManyGoroutinesOverTheDefaultsAreServed(t *testing.T) {
	servers := real.Redis(t)[:1]
	s := pooly.NewService("redis", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	client := redis.NewClient(&redis.Options{Dialer: s.DialContext, PoolSize: 320})
	defer func() { _ = client.Close() }()
	var wg sync.WaitGroup
	errs := make(chan error, 200)
	for range 200 {
		wg.Go(func() {
			for range 50 {
				if err := client.Get(t.Context(), "greeting").Err(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	require.NoError(t, <-errs)
	require.Greater(t, s.Stats().InUse, pooly.DefaultMaxConns, "the test had too few connections to tell")
}

func BenchmarkManyGoroutines(b *testing.B) {
	address := real.Redis(b)[0].Address
	for _, over := range []string{"go-redis alone", "DialContext"} {
		b.Run(over, func(b *testing.B) {
			options := &redis.Options{Addr: address, PoolSize: 320}
			if over == "DialContext" {
				s := pooly.NewService("redis", nil)
				defer func() { _ = s.Close() }()
				s.Add(address)
				options.Dialer = s.DialContext
			}
			client := redis.NewClient(options)
			defer func() { _ = client.Close() }()
			b.SetParallelism(200 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := client.Get(b.Context(), "greeting").Err(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// Connections come back to a server that was down, and leave one that is removed, and no command fails for that.
func TestConnectionsComeBackToARealServer(t *testing.T) {
	servers := real.Redis(t)
	s := pooly.NewService("redis", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	client := redis.NewClient(&redis.Options{Dialer: s.DialContext, MaxRetries: -1}) // repetitions would hide a failure
	defer func() { _ = client.Close() }()
	once := func() error { return client.Get(t.Context(), "greeting").Err() }
	require.NoError(t, demo.Load(1000, servers[1].Kill, func() (err error) {
		for range 20 {
			if err = once(); err == nil {
				break
			}
		}
		return err
	}))
	servers[1].Restart(t)
	real.ComesBack(t, s, servers[1].Address, once)
	s.Remove(servers[0].Address)
	require.NoError(t, demo.Load(1000, func() {}, once))
}

// The client's commands do not notice that one of the servers is killed under them.
func TestReadsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Redis(t)
	s := pooly.NewService("redis", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(real.Addresses(servers)...)
	client := newClient(s)
	defer func() { _ = client.Close() }()
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
