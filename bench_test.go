package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// nopDriver connects to nothing at no cost, so that a benchmark sees only the pool.
type nopDriver struct{}

func (nopDriver) Dial(context.Context, string) (*pooly.Conn, error) { return pooly.NewConn(nil), nil }
func (nopDriver) Close(*pooly.Conn)                                 {}
func (nopDriver) TestOnBorrow(*pooly.Conn) error                    { return nil }
func (nopDriver) Temporary(error) bool                              { return false }

// BenchmarkGetConnRelease is the cost of one GetConn and Release with metrics off, for each
// strategy at 3, 100 and 10,000 hosts: to be read across the hosts (it must not grow but for cache
// misses) and for its allocations (one, the lease).
func BenchmarkGetConnRelease(b *testing.B) {
	for _, strategy := range strategies {
		for _, hosts := range []int{3, 100, 10_000} {
			name := fmt.Sprintf("%s/hosts=%d", strategy.name, hosts)
			b.Run(name+"/sequential", func(b *testing.B) {
				s := benchService(b, strategy.make(), hosts)
				b.ReportAllocs()
				for b.Loop() {
					cycle(b, s)
				}
			})
			b.Run(name+"/parallel", func(b *testing.B) {
				s := benchService(b, strategy.make(), hosts)
				b.ReportAllocs()
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						cycle(b, s)
					}
				})
			})
		}
	}
}

// benchService returns a service whose hosts all have a connection.
func benchService(b *testing.B, strategy pooly.Bandit, hosts int) *pooly.Service {
	b.Helper()
	s := pooly.NewService("bench", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: nopDriver{}},
		BanditStrategy: strategy,
	})
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	for i := range hosts {
		s.Add(strconv.Itoa(i))
	}
	for s.Stats().Idle < hosts {
		cycle(b, s)
	}
	return s
}

func cycle(b *testing.B, s *pooly.Service) {
	c, err := s.GetConn()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Release(nil, pooly.HostUp); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTryLeaseInOverload is the cost of a TryLease that finds no room at any host.
func BenchmarkTryLeaseInOverload(b *testing.B) {
	for _, hosts := range []int{100, 10_000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			config := pooly.ServiceConfig{PrespawnConns: -1}
			config.Driver, config.MaxConns = nopDriver{}, 1
			s := pooly.NewService("bench", &config)
			for i := range hosts {
				s.Add(strconv.Itoa(i))
			}
			leases := make([]*pooly.Conn, hosts)
			for i := range leases {
				var err error
				leases[i], err = s.TryLease(b.Context())
				require.NoError(b, err)
			}
			for b.Loop() {
				if _, err := s.TryLease(b.Context()); !errors.Is(err, pooly.ErrOverloaded) {
					b.Fatal(err)
				}
			}
			for _, c := range leases {
				require.NoError(b, c.End())
			}
			require.NoError(b, s.Close())
		})
	}
}

// BenchmarkFatalRelease is a GetConn that dials and a Release that closes, both at no cost: what a connection's life
// costs the pool.
func BenchmarkFatalRelease(b *testing.B) {
	s := pooly.NewService("bench", &pooly.ServiceConfig{
		PoolConfig:          pooly.PoolConfig{Driver: nopDriver{}},
		ConsecutiveFailures: -1,
		PrespawnConns:       -1,
	})
	defer s.Close()
	s.Add("a")
	churn := func(b *testing.B) {
		c, err := s.GetConn()
		if err != nil {
			b.Error(err)
			return
		}
		_ = c.CloseOnRelease()
		_ = c.Release(nil, pooly.HostUp)
	}
	b.Run("sequential", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			churn(b)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				churn(b)
			}
		})
	})
}
