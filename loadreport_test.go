package pooly_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Probe implements pooly.Prober. It is called only with a ProbeRate.
func (d *fakeDriver) Probe(ctx context.Context, address string) (pooly.Load, error) {
	d.probes.Add(1)
	return d.probe(ctx, address)
}

func TestReportLoadSteersTrafficAway(t *testing.T) {
	for _, crowded := range []int{0, 30} {
		synctest.Test(t, func(t *testing.T) {
			w := newTraffic(t, pooly.ServiceConfig{
				BanditStrategy: pooly.NewLeastLatency(),
				ProbeRate:      3,
			}, 5, 5, 5*time.Millisecond)
			w.service.Driver().(*fakeDriver).probe = func(_ context.Context, address string) (pooly.Load, error) {
				if address == "0" {
					return pooly.Load{InFlight: crowded}, nil
				}
				return pooly.Load{InFlight: 1}, nil
			}
			w.reply = func(int, time.Duration, *rand.Rand) reply {
				return reply{20 * time.Millisecond, nil, pooly.HostUp}
			}
			w.run(20 * time.Second)
			share := w.share(0, 5*time.Second, 20*time.Second)
			if crowded == 0 {
				require.InDelta(t, 0.2, share, 0.05)
			} else {
				require.Less(t, share, 0.1)
			}
			w.close()
		})
	}
}

// One host claims to be idle. It fails fast, or is five times slower than the others, which say
// that they are busy.
func TestAHostThatClaimsToBeIdleAttractsNoTraffic(t *testing.T) {
	for name, lies := range map[string]reply{
		"and fails fast": {fastFail, errTemporary, pooly.HostDown},
		"and is slow":    {100 * time.Millisecond, nil, pooly.HostUp},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTraffic(t, pooly.ServiceConfig{
					BanditStrategy:      pooly.NewLeastLatency(),
					ProbeRate:           3,
					ConsecutiveFailures: -1,
				}, 10, 20, 5*time.Millisecond)
				w.service.Driver().(*fakeDriver).probe = func(_ context.Context, address string) (pooly.Load, error) {
					if address == "0" {
						return pooly.Load{}, nil
					}
					return pooly.Load{InFlight: 10}, nil
				}
				w.reply = func(host int, at time.Duration, _ *rand.Rand) reply {
					if host == 0 && at > 10*time.Second {
						return lies
					}
					return reply{20 * time.Millisecond, nil, pooly.HostUp}
				}
				w.run(30 * time.Second)
				require.LessOrEqual(t, w.share(0, 10*time.Second, 11*time.Second), 0.1)
				require.LessOrEqual(t, w.share(0, 15*time.Second, 30*time.Second), 0.05)
				w.close()
			})
		})
	}
}

const fastFail = 500 * time.Microsecond

// All probes hang: each host has one at a time, calls wait only for the first, and none fails.
func TestProbesThatHangAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{ProbeRate: 16, ProbeWait: 5 * time.Millisecond}, "a", "b", "c")
		d.probe = func(ctx context.Context, _ string) (pooly.Load, error) {
			<-ctx.Done()
			return pooly.Load{}, ctx.Err()
		}
		call := func() time.Duration {
			began := time.Now()
			require.NoError(t, s.Do(t.Context(), func(*pooly.Conn) error { return nil }))
			return time.Since(began)
		}
		synctest.Wait()
		call() // builds the first snapshot
		for range 50 {
			call()
		}
		require.EqualValues(t, 3, d.probes.Load())
		require.Zero(t, call())
		time.Sleep(time.Minute)
		require.EqualValues(t, 3, d.probes.Load(), "an idle service does not probe")
		require.Equal(t, 5*time.Millisecond, call())
		require.EqualValues(t, 6, d.probes.Load())
		require.NoError(t, s.Close())
	})
}

func TestProbesAreAShareOfCallsAndHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		addresses := make([]string, 20)
		for i := range addresses {
			addresses[i] = strconv.Itoa(i)
		}
		s, d := newService(t, pooly.ServiceConfig{ProbeRate: 0.5}, addresses...)
		d.probe = func(_ context.Context, _ string) (pooly.Load, error) {
			switch d.probes.Load() % 3 {
			case 0:
				panic("by the test")
			case 1:
				return pooly.Load{InFlight: 7}, errors.New("by the test")
			}
			return pooly.Load{InFlight: -1}, nil
		}
		for range 1000 {
			require.NoError(t, s.Do(t.Context(), func(*pooly.Conn) error { return nil }))
			time.Sleep(20 * time.Millisecond)
		}
		require.InDelta(t, 500, d.probes.Load(), 60)
		for _, h := range s.Stats().Hosts {
			require.False(t, h.Ejected)
			require.Zero(t, h.OtherRequests)
		}
		require.NoError(t, s.Close())
	})
}

func TestReportLoadCountsOtherClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		one, err := s.GetConn()
		require.NoError(t, err)
		two, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, one.ReportLoad(pooly.Load{InFlight: 7}))
		require.Equal(t, 5, s.Stats().Hosts[0].OtherRequests)
		require.ErrorIs(t, one.ReportLoad(pooly.Load{InFlight: -1}), pooly.ErrInvalidArg)
		require.ErrorIs(t, new(pooly.Conn).ReportLoad(pooly.Load{}), pooly.ErrInvalidArg)
		require.Equal(t, 5, s.Stats().Hosts[0].OtherRequests)
		time.Sleep(10 * time.Second)
		require.Zero(t, s.Stats().Hosts[0].OtherRequests, "an old report counts for nothing")
		require.NoError(t, one.Release(nil, pooly.HostUp))
		require.NoError(t, two.Release(nil, pooly.HostUp))
		require.NoError(t, s.Close())
	})
}

func TestCloseEndsTheWaitForProbesThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{ProbeRate: 1, ProbeWait: time.Minute}, "a")
		release(t, get(t, s)) // builds the first snapshot
		hang := make(chan struct{})
		defer close(hang)
		d.probe = func(context.Context, string) (pooly.Load, error) {
			<-hang // it heeds no context
			return pooly.Load{}, nil
		}
		began := time.Now()
		failed := make(chan error)
		go func() {
			_, err := s.GetConn()
			failed <- err
		}()
		synctest.Wait()
		require.EqualValues(t, 1, d.probes.Load())
		_ = s.Close()
		require.ErrorIs(t, <-failed, pooly.ErrPoolClosed)
		require.LessOrEqual(t, time.Since(began), time.Second)
	})
}

// One host says that it has far more requests than any host could have. Another tells nothing.
func TestAHostThatClaimsToBeCrowdedDoesNotUnbalanceTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts, silent, liar = 6, 1, 0
		w := newTraffic(t, pooly.ServiceConfig{
			BanditStrategy: pooly.NewLeastLatency(),
			ProbeRate:      3,
		}, hosts, 12, 5*time.Millisecond)
		w.service.Driver().(*fakeDriver).probe = func(_ context.Context, address string) (pooly.Load, error) {
			switch address {
			case strconv.Itoa(liar):
				return pooly.Load{InFlight: 1 << 30}, nil
			case strconv.Itoa(silent):
				return pooly.Load{}, errors.New("by the test")
			}
			return pooly.Load{InFlight: 5}, nil
		}
		w.reply = func(int, time.Duration, *rand.Rand) reply {
			return reply{20 * time.Millisecond, nil, pooly.HostUp}
		}
		w.run(20 * time.Second)
		for host := range hosts {
			share := w.share(host, 5*time.Second, 20*time.Second)
			switch host {
			case liar:
				require.Less(t, share, 0.05)
			case silent: // it looks fuller, since others' leases count less beside those of other clients
				require.Greater(t, share, 0.05)
			default:
				require.InDelta(t, 0.2, share, 0.05, "host %d", host)
			}
		}
		w.close()
	})
}
