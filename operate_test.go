package pooly_test

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// requireAllCounted holds if each connection that was dialled is open or was closed for a reason.
func requireAllCounted(t *testing.T, s pooly.PoolStats) {
	t.Helper()
	require.Equal(t, s.Dials-s.Failures, uint64(s.Open)+s.Closed.Total(), "%+v", s)
}

func TestEvictReplacesConnectionsWithoutBlame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
		held, idle, other := get(t, s), get(t, s), get(t, s)
		for held.Address() != "a" || idle.Address() != "a" {
			held, idle, other = idle, other, held
		}
		score := hostStats(t, s, "a").Score
		release(t, idle)
		require.NoError(t, s.Evict("a"))
		synctest.Wait()
		require.True(t, fakeOf(idle).isClosed())
		require.False(t, fakeOf(held).isClosed(), "its user has it still")
		require.False(t, fakeOf(other).isClosed(), "it is of another host")
		release(t, held)
		synctest.Wait()
		require.True(t, fakeOf(held).isClosed())

		a := hostStats(t, s, "a")
		require.False(t, a.Ejected)
		require.GreaterOrEqual(t, a.Score, score)
		require.EqualValues(t, 2, a.Closed.Evicted)
		requireAllCounted(t, a.PoolStats)
		for range 2 {
			c := get(t, s)
			require.False(t, fakeOf(c).isClosed())
			defer release(t, c)
		}
		require.Positive(t, d.host("a").open+d.host("b").open)
	})
}

// What is dialled while Evict is called may be of the old kind, too.
func TestEvictReplacesConnectionsWhoseDialsBeganBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		d.slow("a", 100*time.Millisecond)
		lease := make(chan *pooly.Conn)
		go func() { c, _ := s.GetConn(); lease <- c }()
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, s.Evict("a"))
		c := <-lease
		require.NotNil(t, c, "its caller has no other")
		release(t, c)
		synctest.Wait()
		require.True(t, fakeOf(c).isClosed())
		again := get(t, s)
		release(t, again)
		require.False(t, fakeOf(again).isClosed())
		require.EqualValues(t, 1, s.Stats().Closed.Evicted)
	})
}

// Many callers must not all dial at the same moment.
func TestAfterEvictConnectionsAreDialledMoreAndMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{FallbackDelay: -1}, "a")
		var leases []*pooly.Conn
		for range 20 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases {
			release(t, c)
		}
		require.NoError(t, s.Evict("a"))
		d.slow("a", 10*time.Millisecond)
		var most atomic.Int32
		for range 20 {
			go func() {
				if c, err := s.GetConn(); err == nil {
					defer func() { _ = c.Release(nil, pooly.HostUp) }()
					time.Sleep(time.Second)
				}
			}()
		}
		for range 3 {
			synctest.Wait()
			most.Store(max(most.Load(), int32(s.Stats().Dialing)))
			require.LessOrEqual(t, int(most.Load()), s.Stats().InUse+1)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		require.EqualValues(t, 20, s.Stats().Closed.Evicted)
	})
}

func TestEvictHasASharedClientReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials, open := 0, 0
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: pooly.NewSharedDriver(pooly.DriverFuncs[*int]{
				Dial:  func(context.Context, string) (*int, error) { dials++; open++; return new(int), nil },
				Close: func(*int) error { open--; return nil },
			})},
			PrespawnConns: -1,
		})
		s.Add("a")
		held, idle := get(t, s), get(t, s)
		old := pooly.Value[*int](held)
		release(t, idle)
		require.NoError(t, s.Evict("a"))
		require.Equal(t, 1, dials)
		c := get(t, s)
		require.NotSame(t, old, pooly.Value[*int](c))
		require.Equal(t, 2, dials)
		require.Equal(t, 2, open, "a lease of the old one is out")
		release(t, held)
		synctest.Wait()
		require.Equal(t, 1, open)
		release(t, c)
		require.EqualValues(t, 2, s.Stats().Closed.Evicted)
		require.NoError(t, s.Close())
		require.Zero(t, open)
	})
}

func TestEvictOutdatesConnectionsOfDialContext(t *testing.T) {
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, echo))
	address := s.Stats().Hosts[0].Address
	c := dial(t, s)
	defer c.Close()
	require.False(t, pooly.Outdated(c))
	require.NoError(t, s.Evict(address))
	require.True(t, pooly.Outdated(c))
	got, err := say(c, "still there")
	require.NoError(t, err)
	require.Equal(t, "still there\n", got)
	again := dial(t, s)
	defer again.Close()
	require.False(t, pooly.Outdated(again))
}

func TestEvictClosesRealSockets(t *testing.T) {
	var closed atomic.Int32
	address := listen(t, func(c net.Conn) { echo(c); closed.Add(1) })
	p := pooly.NewPool(address, nil)
	idle, err := p.Get()
	require.NoError(t, err)
	held, err := p.Get()
	require.NoError(t, err)
	release(t, idle)
	p.Evict()
	eventually(t, func() bool { return closed.Load() == 1 })
	release(t, held)
	eventually(t, func() bool { return closed.Load() == 2 })
	again, err := p.Get()
	require.NoError(t, err)
	release(t, again)
	require.Equal(t, 1, p.Stats().Idle)
	requireAllCounted(t, p.Stats())
	require.NoError(t, p.Close())
	requireAllCounted(t, p.Stats())
	require.EqualValues(t, 1, p.Stats().Closed.Removed)
}

func TestDrainLetsLeasesFinishAndBeginsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1}, "a", "b")
		synctest.Wait()
		var held *pooly.Conn
		for held == nil || held.Address() != "a" {
			held = get(t, s)
			defer release(t, held)
		}
		require.NoError(t, s.Drain("a"))
		require.NoError(t, s.Drain("a"), "again")
		synctest.Wait()
		dials := d.host("a").dials
		for range 50 {
			c := get(t, s)
			require.Equal(t, "b", c.Address())
			release(t, c)
		}
		a := hostStats(t, s, "a")
		require.True(t, a.Draining)
		require.Equal(t, 1, a.Open)
		require.Equal(t, 1, a.InUse)
		require.Zero(t, a.Limit)
		require.True(t, s.Has("a"))
		require.Equal(t, 2, s.Stats().Registered)
		require.NotContains(t, s.Shares(), "a")
		require.NotContains(t, s.Status(), "a")

		s.SetHosts("a", "b") // as a resolver does again and again
		s.Add("a")
		s.Report("a", errFatal)
		s.SetHosts("b")
		require.False(t, s.Has("a"))
		s.SetHosts("a", "b")
		time.Sleep(time.Hour)
		require.True(t, hostStats(t, s, "a").Draining)
		require.Equal(t, dials, d.host("a").dials, "neither dials nor probes")
		require.False(t, fakeOf(held).isClosed())
	})
}

func TestDrainedHostIsEmptyOnceItsLeasesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		held := get(t, s)
		idle := get(t, s)
		release(t, idle)
		require.NoError(t, s.Drain("a"))
		synctest.Wait()
		require.Equal(t, 1, hostStats(t, s, "a").Open)
		release(t, held)
		synctest.Wait()
		a := hostStats(t, s, "a")
		require.True(t, a.Draining)
		require.Zero(t, a.Open+a.Dialing)
		require.Zero(t, d.host("a").open)
		require.EqualValues(t, 2, s.Stats().Closed.Removed)
		requireAllCounted(t, s.Stats().PoolStats)

		require.NoError(t, s.Resume("a"))
		require.NoError(t, s.Resume("a"), "again")
		require.False(t, hostStats(t, s, "a").Draining)
		release(t, get(t, s))
		s.Remove("a")
		require.NoError(t, s.Close())
	})
}

func TestGetConnFailsAtOnceIfAllHostsAreDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a", "b")
		d.slow("b", time.Minute)
		held := get(t, s)
		for held.Address() != "a" {
			release(t, held)
			held = get(t, s)
		}
		failure := make(chan error, 2)
		for range 2 { // one in the line of b, one in the queue
			go func() { _, err := s.GetConn(); failure <- err }()
		}
		synctest.Wait()
		require.NoError(t, s.Drain("a"))
		require.NoError(t, s.Drain("b"))
		began := time.Now()
		for range 2 {
			require.ErrorContains(t, <-failure, "all 2 hosts are drained")
		}
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.ErrorContains(t, err, "all 2 hosts are drained")
		_, err = s.DialContext(t.Context(), "", "")
		require.ErrorContains(t, err, "all 2 hosts are drained")
		_, err = s.TryLease(t.Context())
		require.ErrorContains(t, err, "all 2 hosts are drained")
		require.Zero(t, time.Since(began))
		release(t, held)
		s.Remove("a")
		s.Remove("b")
		_, err = s.GetConn()
		require.ErrorContains(t, err, "no host is registered")
		s.Add("a")
		release(t, get(t, s))
	})
}

func TestDrainOfAnEjectedHostEndsItsProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1, Logger: slog.New(slog.DiscardHandler)}, "b")
		d.refuse("a")
		s.Add("a")
		time.Sleep(time.Second)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.NoError(t, s.Drain("a"))
		dials := d.host("a").dials
		time.Sleep(time.Hour)
		require.Equal(t, dials, d.host("a").dials)
		d.accept("a")
		require.NoError(t, s.Resume("a"))
		time.Sleep(time.Second)
		require.Equal(t, 1, hostStats(t, s, "a").Open)
	})
}

func TestAnotherHostTakesThePlaceOfADrainedOneInTheSubset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{MaxHosts: 2, SubsetSeed: 1}, "a", "b", "c", "d")
		first := s.Status()
		require.Len(t, first, 2)
		for address := range first {
			require.NoError(t, s.Drain(address))
		}
		stats := s.Stats()
		require.Equal(t, 4, stats.Registered)
		require.Len(t, stats.Hosts, 4, "two in use, two drained")
		second := s.Status()
		require.Len(t, second, 2)
		for address := range second {
			require.NotContains(t, first, address)
			require.NoError(t, s.Drain(address))
		}
		_, err := s.GetConn()
		require.ErrorContains(t, err, "all 4 hosts are drained")
		s.SetHosts("a", "b", "c", "d", "e")
		c := get(t, s)
		require.Equal(t, "e", c.Address())
		release(t, c)
		s.SetHosts("a", "b", "c", "d")
		for address := range second {
			require.NoError(t, s.Resume(address))
		}
		for address := range first {
			require.NoError(t, s.Resume(address))
		}
		require.Equal(t, first, s.Status(), "those that rank first are back")
	})
}

// Panic mode and the threshold below which hosts return count the hosts in use alone.
func TestDrainedHostsDoNotCountAsHostsThatAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			ConsecutiveFailures: 1, BanditStrategy: inOrder{"bad", "good"}, Logger: slog.New(slog.DiscardHandler),
		}, "good", "bad", "x", "y", "z")
		for _, address := range []string{"x", "y", "z"} {
			require.NoError(t, s.Drain(address))
		}
		d.slow("bad", 0)
		c := get(t, s)
		require.Equal(t, "bad", c.Address())
		_ = c.Release(errFatal, pooly.HostDown)
		require.True(t, hostStats(t, s, "bad").Ejected)
		require.False(t, s.Stats().Panic)
		c = get(t, s)
		require.Equal(t, "good", c.Address())
		release(t, c)
	})
}

func TestFollowDoesNotUndoADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{})
		lists := pooly.ResolverFunc(func(ctx context.Context) iter.Seq2[[]string, error] {
			return func(yield func([]string, error) bool) {
				for i := 0; ctx.Err() == nil; i++ {
					list := []string{"a", "b"}
					if i%3 == 2 { // it loses a from sight now and then
						list = list[1:]
					}
					if !yield(list, nil) {
						return
					}
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
					}
				}
			}
		})
		require.NoError(t, s.Follow(t.Context(), lists))
		require.NoError(t, s.Drain("a"))
		for range 30 {
			time.Sleep(700 * time.Millisecond)
			c := get(t, s)
			require.Equal(t, "b", c.Address())
			release(t, c)
		}
		require.NoError(t, s.Resume("a"))
		time.Sleep(10 * time.Second)
		require.NoError(t, s.Close())
	})
}

func TestDrainClosesRealSockets(t *testing.T) {
	var open atomic.Int32
	serve := func(c net.Conn) { open.Add(1); defer open.Add(-1); echo(c) }
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, serve), listen(t, echo))
	address := s.Stats().Hosts[0].Address
	for range 20 {
		require.NoError(t, ping(s, "ping"))
	}
	c := dial(t, s)
	defer c.Close()
	require.NoError(t, s.Drain(address))
	if c.RemoteAddr().String() == address {
		require.True(t, pooly.Outdated(c))
		require.NoError(t, c.Close())
	}
	eventually(t, func() bool { return hostStats(t, s, address).Open == 0 })
	for range 20 {
		require.NoError(t, ping(s, "ping"))
	}
	require.NoError(t, s.Resume(address))
	for range 20 {
		require.NoError(t, ping(s, "ping"))
	}
	requireAllCounted(t, s.Stats().PoolStats)
}

func TestResizeUpServesWaitersAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a", "b")
		for range 2 {
			_ = get(t, s)
		}
		served := make(chan *pooly.Conn, 8)
		for range 8 {
			go func() { c, _ := s.GetConn(); served <- c }()
		}
		synctest.Wait()
		require.Empty(t, served)
		began := time.Now()
		require.NoError(t, s.Resize(5))
		for range 8 {
			require.NotNil(t, <-served)
		}
		require.Zero(t, time.Since(began))
		stats := s.Stats()
		require.Equal(t, 10, stats.MaxConns)
		require.Equal(t, 10, stats.InUse)
		s.Add("c")
		require.Equal(t, 5, hostStats(t, s, "c").MaxConns, "hosts of later have it, too")
		for range 5 {
			require.Equal(t, "c", get(t, s).Address())
		}
	})
}

func TestResizeDownClosesIdleConnectionsNowAndLeasedOnesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 10}}, "a")
		var leases []*pooly.Conn
		for range 10 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases[6:] {
			release(t, c)
		}
		require.NoError(t, s.Resize(8))
		synctest.Wait()
		require.Equal(t, 2, s.Stats().Idle)
		require.True(t, fakeOf(leases[6]).isClosed(), "the coldest")
		require.True(t, fakeOf(leases[7]).isClosed())

		require.NoError(t, s.Resize(4))
		synctest.Wait()
		require.Zero(t, s.Stats().Idle)
		require.Equal(t, 6, s.Stats().InUse, "none is taken from its user")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.GetConnContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for i, c := range leases[:6] {
			release(t, c)
			synctest.Wait()
			require.Equal(t, i < 2, fakeOf(c).isClosed(), i)
		}
		stats := s.Stats()
		require.Equal(t, 4, stats.Idle)
		require.Equal(t, 4, d.host("a").open)
		require.EqualValues(t, 6, stats.Closed.Surplus)
		requireAllCounted(t, stats.PoolStats)
		require.NoError(t, s.Resize(1))
		synctest.Wait()
		require.Equal(t, 1, s.Stats().Open)
	})
}

// A connection that is being closed slowly has a place, but those that are well must not be closed for that.
func TestResizeDownClosesNoMoreThanItMust(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{MaxConns: 6, Driver: slowToClose(newFakeDriver(), 500*time.Millisecond)},
			PrespawnConns: -1,
		})
		s.Add("a")
		var leases []*pooly.Conn
		for range 6 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases[3:] {
			release(t, c)
		}
		require.NoError(t, s.Resize(3))
		for _, c := range leases[:3] {
			release(t, c)
		}
		require.Equal(t, 3, s.Stats().Idle)
		time.Sleep(time.Second)
		require.Equal(t, 3, s.Stats().Open)
		require.NoError(t, s.Close())
	})
}

// A connection whose dial began when there was room for it is one too many, and a caller that waits has it once.
func TestResizeDownWhileADialIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 3}}, "a")
		held := get(t, s)
		d.slow("a", 100*time.Millisecond)
		for range 2 {
			go func() {
				if c, err := s.GetConn(); err == nil {
					_ = c.Release(nil, pooly.HostUp)
				}
			}()
		}
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, s.Resize(1))
		time.Sleep(time.Second)
		require.Equal(t, 1, s.Stats().Open)
		release(t, held)
		release(t, get(t, s))
		require.Equal(t, 1, s.Stats().Open)
	})
}

func TestResizeUpDialsAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		_ = get(t, s)
		d.slow("a", 100*time.Millisecond)
		served := make(chan *pooly.Conn, 4)
		for range 4 {
			go func() { c, _ := s.GetConn(); served <- c }()
		}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, s.Resize(5))
		for range 4 {
			require.NotNil(t, <-served)
		}
		require.Equal(t, 100*time.Millisecond, time.Since(began))
	})
}

// Their callers have gone.
func TestResizeDownClosesConnectionsThatNobodyWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 5}}, "a")
		held := get(t, s)
		d.slow("a", 100*time.Millisecond)
		for range 3 {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				_, _ = s.GetConnContext(ctx)
			}()
		}
		time.Sleep(60 * time.Millisecond)
		require.Equal(t, 3, s.Stats().Dialing)
		require.NoError(t, s.Resize(2))
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, 2, s.Stats().Open)
		require.EqualValues(t, 2, s.Stats().Closed.Surplus)
		release(t, held)
		require.Equal(t, 2, s.Stats().Idle)
	})
}

type tellsProbes struct {
	*fakeDriver
	probes *[]bool
}

func (d tellsProbes) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	*d.probes = append(*d.probes, pooly.IsProbe(ctx))
	return d.fakeDriver.Dial(ctx, address)
}

// A driver whose connections share a socket must not share the old one.
func TestAfterEvictADialSharesNothingOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var probes []bool
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{Driver: tellsProbes{newFakeDriver(), &probes}},
			PrespawnConns: -1,
		})
		s.Add("a")
		_ = get(t, s).CloseOnRelease()
		require.NoError(t, s.Evict("a"))
		for range 2 {
			_ = get(t, s)
		}
		require.Equal(t, []bool{false, true, false}, probes)
	})
}

func TestResizeOfSharedClientsKeepsTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: pooly.NewSharedDriver(pooly.DriverFuncs[*int]{
				Dial: func(context.Context, string) (*int, error) { dials++; return new(int), nil },
			})},
			PrespawnConns: -1,
		})
		s.Add("a")
		var leases []*pooly.Conn
		for range 10 {
			leases = append(leases, get(t, s))
		}
		for _, c := range leases[2:] {
			release(t, c)
		}
		require.NoError(t, s.Resize(1))
		for _, c := range leases[:2] {
			release(t, c)
		}
		synctest.Wait()
		require.Equal(t, 1, s.Stats().Open)
		c := get(t, s)
		require.NoError(t, s.Resize(5))
		for range 4 {
			require.Same(t, pooly.Value[*int](c), pooly.Value[*int](get(t, s)))
		}
		require.Equal(t, 1, dials)
	})
}

func TestResizeBoundsDialContextIfMaxConnsWasSet(t *testing.T) {
	for _, limited := range []bool{true, false} {
		config := pooly.ServiceConfig{PrespawnConns: -1}
		if limited {
			config.MaxConns = 1
		}
		s := pooly.NewService("clients", &config)
		defer s.Close()
		s.Add(listen(t, echo))
		first := dial(t, s)
		require.NoError(t, s.Resize(2))
		second := dial(t, s)
		third, err := s.DialContext(t.Context(), "", "")
		if limited {
			require.ErrorIs(t, err, pooly.ErrOverloaded)
			require.ErrorContains(t, err, "MaxConns of 2")
			require.NoError(t, s.Resize(1))
			require.NoError(t, second.Close())
			_, err = s.DialContext(t.Context(), "", "")
			require.ErrorIs(t, err, pooly.ErrOverloaded)
		} else {
			require.NoError(t, err, "the client has a limit of its own")
			require.NoError(t, third.Close())
			require.NoError(t, second.Close())
		}
		_, err = say(first, "hello")
		require.NoError(t, err)
		require.NoError(t, first.Close())
	}
}

func TestPoolResize(t *testing.T) {
	p := pooly.NewPool(listen(t, echo), &pooly.PoolConfig{MaxConns: 1})
	first, err := p.Get()
	require.NoError(t, err)
	second := make(chan *pooly.Conn)
	go func() { c, _ := p.Get(); second <- c }()
	require.NoError(t, p.Resize(2))
	release(t, <-second)
	require.NoError(t, p.Resize(1))
	release(t, first)
	eventually(t, func() bool { return p.Stats().Open == 1 })
	requireAllCounted(t, p.Stats())
	require.ErrorIs(t, p.Resize(0), pooly.ErrInvalidArg)
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Resize(1), pooly.ErrPoolClosed)
}

func TestOperationsSayWhatIsWrong(t *testing.T) {
	s, _ := newService(t, pooly.ServiceConfig{}, "a")
	for name, operate := range map[string]func(string) error{"Evict": s.Evict, "Drain": s.Drain, "Resume": s.Resume} {
		err := operate("no such")
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.EqualError(t, err, `pooly: invalid argument: service test: `+name+`: no host has the address "no such"`)
		require.NoError(t, operate("a"))
	}
	require.ErrorIs(t, s.Resize(0), pooly.ErrInvalidArg)
	require.ErrorIs(t, s.Resize(-5), pooly.ErrInvalidArg)
	require.NoError(t, s.Close())
	for _, operate := range []func(string) error{s.Evict, s.Drain, s.Resume} {
		require.ErrorIs(t, operate("a"), pooly.ErrPoolClosed)
	}
	require.ErrorIs(t, s.Resize(5), pooly.ErrPoolClosed)
}
