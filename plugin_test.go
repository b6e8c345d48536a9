package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func newRogueService(t *testing.T, d *rogueDriver) (*pooly.Service, *fakeDriver, *syncBuffer) {
	t.Helper()
	var log syncBuffer
	fake := newFakeDriver()
	d.Driver = fake
	s := pooly.NewService("rogue", &pooly.ServiceConfig{
		PoolConfig:    pooly.PoolConfig{Driver: d, MaxConns: 1},
		PrespawnConns: -1,
		GetAttempts:   1,
		Logger:        slog.New(slog.NewTextHandler(&log, nil)),
	})
	t.Cleanup(func() { _ = s.Close() })
	s.Add("a")
	return s, fake, &log
}

func TestDriverThatPanicsInDialIsAHostThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("index out of range")
		d := &rogueDriver{dial: func(context.Context, string) (*pooly.Conn, error) { panic(cause) }}
		s, _, log := newRogueService(t, d)
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorIs(t, err, cause)
		require.ErrorContains(t, err, "Driver.Dial panicked")
		require.Contains(t, log.String(), "rogueDriver", "the stack is logged")
		d.dial = nil
		release(t, get(t, s)) // MaxConns is 1, so its place has come back
	})
}

// rottenError panics in the methods that errors.Is calls.
type rottenError struct{}

func (rottenError) Error() string { return "rotten" }
func (rottenError) Unwrap() error { panic("core") }

// It panicked under the pool's lock, which stayed locked.
func TestErrorThatPanicsWhenItIsExaminedIsAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &rogueDriver{dial: func(context.Context, string) (*pooly.Conn, error) {
			return nil, rottenError{}
		}}
		s, _, log := newRogueService(t, d)
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorContains(t, err, "panicked: core")
		require.Contains(t, log.String(), "rottenError", "the stack is logged")
		d.dial = nil
		release(t, get(t, s))

		s.Report("a", rottenError{})
		require.ErrorContains(t, hostStats(t, s, "a").Cause, "panicked: core")
		time.Sleep(time.Second)
		release(t, get(t, s))
	})
}

func TestDriverThatReturnsNoConnectionIsAHostThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shared *pooly.Conn
		for _, dial := range []func(context.Context, string) (*pooly.Conn, error){
			func(context.Context, string) (*pooly.Conn, error) { return nil, nil },
			func(context.Context, string) (*pooly.Conn, error) { return new(pooly.Conn), nil },
		} {
			d := &rogueDriver{dial: dial}
			s, _, _ := newRogueService(t, d)
			_, err := s.GetConn()
			require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
			require.ErrorContains(t, err, "neither a connection nor an error")
			d.dial = nil
			release(t, get(t, s))
		}

		d := &rogueDriver{}
		s, fake, _ := newRogueService(t, d)
		d.dial = func(ctx context.Context, address string) (c *pooly.Conn, err error) {
			if shared == nil {
				shared, err = fake.Dial(ctx, address)
			}
			return shared, err
		}
		release(t, get(t, s))
		s.Add("b")
		s.Remove("a")
		_, err := s.GetConn()
		require.ErrorContains(t, err, "returned before")
	})
}

// A driver may return a connection together with an error; nobody gets it, so it must be closed.
func TestDriverThatReturnsAConnectionAndAnErrorLeaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &rogueDriver{}
		s, fake, _ := newRogueService(t, d)
		d.dial = func(ctx context.Context, address string) (*pooly.Conn, error) {
			c, err := fake.Dial(ctx, address)
			require.NoError(t, err)
			return c, errFatal
		}
		_, err := s.GetConn()
		require.ErrorIs(t, err, errFatal)
		require.Equal(t, 1, fake.host("a").closed)
	})
}

func TestDriverThatPanicsInTestOnBorrowLosesOnlyTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &rogueDriver{testOnBorrow: func(*pooly.Conn) error { panic("no") }}
		s, fake, log := newRogueService(t, d)
		release(t, get(t, s))
		release(t, get(t, s))
		stats := s.Stats()
		require.Equal(t, fake.host("a").dials, fake.host("a").closed+1, "all but the last")
		require.Equal(t, 1, stats.Idle)
		require.EqualValues(t, 2, stats.Puts)
		require.Contains(t, log.String(), "Driver.TestOnBorrow")
	})
}

func TestDriverThatPanicsInTemporaryMakesTheErrorFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &rogueDriver{temporary: func(error) bool { panic("no") }}
		s, fake, _ := newRogueService(t, d)
		require.NoError(t, get(t, s).Release(errTemporary, pooly.HostUp))
		synctest.Wait()
		require.Equal(t, 1, fake.host("a").closed)
		release(t, get(t, s))
	})
}

func TestDriverThatPanicsInCloseLosesNoCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &rogueDriver{close: func(*pooly.Conn) { panic("no") }}
		s, _, _ := newRogueService(t, d)
		for range 5 {
			require.NoError(t, get(t, s).Release(errFatal, pooly.HostUp))
		}
		require.NoError(t, s.Close())
	})
}

func TestDriverThatHangsInCloseLosesNoCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		d := &rogueDriver{close: func(*pooly.Conn) { <-hang }}
		s, _, _ := newRogueService(t, d)
		began := time.Now()
		require.NoError(t, get(t, s).Release(errFatal, pooly.HostUp))
		require.Zero(t, time.Since(began))
		c := get(t, s)
		require.Equal(t, time.Second, time.Since(began), "the place is free")
		require.NoError(t, c.Release(nil, pooly.HostUp))
		require.NoError(t, s.Close())
		require.Equal(t, 2*time.Second, time.Since(began))
		close(hang)
	})
}

func TestDriverThatHangsInDialKeepsNoOtherHostBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{WaitTimeout: 100 * time.Millisecond},
		}, "good", "hangs")
		d.slow("hangs", 24*time.Hour)
		failures := 0
		for range 100 {
			c, err := s.GetConn()
			if err != nil {
				require.ErrorIs(t, err, pooly.ErrOpTimeout)
				failures++
				continue
			}
			require.Equal(t, "good", c.Address())
			release(t, c)
		}
		require.Equal(t, 2, failures, "those that wait for the dial before it passes for stalled")
		require.Equal(t, 1, d.host("hangs").dials)
	})
}

// rogueBandit misbehaves as told.
type rogueBandit struct {
	newPicker func([]pooly.Arm) pooly.Picker
	pick      func() int
}

func (b *rogueBandit) NewPicker(arms []pooly.Arm) pooly.Picker {
	if b.newPicker != nil {
		return b.newPicker(arms)
	}
	return b
}

func (b *rogueBandit) Pick(*rand.Rand) int { return b.pick() }

func TestBanditThatMisbehavesGivesAClearErrorAndWedgesNothing(t *testing.T) {
	for _, tt := range []struct {
		bandit *rogueBandit
		says   string
	}{
		{&rogueBandit{pick: func() int { return 2 }}, "Pick returned 2 for 2 hosts"},
		{&rogueBandit{pick: func() int { return -1 }}, "Pick returned -1 for 2 hosts"},
		{&rogueBandit{pick: func() int { return math.MinInt }}, "for 2 hosts"},
		{&rogueBandit{pick: func() int { panic("no") }}, "Pick panicked: no"},
		{&rogueBandit{newPicker: func([]pooly.Arm) pooly.Picker { return nil }}, "NewPicker returned nil"},
		{&rogueBandit{newPicker: func([]pooly.Arm) pooly.Picker { panic("no") }}, "NewPicker panicked: no"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: tt.bandit}, "a", "b")
			for range 3 {
				_, err := s.GetConn()
				require.ErrorContains(t, err, tt.says)
				require.ErrorContains(t, err, "rogueBandit")
				require.ErrorContains(t, err, "service test")
				_, err = s.DialContext(t.Context(), "", "")
				require.ErrorContains(t, err, tt.says)
			}
			tt.bandit.newPicker, tt.bandit.pick = nil, func() int { return 1 }
			s.Add("c") // so that it makes another picker
			release(t, get(t, s))
			require.Zero(t, s.Stats().InUse)
		})
	}
}

// A bandit and a calculator that call back into the service must find no lock held.
func TestPluginsMayCallTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *pooly.Service
		bandit := &rogueBandit{pick: func() int { s.Stats(); s.Status(); return 0 }}
		bandit.newPicker = func(arms []pooly.Arm) pooly.Picker {
			s.Status()
			s.Remove("nobody")
			for _, a := range arms {
				_ = a.InUse() + int(a.Latency())
			}
			return bandit
		}
		s, _ = newService(t, pooly.ServiceConfig{
			BanditStrategy:  bandit,
			ScoreCalculator: computerFunc(func(score float64) float64 { _ = s.Status(); return score }),
		})
		s.Add("a")
		for range 10 {
			release(t, get(t, s))
			time.Sleep(time.Second)
		}
	})
}

type computerFunc func(float64) float64

func (f computerFunc) Compute(score float64) float64 { return f(score) }

func TestCalculatorThatMisbehavesLeavesTheScore(t *testing.T) {
	for _, tt := range []struct {
		compute computerFunc
		want    float64
	}{
		{func(float64) float64 { return math.NaN() }, 0.5},
		{func(float64) float64 { panic("no") }, 0.5},
		{func(float64) float64 { return 7 }, 1},
		{func(float64) float64 { return math.Inf(-1) }, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var log syncBuffer
			s, _ := newService(t, pooly.ServiceConfig{
				ScoreCalculator: tt.compute,
				BanditStrategy:  pooly.NewSoftMax(0.1),
				Logger:          slog.New(slog.NewTextHandler(&log, nil)),
			}, "a")
			for range 10 {
				c := get(t, s)
				time.Sleep(time.Second)
				require.NoError(t, c.Release(nil, 0.5))
			}
			require.InDelta(t, tt.want, hostStats(t, s, "a").Score, 1e-9)
			require.Equal(t, 1, strings.Count(log.String(), "ScoreCalculator"), log.String())
		})
	}
}

// A strategy of the user's may hand one of pooly's pickers other arms than its own.
func TestBanditThatMisusesAPickerOfPoolysIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: doubled{}}, "a")
		release(t, get(t, s))
		_, err := s.GetConn()
		require.ErrorContains(t, err, "Pick returned 1 for 1 hosts")
	})
}

type doubled struct{}

func (doubled) NewPicker(arms []pooly.Arm) pooly.Picker {
	return pooly.NewRoundRobin().NewPicker(append(arms[:len(arms):len(arms)], arms...))
}

// A logger may ask the service what happened.
func TestLoggerMayCallTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *pooly.Service
		var calls atomic.Int32
		var within atomic.Bool
		log := slog.New(callingHandler{slog.DiscardHandler, func() {
			calls.Add(1)
			if within.Swap(true) {
				return
			}
			defer within.Store(false)
			_ = s.Stats()
			s.Add("c")
			s.Remove("c")
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if c, err := s.GetConnContext(ctx); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}})
		s, d := newService(t, pooly.ServiceConfig{Logger: log}, "a", "b")
		rate(t, s, 1, 1)
		eject(t, s, "b")
		time.Sleep(time.Second)
		d.refuse("a", "b")
		for range 10 {
			if c, err := s.GetConn(); err == nil {
				_ = c.Release(errFatal, pooly.HostUp)
			}
		}
		d.accept("a", "b")
		time.Sleep(pooly.DefaultMaxEjectionTime)
		rate(t, s, 1, 1)
		require.Greater(t, int(calls.Load()), 3)
	})
}
