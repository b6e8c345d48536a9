package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

const checked = 10 * time.Second

func TestUnusedHostThatIsDownIsFoundByACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{CheckInterval: checked}, "a", "b")
		idle(t, s, 2)
		d.refuse("a")
		time.Sleep(checked / 2)
		require.False(t, hostStats(t, s, "a").Ejected)
		time.Sleep(checked)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.ErrorIs(t, hostStats(t, s, "a").Cause, syscall.ECONNREFUSED)
		require.False(t, hostStats(t, s, "b").Ejected)
		d.accept("a")
		time.Sleep(time.Minute)
		require.False(t, hostStats(t, s, "a").Ejected)
	})
}

func TestHostWithoutAnyConnectionIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{CheckInterval: checked}, "a")
		time.Sleep(2 * checked)
		require.Equal(t, 1, d.host("a").dials)
		require.Equal(t, 1, s.Stats().Idle)
	})
}

func TestHostsInUseAreNotChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{CheckInterval: checked}, "a")
		for range 20 {
			release(t, get(t, s))
			time.Sleep(checked * 9 / 10)
		}
		held := get(t, s)
		time.Sleep(time.Hour)
		release(t, held)
		require.Equal(t, 1, d.host("a").dials)
	})
}

func TestNoChecksByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		idle(t, s, 2)
		time.Sleep(24 * time.Hour)
		require.Equal(t, 2, d.host("a").dials)
	})
}

func TestChecksLeaveAsManyConnectionsAsThereWere(t *testing.T) {
	for _, n := range []int{1, 5, 10} { // 10 are MaxConns, so a check needs room
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{
				CheckInterval: checked, PoolConfig: pooly.PoolConfig{MaxConns: 10},
			}, "a")
			idle(t, s, n)
			time.Sleep(time.Hour)
			synctest.Wait() // some may be looked at just now
			require.LessOrEqual(t, d.host("a").peak, 10)
			require.InDelta(t, n, s.Stats().Idle, 1)
			dials := d.host("a").dials - n
			require.GreaterOrEqual(t, dials, 300)
			require.LessOrEqual(t, dials, 360)
			require.Zero(t, hostStats(t, s, "a").Ejections)
		})
	}
}

// MinIdle dials again what a check of a full host has closed. That dial checks the host, too.
func TestChecksOfAFullHostWithMinIdleDoNotChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			CheckInterval: 10 * checked, PoolConfig: pooly.PoolConfig{MaxConns: 5, MinIdle: 5},
		}, "a")
		time.Sleep(time.Minute)
		before := d.host("a").dials
		time.Sleep(time.Hour)
		synctest.Wait()
		require.InDelta(t, 36, d.host("a").dials-before, 4)
		require.InDelta(t, 5, s.Stats().Idle, 1)
		require.LessOrEqual(t, d.host("a").peak, 5)
	})
}

func TestHostsAreNotCheckedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{CheckInterval: 100 * time.Second})
		for _, a := range []string{"a", "b", "c", "d"} {
			s.Add(a)
		}
		time.Sleep(time.Hour)
		at := make(map[time.Time]int)
		for _, a := range []string{"a", "b", "c", "d"} {
			dials := d.host(a).at
			require.InDelta(t, 34, len(dials), 3)
			at[dials[len(dials)-1]]++
		}
		require.Greater(t, len(at), 1)
	})
}

func TestCheckPingsAnIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newPingService(t, pooly.ServiceConfig{
			CheckInterval: checked, PoolConfig: pooly.PoolConfig{KeepAlive: -1},
		}, nil, "a")
		idle(t, s, 3)
		time.Sleep(10 * time.Minute)
		require.InDelta(t, 57, d.pings.Load(), 3)
		require.Equal(t, 3, d.host("a").dials)
		require.Equal(t, 3, s.Stats().Idle)
	})
}

// A frozen process still accepts connections.
func TestChecksFindAHostThatAcceptsAndDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frozen atomic.Pointer[fakeHost]
		s, d := newPingService(t, pooly.ServiceConfig{CheckInterval: checked},
			func(ctx context.Context, c *fakeConn) error {
				if c.host == frozen.Load() {
					return silence(ctx, c)
				}
				return nil
			}, "a", "b")
		d.on("a", func(h *fakeHost) { frozen.Store(h) })
		time.Sleep(2 * time.Minute)
		require.Positive(t, hostStats(t, s, "a").Ejections)
		require.Zero(t, hostStats(t, s, "b").Ejections)
	})
}

// checkDriver is a fakeDriver with a Check.
type checkDriver struct {
	*fakeDriver
	checks atomic.Int32
	check  func(ctx context.Context, c *fakeConn) error
}

func (d *checkDriver) Check(ctx context.Context, c *pooly.Conn) error {
	d.checks.Add(1)
	return d.check(ctx, fakeOf(c))
}

var errLoading = errors.New("the server loads its data")

func newCheckService(
	t *testing.T, check func(context.Context, *fakeConn) error, addresses ...string,
) (*pooly.Service, *checkDriver) {
	t.Helper()
	d := &checkDriver{fakeDriver: newFakeDriver(), check: check}
	s := pooly.NewService("test", &pooly.ServiceConfig{
		PoolConfig:    pooly.PoolConfig{Driver: d},
		PrespawnConns: -1,
		Logger:        slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() { _ = s.Close() })
	s.SetHosts(addresses...)
	return s, d
}

func TestEjectedHostIsRestoredOnceItsCheckPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loading, probe atomic.Bool
		s, d := newCheckService(t, func(ctx context.Context, c *fakeConn) error {
			probe.Store(pooly.IsProbe(ctx))
			if loading.Load() {
				return errLoading
			}
			return nil
		}, "a", "b")
		idle(t, s, 4)
		require.Zero(t, d.checks.Load(), "only ejected hosts are checked")
		loading.Store(true)
		s.Report("a", syscall.ECONNREFUSED)
		time.Sleep(time.Minute)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.ErrorIs(t, hostStats(t, s, "a").Cause, errLoading)
		require.True(t, probe.Load())
		require.Zero(t, d.host("a").open, "connections of failed probes are closed")
		checks := d.checks.Load()
		require.Greater(t, checks, int32(5))
		require.Less(t, checks, int32(20), "probes keep their backoff")
		loading.Store(false)
		time.Sleep(11 * time.Second)
		require.False(t, hostStats(t, s, "a").Ejected)
		require.Equal(t, 1, hostStats(t, s, "a").Idle)
	})
}

func TestCallersDoNotGetAHostWhoseCheckFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newCheckService(t, func(context.Context, *fakeConn) error { return errLoading }, "a")
		s.Report("a", syscall.ECONNREFUSED)
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorIs(t, err, errLoading)
		_, err = s.TryLease(t.Context())
		require.Error(t, err)
		require.Zero(t, d.host("a").open)
	})
}

func TestReportRestoresWithoutACheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newCheckService(t, func(context.Context, *fakeConn) error { return errLoading }, "a")
		s.Report("a", syscall.ECONNREFUSED)
		s.Report("a", nil)
		require.False(t, hostStats(t, s, "a").Ejected)
	})
}

// A dial from before the ejection has nobody checked.
func TestDialFromBeforeAnEjectionDoesNotRestoreAHostThatMustBeChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newCheckService(t, func(context.Context, *fakeConn) error { return errLoading }, "a", "b")
		d.slow("a", 200*time.Millisecond)
		d.slow("b", 200*time.Millisecond)
		for range 2 {
			go func() {
				if c, err := s.GetConn(); err == nil {
					_ = c.Release(nil, pooly.HostUp)
				}
			}()
		}
		time.Sleep(100 * time.Millisecond)
		s.Report("a", syscall.ECONNREFUSED)
		time.Sleep(150 * time.Millisecond)
		require.Equal(t, 1, d.host("a").closed+d.host("a").open-d.host("a").dialing)
		require.True(t, hostStats(t, s, "a").Ejected)
	})
}

func TestCheckThatMisbehavesCountsAsFailed(t *testing.T) {
	for name, check := range map[string]func(context.Context, *fakeConn) error{
		"panics":           func(context.Context, *fakeConn) error { panic("check") },
		"waits":            silence,
		"heeds no context": func(context.Context, *fakeConn) error { time.Sleep(time.Hour); return nil },
		"returns a bad error": func(context.Context, *fakeConn) error {
			return rogueError{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newCheckService(t, check, "a", "b")
				s.Report("a", syscall.ECONNREFUSED)
				time.Sleep(time.Minute)
				require.Greater(t, d.checks.Load(), int32(2))
				require.True(t, hostStats(t, s, "a").Ejected)
				require.LessOrEqual(t, d.host("a").open, 1, "at most the one that is being checked")
				require.NoError(t, s.Close())
				require.Zero(t, d.host("a").open)
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestCheckOfADriverOfFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int32
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PrespawnConns: -1,
			PoolConfig: pooly.PoolConfig{Driver: pooly.DriverOf(pooly.DriverFuncs[int]{
				Dial: func(context.Context, string) (int, error) { return 7, nil },
				Check: func(_ context.Context, c int) error {
					if c != 7 || checks.Add(1) == 1 {
						return errLoading
					}
					return nil
				},
			})},
			Logger: slog.New(slog.DiscardHandler),
		})
		defer func() { require.NoError(t, s.Close()) }()
		s.Add("a")
		s.Report("a", syscall.ECONNREFUSED)
		time.Sleep(time.Second)
		require.EqualValues(t, 2, checks.Load())
		require.False(t, hostStats(t, s, "a").Ejected)
	})
}
