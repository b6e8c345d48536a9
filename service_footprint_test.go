package pooly_test

import (
	"context"
	"log/slog"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestNoGoroutinePerConnectionOrHost(t *testing.T) {
	const hosts, conns = 100, 5
	s, _ := newService(t, pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{ConnIdleTimeout: time.Hour, MaxConnLifetime: time.Hour},
	})
	few := runtime.NumGoroutine() + 10 // the test's own
	var leases []*pooly.Conn
	for i := range hosts {
		s.Add(strconv.Itoa(i))
	}
	for range hosts * conns {
		leases = append(leases, get(t, s))
	}
	eventually(t, func() bool { return runtime.NumGoroutine() <= few })
	for _, c := range leases {
		release(t, c)
	}
	require.Equal(t, hosts*conns, s.Stats().Idle)
	eventually(t, func() bool { return runtime.NumGoroutine() <= few })
}

// Every call out of the library calls back in; a lock that is held would deadlock.
func TestNoLockIsHeldDuringDriverCallsAndLogging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *pooly.Service
		look := func() {
			_ = s.Stats()
			_ = s.Status()
			s.Add("a")
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if c, err := s.GetConnContext(ctx); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}
		var looking atomic.Bool // what is called back may call the driver again
		nested := func() {
			if looking.CompareAndSwap(false, true) {
				look()
				looking.Store(false)
			}
		}
		fake := newFakeDriver()
		d := &rogueDriver{Driver: fake}
		d.dial = func(ctx context.Context, address string) (*pooly.Conn, error) {
			nested()
			return fake.Dial(ctx, address)
		}
		d.close = func(c *pooly.Conn) { nested(); fake.Close(c) }
		d.testOnBorrow = func(c *pooly.Conn) error { nested(); return fake.TestOnBorrow(c) }
		d.temporary = func(err error) bool { nested(); return fake.Temporary(err) }
		s = pooly.NewService("nested", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: d, MaxConns: 2, ConnIdleTimeout: time.Minute},
			Logger:     slog.New(callingHandler{slog.DiscardHandler, nested}),
		})
		s.Add("a")
		time.Sleep(time.Second)
		for range 3 {
			release(t, get(t, s))
			require.NoError(t, get(t, s).Release(errFatal, pooly.HostUp))
		}
		fake.refuse("b")
		s.Add("b")
		time.Sleep(time.Hour)
		fake.accept("b")
		time.Sleep(time.Minute)
		s.Remove("b")
		require.NoError(t, s.Close())
	})
}

// callingHandler calls back for each record.
type callingHandler struct {
	slog.Handler
	call func()
}

func (h callingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h callingHandler) Handle(context.Context, slog.Record) error {
	h.call()
	return nil
}
