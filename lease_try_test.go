package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Tests of TryLease and Report.

func tryLease(t *testing.T, s *pooly.Service) *pooly.Conn {
	t.Helper()
	c, err := s.TryLease(t.Context())
	require.NoError(t, err)
	return c
}

func TestTryLeaseDialsAndNeverWaitsForALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.ServiceConfig{PrespawnConns: -1, PoolConfig: pooly.PoolConfig{MaxConns: 2}}
		s, _ := newService(t, config, "a", "b")
		began := time.Now()
		var leases []*pooly.Conn
		for range 4 {
			leases = append(leases, tryLease(t, s))
		}
		_, err := s.TryLease(t.Context())
		require.ErrorIs(t, err, pooly.ErrOverloaded)
		require.Zero(t, time.Since(began))
		require.EqualValues(t, 1, s.Stats().GetFailures)
		require.EqualValues(t, 2, hostStats(t, s, "a").InUse)
		release(t, leases[1])
		c := tryLease(t, s)
		require.Equal(t, leases[1].Address(), c.Address(), "the only host with room")
		require.Same(t, fakeOf(leases[1]), fakeOf(c))
		for _, c := range append(leases, c) {
			_ = c.End()
		}
		require.NoError(t, s.Close())
		_, err = s.TryLease(t.Context())
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
	})
}

func TestTryLeaseGoesToAnotherHostIfADialFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.ServiceConfig{PrespawnConns: -1, BanditStrategy: inOrder{"a"}}
		s, d := newService(t, config, "a", "b")
		d.refuse("a")
		require.Equal(t, "b", tryLease(t, s).Address())
		require.True(t, hostStats(t, s, "a").Ejected)
	})
}

// Ejected hosts are all that is left, so they are tried, before their probes are due.
func TestTryLeaseDialsEjectedHostsIfNoneIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: -1}, "a", "b")
		d.refuse("a", "b")
		_, err := s.TryLease(t.Context())
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		d.accept("b")
		require.Equal(t, "b", tryLease(t, s).Address())
		require.False(t, hostStats(t, s, "b").Ejected)
		require.True(t, hostStats(t, s, "a").Ejected)
	})
}

func TestTryLeaseTellsTheDriverThatItDialsAnEjectedHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, fake, probes := notingProbes()
		config := pooly.ServiceConfig{PrespawnConns: -1, PoolConfig: pooly.PoolConfig{Driver: d}}
		s := pooly.NewService("test", &config)
		s.Add("a")
		fake.refuse("a")
		_, err := s.TryLease(t.Context())
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.False(t, <-probes)
		require.True(t, <-probes)
		require.Empty(t, probes, "one dial of each kind is enough")
		require.NoError(t, s.Close())
	})
}

func TestTryLeaseHeedsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: -1}, "a")
		d.slow("a", time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := s.TryLease(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		_, err = s.TryLease(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// It began a dial of each further host, for nobody.
func TestTryLeaseBeginsNoDialAfterItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b", "c")
		dials := 0
		for _, host := range []string{"a", "b", "c"} {
			d.slow(host, time.Minute)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.TryLease(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		synctest.Wait()
		for _, host := range []string{"a", "b", "c"} {
			dials += d.host(host).dials
		}
		require.Equal(t, 1, dials)
	})
}

// Once DialContext is used, connections that nobody leases are closed at once. TryLease's was one.
func TestTryLeaseWorksBesideDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		require.NoError(t, dial(t, s).Close())
		dials := d.host("a").dials
		require.NoError(t, tryLease(t, s).End())
		require.Equal(t, dials+1, d.host("a").dials)
	})
}

func TestReportOfAnErrorEjectsAndOfNilRestores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
		lease := get(t, s)
		bad := errors.New("unwell")
		s.Report(lease.Address(), bad)
		ejected := hostStats(t, s, lease.Address())
		require.True(t, ejected.Ejected, "although a lease is out")
		require.ErrorIs(t, ejected.Cause, bad)
		for range 4 {
			c := get(t, s)
			require.NotEqual(t, lease.Address(), c.Address())
			release(t, c)
		}
		dials := d.host(lease.Address()).dials
		s.Report(lease.Address(), nil)
		require.False(t, hostStats(t, s, lease.Address()).Ejected)
		require.Equal(t, dials, d.host(lease.Address()).dials, "without a dial")
		release(t, lease)

		s.Report("b", bad)
		time.Sleep(time.Minute)
		require.False(t, hostStats(t, s, "b").Ejected, "a probe has connected")
		s.Report("unknown", bad)
		require.NoError(t, s.Close())
		s.Report("a", bad)
	})
}

func TestReportOfNilDoesNotRestoreAHostThatItsLeasesEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"a"}}, "a", "b")
		for range 5 {
			c := get(t, s)
			require.NoError(t, c.Rate(pooly.Outcome{Score: pooly.HostDown, Err: errTemporary}))
			require.NoError(t, c.End())
		}
		require.True(t, hostStats(t, s, "a").Ejected)
		s.Report("a", nil)
		require.True(t, hostStats(t, s, "a").Ejected)

		lost := errors.New("connection lost")
		s.Report("a", lost)
		require.ErrorIs(t, hostStats(t, s, "a").Cause, lost)
		s.Report("a", nil)
		require.False(t, hostStats(t, s, "a").Ejected, "its new connection is what a probe looks for")
	})
}

// Connections of DialContext that MaxConns does not bound took the places of leases.
func TestTryLeaseHasRoomBesideConnectionsOfClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		for range pooly.DefaultMaxConns {
			c, err := s.DialContext(t.Context(), "", "")
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Close()) }()
		}
		c, err := s.TryLease(t.Context())
		require.NoError(t, err)
		release(t, c)
	})
}

// Dials that must share nothing with older connections opened a client for each caller, and each
// client replaced the one before.
func TestTryLeaseOfManyCallersOpensOneNewClient(t *testing.T) {
	for name, disturb := range map[string]func(*testing.T, *pooly.Service){
		"after Evict":    func(t *testing.T, s *pooly.Service) { require.NoError(t, s.Evict("a")) },
		"while ejected":  func(_ *testing.T, s *pooly.Service) { s.Report("a", errFatal) },
		"Evict, ejected": func(_ *testing.T, s *pooly.Service) { _ = s.Evict("a"); s.Report("a", errFatal) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var clients atomic.Int32
				s := pooly.NewService("test", &pooly.ServiceConfig{
					PoolConfig: pooly.PoolConfig{
						MaxConns: 1000,
						Driver: pooly.NewSharedDriver(pooly.DriverFuncs[*int]{
							Dial: func(context.Context, string) (*int, error) {
								clients.Add(1)
								time.Sleep(10 * time.Millisecond)
								return new(int), nil
							},
						}),
					},
					PrespawnConns: -1,
					Logger:        slog.New(slog.DiscardHandler),
				})
				s.Add("a")
				c := tryLease(t, s)
				release(t, c)
				disturb(t, s)
				var callers sync.WaitGroup
				for range 100 {
					callers.Go(func() {
						c, err := s.TryLease(t.Context())
						if assert.NoError(t, err) {
							time.Sleep(time.Second)
							release(t, c)
						}
					})
				}
				callers.Wait()
				require.EqualValues(t, 2, clients.Load())
				require.NoError(t, s.Close())
			})
		})
	}
}
