package pooly_test

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func minIdle(n int, more pooly.PoolConfig) pooly.ServiceConfig {
	more.MinIdle = n
	return pooly.ServiceConfig{PoolConfig: more}
}

// Connections dialled in advance were only there at the beginning.
func TestMinIdleConnectionsAreThereAgain(t *testing.T) {
	t.Run("after MaxConnLifetime", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, minIdle(5, pooly.PoolConfig{MaxConnLifetime: time.Minute}), "a")
			time.Sleep(5 * time.Second)
			require.Equal(t, 5, s.Stats().Idle)
			for range 600 {
				time.Sleep(time.Second)
				synctest.Wait() // one may be looked at just now
				require.GreaterOrEqual(t, s.Stats().Idle, 5)
			}
			require.Less(t, d.host("a").dials, 5*(10+4), "one for each that expires, a bit earlier")
			require.LessOrEqual(t, d.host("a").peak, 10)
		})
	})
	t.Run("after ConnIdleTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, minIdle(5, pooly.PoolConfig{ConnIdleTimeout: time.Minute}), "a")
			idle(t, s, 20)
			for range 600 {
				time.Sleep(time.Second)
				synctest.Wait() // one may be looked at just now
				require.GreaterOrEqual(t, s.Stats().Idle, 5)
			}
			require.LessOrEqual(t, s.Stats().Idle, 10, "those that nobody needs are gone")
			require.Less(t, d.host("a").dials, 20+5*(10+4))
		})
	})
	t.Run("at a host that was down when it was added", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, minIdle(5, pooly.PoolConfig{}))
			d.refuse("a")
			s.Add("a")
			time.Sleep(5 * time.Minute)
			require.True(t, hostStats(t, s, "a").Ejected)
			require.Less(t, d.host("a").dials, 60, "probes alone")
			d.accept("a")
			time.Sleep(15 * time.Second)
			require.Equal(t, 5, s.Stats().Idle)
		})
	})
	t.Run("after an ejection", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, minIdle(5, pooly.PoolConfig{}), "a", "b")
			time.Sleep(5 * time.Second)
			s.Report("a", syscall.ECONNRESET)
			time.Sleep(5 * time.Second)
			require.Equal(t, 5, hostStats(t, s, "a").Idle)
		})
	})
	t.Run("while others are leased", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, minIdle(5, pooly.PoolConfig{MaxConns: 12}), "a")
			time.Sleep(5 * time.Second)
			var leases []*pooly.Conn
			for range 5 {
				leases = append(leases, get(t, s))
			}
			time.Sleep(5 * time.Second)
			require.Equal(t, 5, s.Stats().Idle)
			for range 5 {
				leases = append(leases, get(t, s))
			}
			time.Sleep(5 * time.Second)
			require.Equal(t, 2, s.Stats().Idle, "MaxConns bounds them")
			for _, c := range leases {
				release(t, c)
			}
		})
	})
	t.Run("in a pool used alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newFakeDriver()
			p := pooly.NewPool("a", &pooly.PoolConfig{Driver: d, MinIdle: 3, ConnIdleTimeout: time.Minute})
			time.Sleep(5 * time.Minute)
			require.GreaterOrEqual(t, p.Stats().Idle, 3)
			require.NoError(t, p.Close())
			require.Zero(t, d.host("a").open)
		})
	})
}

func TestBurstAfterAQuietHourFindsMinIdleConnections(t *testing.T) {
	for name, config := range map[string]pooly.PoolConfig{
		"without ages":    {},
		"ConnIdleTimeout": {ConnIdleTimeout: time.Minute},
		"MaxConnLifetime": {MaxConnLifetime: 5 * time.Minute},
		"both":            {ConnIdleTimeout: 2 * time.Minute, MaxConnLifetime: 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, minIdle(10, config), "a")
				for i := range 12 { // at many moments of the connections' lives
					time.Sleep(time.Hour + time.Duration(i)*7*time.Second)
					d.slow("a", time.Second) // so that a dial on the way shows
					began := time.Now()
					var leases []*pooly.Conn
					for range 10 {
						leases = append(leases, get(t, s))
					}
					require.Zero(t, time.Since(began))
					for _, c := range leases {
						release(t, c)
					}
					d.slow("a", 0)
				}
			})
		})
	}
}

func TestMinIdleIsFilledGradually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, minIdle(10, pooly.PoolConfig{}), "a", "b")
		for _, a := range []string{"a", "b"} {
			d.slow(a, 10*time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, 20, s.Stats().Idle)
		for _, a := range []string{"a", "b"} {
			at := d.host(a).at
			gaps := make(map[time.Duration]bool)
			for i := range at[1:] {
				gap := at[i+1].Sub(at[i])
				require.GreaterOrEqual(t, gap, 100*time.Millisecond)
				gaps[gap] = true
			}
			require.Greater(t, len(gaps), 1, "they come at random")
			require.Less(t, at[len(at)-1].Sub(at[0]), 4*time.Second)
		}
	})
}

func TestMinIdleLeavesHostsInTroubleAlone(t *testing.T) {
	t.Run("at its own limit of connections", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, minIdle(5, pooly.PoolConfig{}), "a")
			time.Sleep(100 * time.Millisecond)
			held := get(t, s)
			d.refuse("a")
			before := d.host("a").dials
			for range 600 {
				release(t, held) // so that the host is not ejected
				held = get(t, s)
				time.Sleep(100 * time.Millisecond)
			}
			require.LessOrEqual(t, d.host("a").dials-before, 7, "one in ten seconds")
			release(t, held)
		})
	})
	t.Run("requests time out", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, minIdle(8, pooly.PoolConfig{}), "a")
			time.Sleep(5 * time.Second)
			var leases []*pooly.Conn
			for range 8 {
				leases = append(leases, get(t, s))
			}
			for _, c := range leases {
				require.NoError(t, c.Release(context.DeadlineExceeded, pooly.HostDown))
			}
			require.Positive(t, hostStats(t, s, "a").Limit)
			require.Less(t, hostStats(t, s, "a").Limit, 30)
			time.Sleep(5 * time.Second)
			require.Equal(t, 8, d.host("a").dials)
			time.Sleep(15 * time.Second)
			require.Equal(t, 8, s.Stats().Idle, "once the limit is lifted")
		})
	})
	t.Run("removed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, minIdle(5, pooly.PoolConfig{}), "a", "b")
			time.Sleep(5 * time.Second)
			s.Remove("a")
			time.Sleep(time.Minute)
			require.Equal(t, 5, d.host("a").dials)
			require.Zero(t, d.host("a").open)
		})
	})
}

func TestMinIdleCountsTheConnectionThatIsPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d := newPingService(t, minIdle(3, pooly.PoolConfig{}), func(context.Context, *fakeConn) error {
			time.Sleep(3 * time.Second)
			return nil
		}, "a")
		time.Sleep(time.Hour)
		require.Equal(t, 3, d.host("a").dials)
	})
}

// Connections of DialContext are the client's.
func TestDialContextHasNoMinIdle(t *testing.T) {
	address := listen(t, echo)
	var dials atomic.Int32
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	s := pooly.NewService("test", &pooly.ServiceConfig{
		PrespawnConns: -1,
		PoolConfig:    pooly.PoolConfig{Driver: d, MinIdle: 3},
	})
	defer func() { require.NoError(t, s.Close()) }()
	s.Add(address)
	eventually(t, func() bool { return s.Stats().Idle == 3 })
	c, err := s.DialContext(t.Context(), "", "")
	require.NoError(t, err)
	eventually(t, func() bool { return s.Stats().Open == 1 })
	before := dials.Load()
	time.Sleep(1500 * time.Millisecond) // longer than the reaper's round
	require.Equal(t, before, dials.Load())
	require.NoError(t, c.Close())
}

func TestConnectionsBeyondMaxIdleAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxIdle: 3, MaxConns: 10}}, "a")
		idle(t, s, 10)
		synctest.Wait()
		require.Equal(t, 3, s.Stats().Idle)
		require.Equal(t, 3, d.host("a").open)
		for range 100 {
			release(t, get(t, s))
		}
		require.Equal(t, 10, d.host("a").dials, "those that are kept serve")
		require.Equal(t, s.Stats().Gets, s.Stats().Puts)
	})
}

func TestCallerWhoWaitsGetsAConnectionBeyondMaxIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxIdle: 1, MaxConns: 2}}, "a")
		first, second := get(t, s), get(t, s)
		served := make(chan error)
		for range 10 {
			go func() {
				c, err := s.GetConn()
				if err == nil {
					time.Sleep(time.Millisecond)
					err = c.Release(nil, pooly.HostUp)
				}
				served <- err
			}()
		}
		synctest.Wait()
		release(t, first)
		release(t, second)
		for range 10 {
			require.NoError(t, <-served)
		}
		synctest.Wait()
		require.Equal(t, 2, d.host("a").dials)
		require.Equal(t, 1, s.Stats().Idle)
	})
}

func TestConnectionsDialledInAdvanceHeedMaxIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			PrespawnConns: 5, PoolConfig: pooly.PoolConfig{MaxIdle: 2},
		}, "a")
		time.Sleep(time.Second)
		require.Equal(t, 2, s.Stats().Open)
	})
}

// Replacements that are dialled early would be closed for being too many, and dialled again.
func TestMinIdleAndMaxIdleMayBeEqual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, minIdle(5, pooly.PoolConfig{MaxIdle: 5, MaxConnLifetime: time.Minute}), "a")
		time.Sleep(10 * time.Minute)
		require.LessOrEqual(t, d.host("a").dials, 5*13)
		require.GreaterOrEqual(t, s.Stats().Idle, 4)
		require.LessOrEqual(t, s.Stats().Idle, 5)
	})
}

func TestValidateNamesImpossibleNumbersOfIdleConnections(t *testing.T) {
	for field, config := range map[string]pooly.ServiceConfig{
		"MinIdle -1":                      {PoolConfig: pooly.PoolConfig{MinIdle: -1}},
		"MaxIdle -1":                      {PoolConfig: pooly.PoolConfig{MaxIdle: -1}},
		"MinIdle 3 is more than MaxConns": {PoolConfig: pooly.PoolConfig{MinIdle: 3, MaxConns: 2}},
		"MinIdle 3 is more than MaxIdle":  {PoolConfig: pooly.PoolConfig{MinIdle: 3, MaxIdle: 2}},
		"CheckInterval -1ns":              {CheckInterval: -1},
	} {
		err := config.Validate()
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.ErrorContains(t, err, field)
	}
	ok := pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MinIdle: 40, MaxIdle: 40, KeepAlive: -1}}
	require.NoError(t, ok.Validate())
}
