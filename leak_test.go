package pooly_test

import (
	"bytes"
	"context"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// logBook is a log to read.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(text []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(text)
}

// take returns the lines logged since the last call.
func (b *logBook) take() (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.text.String()) {
		lines = append(lines, line)
	}
	b.text.Reset()
	return lines
}

// leaky returns the configuration of a service that finds leaks, and its log.
func leaky(timeout time.Duration) (pooly.ServiceConfig, *logBook) {
	book := new(logBook)
	return pooly.ServiceConfig{Logger: slog.New(slog.NewTextHandler(book, nil)),
		PoolConfig: pooly.PoolConfig{LeakTimeout: timeout}}, book
}

const (
	leakMessage = `level=WARN msg="pooly: lease is out longer than LeakTimeout" service=test address=a `
	backMessage = `level=WARN msg="pooly: lease came back that was out longer than LeakTimeout" service=test address=a `
)

//go:noinline
func leakOne(t *testing.T, s *pooly.Service) *pooly.Conn { return get(t, s) }

func TestLeakIsLoggedOnceWithItsStackAndWhenItComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, book := leaky(time.Minute)
		s, _ := newService(t, config, "a")
		c := leakOne(t, s)
		time.Sleep(time.Minute - time.Second)
		require.Empty(t, book.take())
		require.Zero(t, s.Stats().Leaked)
		time.Sleep(time.Minute/4 + time.Second)
		lines := book.take()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], leakMessage+"for=1m")
		require.Contains(t, lines[0], `stack="github.com/3XX0/pooly_test.get\n`)
		require.Contains(t, lines[0], "pooly_test.leakOne")
		require.Equal(t, 1, s.Stats().Leaked)
		require.Equal(t, 1, hostStats(t, s, "a").Leaked)

		for range 3 {
			release(t, get(t, s)) // others go on
			time.Sleep(time.Hour)
		}
		require.Empty(t, book.take())
		require.NoError(t, c.Rate(pooly.Outcome{Score: 1}))
		release(t, c)
		lines = book.take()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], backMessage+"lasted=3h1m15s")
		require.ErrorIs(t, c.Release(nil, 1), pooly.ErrConnReleased)
		require.Zero(t, s.Stats().Leaked)
		require.Zero(t, s.Stats().InUse)
		require.EqualValues(t, 4, s.Stats().Puts)
		release(t, get(t, s))
	})
}

// AfterRelease is part of the lease, so a slow one is reported. Its connection is idle afterwards.
func TestSlowAfterReleaseIsNoLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, book := leaky(time.Minute)
		config.MaxConns = 1
		config.Hooks.AfterRelease = func(*pooly.Conn) bool {
			time.Sleep(time.Hour)
			return true
		}
		s, d := newService(t, config, "a")
		c := get(t, s)
		time.Sleep(2 * time.Minute)
		release(t, c)
		synctest.Wait()
		require.Zero(t, s.Stats().InUse)
		require.Equal(t, 1, s.Stats().Idle)
		require.Zero(t, s.Stats().Leaked)
		lines := book.take()
		require.Contains(t, lines[0], leakMessage+"for=1m")
		require.Contains(t, lines[len(lines)-1], backMessage)

		release(t, get(t, s))
		require.Equal(t, 1, d.host("a").dials)
	})
}

// The sample may have left out a lease. Then the log says so, and the next leaks have their stacks.
func TestLeakWithoutAStackIsFoundAndLaterOnesHaveThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, book := leaky(time.Minute)
		s, _ := newService(t, config, "a")
		pooly.SampleStacks(s, 1<<20)
		first := get(t, s)
		time.Sleep(2 * time.Minute)
		lines := book.take()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], leakMessage)
		require.Contains(t, lines[0], `stack="none: the lease was not in the sample; all leases from now on leave their stack"`)
		second := leakOne(t, s)
		time.Sleep(2 * time.Minute)
		lines = book.take()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "leakOne")
		require.Equal(t, 2, s.Stats().Leaked)
		require.NoError(t, first.CloseOnRelease())
		release(t, first)
		release(t, second)
		require.Len(t, book.take(), 2)
		synctest.Wait()
		require.Equal(t, 1, s.Stats().Open)
	})
}

// A stall of all hosts makes all leases long. The log must not drown in that.
func TestManyLeaksAtOnceAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, book := leaky(time.Minute)
		s, _ := newService(t, config, "a")
		var held []*pooly.Conn
		for range 30 {
			held = append(held, get(t, s))
		}
		time.Sleep(2 * time.Minute)
		lines := book.take()
		require.Len(t, lines, 11)
		require.Contains(t, lines[10], `msg="pooly: more leases are out longer than LeakTimeout" service=test leases=20`)
		require.Equal(t, 30, s.Stats().Leaked)
		for _, c := range held {
			release(t, c)
		}
		require.Len(t, book.take(), 10, "a return is logged if the leak was")
	})
}

func TestLeaseOfARemovedHostIsALeakToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, book := leaky(time.Minute)
		s, _ := newService(t, config, "a")
		c := get(t, s)
		s.Remove("a")
		time.Sleep(2 * time.Minute)
		require.Len(t, book.take(), 1)
		require.Equal(t, 1, s.Stats().Leaked)
		release(t, c)
	})
}

func TestLeakAtCloseIsCutAndSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, book := leaky(time.Minute)
		s, d := newService(t, config, "a")
		c := get(t, s)
		time.Sleep(2 * time.Minute)
		require.Len(t, book.take(), 1)
		require.ErrorIs(t, s.Close(), pooly.ErrOpTimeout)
		require.ErrorIs(t, c.Release(nil, 1), pooly.ErrPoolClosed)
		require.ErrorIs(t, c.Release(nil, 1), pooly.ErrConnReleased)
		require.Empty(t, book.take())
		require.Zero(t, d.host("a").open)
	})
}

func TestClientConnectionsOfDialContextAreNoLeaks(t *testing.T) {
	config, book := leaky(10 * time.Millisecond)
	config.PrespawnConns = -1
	s := pooly.NewService("test", &config)
	defer s.Close()
	s.Add(listen(t, echo))
	nc, err := s.DialContext(context.Background(), "", "")
	require.NoError(t, err)
	c := get(t, s) // so that there are sweeps
	var lines []string
	for range 100 { // sweeps take place meanwhile
		time.Sleep(time.Millisecond)
		lines = append(lines, book.take()...)
		require.LessOrEqual(t, s.Stats().Leaked, 1)
	}
	require.Len(t, lines, 1)
	release(t, c)
	require.Zero(t, s.Stats().Leaked)
	require.NoError(t, nc.Close())
}

// Each way to a lease must tell the finder.
func TestLeaksAreFoundWhereverTheLeaseComesFrom(t *testing.T) {
	for name, lease := range map[string]func(*pooly.Service) (*pooly.Conn, error){
		"GetConn": (*pooly.Service).GetConn,
		"Lease": func(s *pooly.Service) (*pooly.Conn, error) {
			return s.Lease(context.Background(), pooly.LeaseOptions{})
		},
		"Lease that avoids": func(s *pooly.Service) (*pooly.Conn, error) {
			return s.Lease(context.Background(), pooly.LeaseOptions{Avoid: []string{"b"}})
		},
		"TryLease": func(s *pooly.Service) (*pooly.Conn, error) { return s.TryLease(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config, book := leaky(time.Minute)
				s, d := newService(t, config, "a", "b")
				d.refuse("b")
				c, err := lease(s)
				require.NoError(t, err)
				time.Sleep(2 * time.Minute)
				lines := strings.Join(book.take(), "")
				require.Contains(t, lines, leakMessage)
				require.Contains(t, lines, "TestLeaksAreFoundWhereverTheLeaseComesFrom")
				require.Equal(t, 1, s.Stats().Leaked)
				release(t, c)
			})
		})
	}
}

func TestLeakOfAPoolUsedAloneIsLoggedByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := new(logBook)
		was := slog.Default()
		slog.SetDefault(slog.New(slog.NewTextHandler(book, nil)))
		defer slog.SetDefault(was)
		p := pooly.NewPool("a", &pooly.PoolConfig{Driver: newFakeDriver(), LeakTimeout: time.Minute})
		defer p.Close()
		c, err := p.Get()
		require.NoError(t, err)
		time.Sleep(2 * time.Minute)
		lines := book.take()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "TestLeakOfAPoolUsedAloneIsLoggedByDefault")
		require.Equal(t, 1, p.Stats().Leaked)
		require.NoError(t, c.End())
		require.Zero(t, p.Stats().Leaked)
	})
}

func TestServiceWithoutLeasesDoesNotLookForLeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config, _ := leaky(time.Minute)
		s, _ := newService(t, config, "a")
		release(t, get(t, s))
		time.Sleep(time.Hour)
		require.False(t, pooly.LooksForLeaks(s))
		c := get(t, s)
		require.True(t, pooly.LooksForLeaks(s))
		time.Sleep(time.Hour)
		require.True(t, pooly.LooksForLeaks(s))
		release(t, c)
	})
}

// A lease that the program has lost, on a real socket: its place is free again, and the server sees its connection
// closed.
func TestLostLeaseGivesItsPlaceBack(t *testing.T) {
	ended := make(chan struct{}, 10)
	config, book := leaky(20 * time.Millisecond)
	config.PrespawnConns, config.MaxConns = -1, 1
	s := pooly.NewService("test", &config)
	defer s.Close()
	s.Add(listen(t, func(c net.Conn) {
		echo(c)
		ended <- struct{}{}
	}))
	get(t, s)
	require.Eventually(t, func() bool {
		runtime.GC()
		return s.Stats().InUse == 0
	}, 10*time.Second, time.Millisecond)
	<-ended
	require.NoError(t, ping(s, "next"))
	lines := book.take()
	require.Len(t, lines, 2)
	require.Contains(t, lines[0], "pooly: lease is out longer than LeakTimeout")
	require.Contains(t, lines[1], "pooly: lease was garbage-collected without Release; its connection is closed")
	require.Contains(t, lines[1], "TestLostLeaseGivesItsPlaceBack")
	require.EqualValues(t, 1, s.Stats().Puts)
}

// A lease that is only long must be left alone by the garbage collector.
func TestLongLeaseSurvivesTheGarbageCollector(t *testing.T) {
	config, book := leaky(20 * time.Millisecond)
	config.PrespawnConns = -1
	s := pooly.NewService("test", &config)
	defer s.Close()
	s.Add(listen(t, echo))
	c := get(t, s)
	require.Eventually(t, func() bool { return s.Stats().Leaked == 1 }, 10*time.Second, time.Millisecond)
	for range 10 {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	require.Equal(t, 1, s.Stats().InUse)
	release(t, c)
	require.Equal(t, 1, s.Stats().Idle)
	require.Len(t, book.take(), 2)
	runtime.GC()
	release(t, get(t, s))
	require.Equal(t, 1, s.Stats().Open)
}

func TestStacksTakeAHundredthOfTheTimeOfLeases(t *testing.T) {
	for _, test := range []struct {
		cost, lasted time.Duration
		every        uint32
	}{
		{time.Microsecond, time.Millisecond, 1},
		{time.Microsecond, 100 * time.Microsecond, 1},
		{time.Microsecond, 10 * time.Microsecond, 10},
		{2 * time.Microsecond, 100 * time.Nanosecond, 2000},
		{time.Second, 0, 1 << 20},
		{0, 0, 1},
	} {
		require.Equal(t, test.every, pooly.StackRate(test.cost, test.lasted), test)
	}
}

// Leases end in every way while sweeps look at them.
func TestLeaksAreCountedRightWhileLeasesComeAndGo(t *testing.T) {
	config, _ := leaky(time.Millisecond)
	config.PrespawnConns, config.MaxConns = -1, 4
	config.Hooks.PrepareConn = func(context.Context, *pooly.Conn) (bool, error) { return mathrand.IntN(8) > 0, nil }
	config.Hooks.AfterRelease = func(*pooly.Conn) bool { return mathrand.IntN(8) > 0 }
	s := pooly.NewService("test", &config)
	defer s.Close()
	s.SetHosts(listen(t, echo), listen(t, echo))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				c, err := s.GetConn()
				if err != nil {
					continue // refused
				}
				time.Sleep(time.Duration(mathrand.IntN(40)) * time.Millisecond)
				switch (i + j) % 4 {
				case 0:
					_ = c.Rate(pooly.Outcome{Score: 1})
					_ = c.End()
				case 1:
					_ = c.Release(errFatal, 0)
				case 2:
					_ = c.CloseOnRelease()
					_ = c.Release(nil, 1)
				case 3:
					_ = c.Release(nil, 1)
					_ = c.Release(nil, 1)
				}
			}
		})
	}
	wg.Wait()
	stats := s.Stats()
	require.Zero(t, stats.Leaked)
	require.Zero(t, stats.InUse)
	require.Equal(t, stats.Gets, stats.Puts)
	require.Greater(t, stats.Gets, uint64(100))
}

// What LeakTimeout costs a pair, see docs/GUIDE.md: off, on, and after a leak was found, when each lease leaves its
// stack.
func BenchmarkLeakTimeout(b *testing.B) {
	for _, mode := range []string{"off", "on", "found"} {
		b.Run(mode, func(b *testing.B) {
			config := pooly.ServiceConfig{Logger: slog.New(slog.DiscardHandler),
				PoolConfig: pooly.PoolConfig{Driver: nopDriver{}}}
			switch mode {
			case "on":
				config.LeakTimeout = time.Hour
			case "found":
				config.LeakTimeout = time.Nanosecond
			}
			s := pooly.NewService("bench", &config)
			defer s.Close()
			s.Add("a")
			if mode == "found" {
				c, err := s.GetConn()
				require.NoError(b, err)
				defer func() { _ = c.End() }()
				for s.Stats().Leaked == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			b.ResetTimer()
			for range b.N {
				c, err := s.GetConn()
				if err != nil {
					b.Fatal(err)
				}
				_ = c.Release(nil, pooly.HostUp)
			}
		})
	}
}

// What it would cost to have the garbage collector tell of each lease that is lost, see docs/GUIDE.md.
func BenchmarkHandle(b *testing.B) {
	type handle struct{ conn *int }
	conn := new(int)
	var kept *handle
	for _, mode := range []string{"plain", "cleanup"} {
		b.Run(mode, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				kept = &handle{conn}
				if mode == "cleanup" {
					runtime.AddCleanup(kept, func(int) {}, 0).Stop()
				}
			}
			runtime.KeepAlive(kept)
		})
	}
}

// A sweep watches a lease that its caller has not seen yet. It was then taken for one that had ended,
// and its place was lost.
func TestLeaseThatIsUndoneLateLosesNoPlace(t *testing.T) {
	exit := func() { runtime.Goexit() }
	for name, test := range map[string]struct {
		refuse  func()
		prepare bool
	}{
		"PrepareConn refuses":             {func() {}, true},
		"PrepareConn ends its goroutine":  {exit, true},
		"TestOnBorrow fails":              {func() {}, false},
		"TestOnBorrow ends its goroutine": {exit, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config, _ := leaky(time.Minute)
				config.MaxConns, config.KeepAlive = 2, -1
				var armed atomic.Bool
				slow := func(now bool) error {
					if !now || !armed.Swap(false) {
						return nil
					}
					time.Sleep(time.Hour)
					test.refuse()
					return errHook
				}
				config.Hooks.PrepareConn = func(context.Context, *pooly.Conn) (bool, error) {
					err := slow(test.prepare)
					return err == nil, err
				}
				s, d := newService(t, config, "a")
				d.test = func(*fakeConn) error { return slow(!test.prepare) }
				other := get(t, s) // has the sweeps go on
				armed.Store(true)
				go func() {
					if c, err := s.GetConn(); err == nil {
						release(t, c)
					}
				}()
				time.Sleep(2 * time.Hour)
				require.False(t, armed.Load())
				release(t, other)
				require.Zero(t, s.Stats().InUse)
				require.Zero(t, s.Stats().Leaked)
				require.Equal(t, s.Stats().Open, s.Stats().Idle)
				require.NoError(t, s.Close())
				require.Zero(t, d.host("a").open)
			})
		})
	}
}
