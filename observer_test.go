package pooly_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	runtimetrace "runtime/trace"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// story is what an Observer was told, a line an event.
type story struct {
	mu    sync.Mutex
	lines []string
}

type askerKey struct{}

// asked returns a context that tells in a story who calls.
func asked(t *testing.T, by string) context.Context {
	return context.WithValue(t.Context(), askerKey{}, by)
}

func (s *story) tell(service, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if service != "test" {
		format = "of service " + service + ": " + format
	}
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

// told returns what was told since the last call.
func (s *story) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = nil
	return lines
}

func (s *story) observer() *pooly.Observer {
	by := func(ctx context.Context) string {
		if by, ok := ctx.Value(askerKey{}).(string); ok {
			return " by " + by
		}
		return ""
	}
	return &pooly.Observer{
		Dialled: func(e pooly.DialEvent) {
			probe := ""
			if e.Probe {
				probe = " as a probe"
			}
			s.tell(e.Service, "dialled %s%s in %v%s: %v", e.Address, by(e.Context), e.Duration, probe, e.Err)
		},
		Waited: func(e pooly.WaitEvent) {
			s.tell(e.Service, "waited%s for %v, got %q: %v", by(e.Context), e.Duration, e.Address, kind(e.Err))
		},
		Leased: func(e pooly.LeaseEvent) {
			s.tell(e.Service, "leased %s%s after %v, score %v", e.Address, by(e.Context), e.Wait, e.Score)
		},
		Released: func(e pooly.ReleaseEvent) {
			s.tell(e.Service, "released %s after %v, rated %v %v, closed %v: %v",
				e.Address, e.Lasted, e.Rated, e.Score, e.Closed, e.Err)
		},
		Ejected:  func(e pooly.EjectEvent) { s.tell(e.Service, "ejected %s: %v", e.Address, e.Cause) },
		Restored: func(e pooly.RestoreEvent) { s.tell(e.Service, "restored %s", e.Address) },
		Shed: func(e pooly.ShedEvent) {
			s.tell(e.Service, "shed%s after %v: %v", by(e.Context), e.Waited, kind(e.Err))
		},
		Retried: func(e pooly.RetryEvent) {
			s.tell(e.Service, "retried%s after %q: %v", by(e.Context), e.Address, e.Err)
		},
	}
}

// kind returns the error that a call's error wraps.
func kind(err error) error {
	for _, known := range []error{pooly.ErrOverloaded, pooly.ErrOpTimeout, pooly.ErrNoHostAvailable, context.Canceled} {
		if errors.Is(err, known) {
			return known
		}
	}
	return err
}

// observed returns a service whose events go into a story.
func observed(t *testing.T, config pooly.ServiceConfig, addresses ...string) (*pooly.Service, *fakeDriver, *story) {
	t.Helper()
	events := new(story)
	config.Observer = events.observer()
	config.Logger = slog.New(slog.DiscardHandler)
	s, d := newService(t, config, addresses...)
	return s, d, events
}

func TestObserverHearsOfADialAWaitAndALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, events := observed(t, pooly.ServiceConfig{}, "a")
		d.slow("a", 5*time.Millisecond)
		c, err := s.GetConnContext(asked(t, "me"))
		require.NoError(t, err)
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, c.Release(nil, 0.75))
		require.ErrorIs(t, c.Release(nil, 0.75), pooly.ErrConnReleased)
		require.ElementsMatch(t, []string{
			"dialled a by me in 5ms: <nil>",
			`waited by me for 5ms, got "a": <nil>`,
			"leased a by me after 5ms, score 0.5",
			"released a after 20ms, rated true 0.75, closed false: <nil>",
		}, events.told())

		c = get(t, s)
		time.Sleep(time.Second)
		release(t, c)
		require.Equal(t, []string{
			"leased a after 0s, score 0.5", // scores are not computed anew yet
			"released a after 1s, rated true 1, closed false: <nil>",
		}, events.told(), "an idle connection: no dial and no wait")

		c, err = s.TryLease(asked(t, "grpc"))
		require.NoError(t, err)
		require.NoError(t, c.Rate(pooly.Outcome{Score: 0.5}))
		require.NoError(t, c.End())
		told := events.told()
		require.Len(t, told, 2)
		require.Contains(t, told[0], "leased a by grpc after 0s")
		require.Contains(t, told[1], "rated false 0, closed false: <nil>")
	})
}

func TestObserverHearsHowALeaseEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, events := observed(t, pooly.ServiceConfig{ConsecutiveFailures: -1}, "a")
		cancelled, cancel := context.WithCancel(t.Context())
		for _, test := range []struct {
			end  func()
			want string
		}{
			{func() { _ = get(t, s).Release(errTemporary, 0.25) }, "rated true 0.25, closed false: temporary"},
			{func() { _ = get(t, s).Release(errFatal, 1) }, "rated true 0, closed true: fatal for the connection"},
			{func() { _ = get(t, s).Release(pooly.Answered(errFatal), 1) }, "rated true 1, closed false: <nil>"},
			{func() { _ = get(t, s).Release(context.Canceled, 1) }, "rated false 0, closed true: context canceled"},
			{func() {
				_ = s.Do(cancelled, func(*pooly.Conn) error { cancel(); return errFatal })
			}, "rated false 0, closed true: fatal for the connection"},
			{func() {
				c := get(t, s)
				require.NoError(t, c.CloseOnRelease())
				release(t, c)
			}, "rated true 1, closed true: <nil>"},
		} {
			events.told()
			test.end()
			synctest.Wait()
			told := events.told()
			released := slices.DeleteFunc(told, func(line string) bool { return !strings.HasPrefix(line, "released") })
			require.Len(t, released, 1, test.want)
			require.Equal(t, "released a after 0s, "+test.want, strings.Replace(released[0], "after 1ns", "after 0s", 1))
		}
	})
}

func TestObserverHearsOfEjectionsAndProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d, events := observed(t, pooly.ServiceConfig{GetAttempts: 1})
		d.refuse("a")
		s.Add("a")
		_, err := s.GetConnContext(asked(t, "me"))
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		synctest.Wait()
		told := events.told()
		require.Contains(t, told, "dialled a by me in 0s: connection refused")
		require.Contains(t, told, "ejected a: connection refused")
		require.Contains(t, told, `waited by me for 0s, got "": `+pooly.ErrNoHostAvailable.Error())
		require.Len(t, told, 3)

		time.Sleep(100 * time.Millisecond) // BaseEjectionTime, less up to a fifth
		synctest.Wait()
		require.Equal(t, []string{"dialled a in 0s as a probe: connection refused"}, events.told())
		d.accept("a")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"dialled a in 0s as a probe: <nil>", "restored a"}, events.told())
	})
}

func TestObserverHearsOfAnEjectionByFeedback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, events := observed(t, pooly.ServiceConfig{PrespawnConns: 1}, "good", "bad")
		synctest.Wait()
		require.ElementsMatch(t, []string{"dialled good in 0s: <nil>", "dialled bad in 0s: <nil>"}, events.told())
		eject(t, s, "bad")
		ejected := slices.DeleteFunc(events.told(), func(line string) bool { return !strings.HasPrefix(line, "ejected") })
		require.Equal(t, []string{"ejected bad: fatal for the connection"}, ejected)
	})
}

func TestObserverHearsOfEachCallThatIsShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{
			MaxConns: 1, MaxWaiting: 1, WaitTimeout: 70 * time.Millisecond,
		}}
		s, _, events := observed(t, config, "a")
		held := get(t, s)
		synctest.Wait()
		events.told()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = s.GetConnContext(asked(t, "first")) })
		synctest.Wait()
		for range 3 {
			_, err := s.GetConnContext(asked(t, "more"))
			require.ErrorIs(t, err, pooly.ErrOverloaded)
		}
		wg.Wait()
		shed := "shed by more after 0s: " + pooly.ErrOverloaded.Error()
		require.Equal(t, []string{
			shed, shed, shed,
			`waited by first for 70ms, got "": ` + pooly.ErrOpTimeout.Error(),
		}, events.told(), "a call that was turned away at once has not waited")
		require.EqualValues(t, 3, s.Stats().Shed)

		// Leases take 100 ms, so a call of Do with less time left gets none.
		time.Sleep(30 * time.Millisecond)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(asked(t, "late"), 60*time.Millisecond)
			defer cancel()
			_ = s.Do(ctx, func(*pooly.Conn) error { t.Error("ran"); return nil })
		})
		time.Sleep(10 * time.Millisecond)
		release(t, held)
		wg.Wait()
		told := events.told()
		require.ElementsMatch(t, []string{
			"released a after 110ms, rated true 1, closed false: <nil>",
			`waited by late for 10ms, got "": ` + pooly.ErrOverloaded.Error(),
			"shed by late after 10ms: " + pooly.ErrOverloaded.Error(),
		}, told)
	})
}

func TestObserverHearsOfRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _, events := observed(t, pooly.ServiceConfig{PrespawnConns: 1, GetAttempts: 2}, "a", "b")
		synctest.Wait()
		events.told()
		var first string
		err := s.Do(asked(t, "me"), func(c *pooly.Conn) error {
			if first == "" {
				first = c.Address()
			}
			return pooly.Retry(errTemporary)
		})
		require.ErrorIs(t, err, errTemporary)
		told := events.told()
		require.Len(t, told, 5)
		require.Contains(t, told[0], "leased "+first+" by me")
		require.Contains(t, told[1], "released "+first)
		require.Equal(t, fmt.Sprintf("retried by me after %q: temporary", first), told[2])
		require.Contains(t, told[3], "leased")
		require.NotContains(t, told[3], "leased "+first, "another host")
		require.Contains(t, told[4], "released")

		c, err := s.Lease(asked(t, "http"), pooly.LeaseOptions{Avoid: []string{"x", "a"}, Retry: true, Cause: errFatal})
		require.NoError(t, err)
		require.NoError(t, c.End())
		require.Equal(t, `retried by http after "a": fatal for the connection`, events.told()[0])
		c, err = s.Lease(asked(t, "http"), pooly.LeaseOptions{Avoid: []string{"a"}})
		require.NoError(t, err)
		require.NoError(t, c.End())
		require.Len(t, events.told(), 2, "it was not sent before")
		require.EqualValues(t, 2, s.Stats().Retries)

		_, err = s.Lease(t.Context(), pooly.LeaseOptions{Retry: true})
		for range 30 {
			_, err = s.Lease(t.Context(), pooly.LeaseOptions{Retry: true})
		}
		require.ErrorIs(t, err, pooly.ErrRetriesSpent)
		retried := slices.DeleteFunc(events.told(), func(line string) bool { return !strings.HasPrefix(line, "retried") })
		require.EqualValues(t, s.Stats().Retries-2, len(retried), "those that were refused are not made")
		require.Equal(t, `retried after "": <nil>`, retried[0])
	})
}

func TestObserverHearsOfDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pooly.NewNetDriver("tcp")
		d.SetDialContext(func(ctx context.Context, _, address string) (net.Conn, error) {
			switch address {
			case "down":
				return nil, syscall.ECONNREFUSED
			case "silent":
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Millisecond)
			c, server := net.Pipe()
			t.Cleanup(func() { _ = server.Close() })
			return c, nil
		})
		for first, want := range map[string][]string{
			"down": {
				"dialled down by client in 0s: connection refused",
				"ejected down: connection refused",
				"dialled good by client in 1ms: <nil>",
				"leased good by client after 1ms, score 0.5",
				"released good after 1h0m0s, rated false 0, closed true: <nil>",
			},
			"silent": { // the dial that was beaten tells nothing
				"dialled good by client in 1ms: <nil>",
				"leased good by client after 251ms, score 0.5",
				"released good after 1h0m0s, rated false 0, closed true: <nil>",
			},
		} {
			events := new(story)
			s := pooly.NewService("test", &pooly.ServiceConfig{
				PoolConfig:     pooly.PoolConfig{Driver: d},
				BanditStrategy: inOrder{first},
				PrespawnConns:  -1,
				Observer:       events.observer(),
				Logger:         slog.New(slog.DiscardHandler),
			})
			s.Add(first)
			s.Add("good")
			c, err := s.DialContext(asked(t, "client"), "", "")
			require.NoError(t, err)
			time.Sleep(time.Hour)
			require.NoError(t, c.Close())
			probe := func(line string) bool { return strings.Contains(line, "as a probe") }
			require.Equal(t, want, slices.DeleteFunc(events.told(), probe))
			require.NoError(t, s.Close())
		}
	})
}

// A function that calls the service finds no lock held, and one that panics does no harm.
func TestObserverRunsWithoutALockAndMayPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		var s *pooly.Service
		var mu sync.Mutex
		called := make(map[string]int)
		visit := func(name string) {
			_ = s.Stats()
			_ = s.Status()
			mu.Lock()
			called[name]++
			mu.Unlock()
			panic("no good observer: " + name)
		}
		d := newFakeDriver()
		d.refuse("bad")
		s = pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{Driver: d, MaxConns: 1, MaxWaiting: 1, WaitTimeout: time.Second},
			PrespawnConns: -1,
			GetAttempts:   2,
			Logger:        slog.New(slog.NewTextHandler(&log, nil)),
			Observer: &pooly.Observer{
				Dialled:  func(pooly.DialEvent) { visit("Dialled") },
				Waited:   func(pooly.WaitEvent) { visit("Waited") },
				Leased:   func(pooly.LeaseEvent) { visit("Leased") },
				Released: func(pooly.ReleaseEvent) { visit("Released") },
				Ejected:  func(pooly.EjectEvent) { visit("Ejected") },
				Restored: func(pooly.RestoreEvent) { visit("Restored") },
				Shed:     func(pooly.ShedEvent) { visit("Shed") },
				Retried:  func(pooly.RetryEvent) { visit("Retried") },
			},
		})
		s.Add("good")
		s.Add("bad")
		for range 2 {
			require.NoError(t, s.Do(t.Context(), func(*pooly.Conn) error { return nil }))
		}
		_ = s.Do(t.Context(), func(*pooly.Conn) error { return pooly.Retry(errTemporary) })
		held := get(t, s)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _, _ = s.GetConn() })
		}
		wg.Wait()
		release(t, held)
		d.accept("bad")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, s.Close())
		require.Len(t, called, 8, "%v", called)
		require.Equal(t, 1, strings.Count(log.String(), "no good observer"), "the first panic alone is logged")
		require.Contains(t, log.String(), "the Observer's function for a pooly.")
	})
}

func TestJoinObserversTellsEachAndKeepsTheirRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all, few, dials := new(story), new(story), new(story)
		rare := few.observer()
		rare.LeaseSampleRate = 0.1
		onlyDials := &pooly.Observer{Dialled: dials.observer().Dialled}
		joined := pooly.JoinObservers(nil, all.observer(), rare, nil, onlyDials)
		require.EqualValues(t, 1, joined.LeaseSampleRate)
		s, _ := newService(t, pooly.ServiceConfig{Observer: joined}, "a")
		joined.Leased = nil // the service has a copy
		const calls = 5000
		for range calls {
			release(t, get(t, s))
		}
		count := func(lines []string, prefix string) (n int) {
			for _, line := range lines {
				if strings.HasPrefix(line, prefix) {
					n++
				}
			}
			return n
		}
		told, some := all.told(), few.told()
		require.Equal(t, calls, count(told, "leased"))
		require.Equal(t, calls, count(told, "released"))
		require.InDelta(t, calls/10, count(some, "leased"), 150) // 7 standard deviations
		require.InDelta(t, calls/10, count(some, "released"), 150)
		require.Equal(t, 1, count(told, "dialled"))
		require.Equal(t, 1, count(some, "dialled"))
		require.Len(t, dials.told(), 1)

		require.Equal(t, &pooly.Observer{}, pooly.JoinObservers(nil, &pooly.Observer{}))
	})
}

func TestObserverSeesTheSampledLeasesFromBeginningToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out, leases := 0, 0
		s, _ := newService(t, pooly.ServiceConfig{Observer: &pooly.Observer{
			LeaseSampleRate: 0.25,
			Leased:          func(pooly.LeaseEvent) { out++; leases++ },
			Released:        func(pooly.ReleaseEvent) { out-- },
		}}, "a")
		const calls = 4000
		for range calls {
			c := get(t, s)
			before := out
			release(t, c)
			require.Zero(t, out)
			require.LessOrEqual(t, before, 1)
		}
		require.InDelta(t, calls/4, leases, 200) // 7 standard deviations
	})
}

func TestObserverWithAnImpossibleRateIsRefused(t *testing.T) {
	for _, rate := range []float64{-0.1, 1.1, math.NaN()} {
		config := pooly.ServiceConfig{Observer: &pooly.Observer{LeaseSampleRate: rate}}
		err := config.Validate()
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.ErrorContains(t, err, "Observer.LeaseSampleRate")
		require.PanicsWithError(t, err.Error(), func() { pooly.NewService("test", &config) })
	}
}

// With everything at work at once over real sockets, each event comes as often as Stats counts it.
func TestObserverAgreesWithStats(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[string]uint64)
	count := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		seen[name]++
	}
	s := pooly.NewService("test", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{MaxConns: 2},
		Logger:     slog.New(slog.DiscardHandler),
		Observer: &pooly.Observer{
			Dialled: func(e pooly.DialEvent) {
				count("dials")
				if e.Err != nil {
					count("failures")
				}
			},
			Waited: func(e pooly.WaitEvent) {
				count("waits")
				if e.Duration <= 0 || e.Duration > time.Minute || e.Err != nil || e.Address == "" {
					t.Error(e)
				}
			},
			Leased: func(e pooly.LeaseEvent) { count("gets") },
			Released: func(e pooly.ReleaseEvent) {
				count("puts")
				if e.Lasted <= 0 || e.Lasted > time.Minute {
					t.Error(e)
				}
			},
			Ejected: func(pooly.EjectEvent) { count("ejections") },
		},
	})
	s.Add(listen(t, echo))
	s.Add(listen(t, echo))
	s.Add(closedPort(t))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if err := ping(s, "hello\n"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stats := s.Stats()
	require.NoError(t, s.Close())
	closed := s.Stats()
	mu.Lock()
	defer mu.Unlock()
	require.EqualValues(t, 1600, seen["gets"])
	require.Equal(t, stats.Gets, seen["gets"])
	require.Equal(t, stats.Puts, seen["puts"])
	require.Equal(t, stats.Waits, seen["waits"])
	require.NotZero(t, seen["waits"])
	require.GreaterOrEqual(t, seen["dials"], stats.Dials)
	require.LessOrEqual(t, seen["dials"], closed.Dials)
	require.GreaterOrEqual(t, seen["failures"], stats.Failures)
	require.EqualValues(t, 1, seen["ejections"])
}

// TestWaitsAreRegionsOfATrace needs no parser: the region's name is in the trace's table of strings.
func TestWaitsAreRegionsOfATrace(t *testing.T) {
	if runtimetrace.IsEnabled() {
		t.Skip("the tests are being traced")
	}
	traced := func(f func(*pooly.Service)) bool {
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: newFakeDriver()}, PrespawnConns: -1,
		})
		defer s.Close()
		s.Add("a")
		release(t, get(t, s)) // untraced, so that a connection is idle
		var b bytes.Buffer
		require.NoError(t, runtimetrace.Start(&b))
		f(s)
		runtimetrace.Stop()
		return bytes.Contains(b.Bytes(), []byte("pooly.wait"))
	}
	require.False(t, traced(func(s *pooly.Service) { release(t, get(t, s)) }), "it does not wait")
	require.True(t, traced(func(s *pooly.Service) {
		idle, dialled := get(t, s), get(t, s)
		release(t, idle)
		release(t, dialled)
	}))
	require.True(t, traced(func(s *pooly.Service) {
		c, err := s.DialContext(t.Context(), "", "")
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}))
}

// BenchmarkObserved is a pair without an Observer, and with one that only counts leases.
func BenchmarkObserved(b *testing.B) {
	counting := func(rate float64) *pooly.Observer {
		leased, released := 0, 0
		return &pooly.Observer{
			LeaseSampleRate: rate,
			Leased:          func(pooly.LeaseEvent) { leased++ },
			Released:        func(pooly.ReleaseEvent) { released++ },
		}
	}
	rest := new(story).observer()
	rest.Leased, rest.Released = nil, nil
	for _, o := range []struct {
		name     string
		observer *pooly.Observer
	}{
		{"none", nil}, {"others", rest}, {"leases=0.01", counting(0.01)}, {"leases=0.1", counting(0.1)}, {"leases=1", counting(1)},
	} {
		b.Run(o.name, func(b *testing.B) {
			s := pooly.NewService("bench", &pooly.ServiceConfig{
				PoolConfig: pooly.PoolConfig{Driver: nopDriver{}}, Observer: o.observer,
			})
			defer s.Close()
			for _, a := range []string{"a", "b", "c"} {
				s.Add(a)
			}
			for s.Stats().Idle < 3 {
				cycle(b, s)
			}
			b.ReportAllocs()
			for b.Loop() {
				cycle(b, s)
			}
		})
	}
}
