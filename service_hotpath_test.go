package pooly

import (
	"context"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/3XX0/pooly/internal/decay"
	"github.com/stretchr/testify/require"
)

// stubDriver connects to nothing at no cost.
type stubDriver struct{}

func (stubDriver) Dial(context.Context, string) (*Conn, error) { return NewConn(nil), nil }
func (stubDriver) Close(*Conn)                                 {}
func (stubDriver) TestOnBorrow(*Conn) error                    { return nil }
func (stubDriver) Temporary(error) bool                        { return false }

// stubService returns a service whose hosts have a connection each.
func stubService(b *testing.B, strategy Bandit, hosts int) *Service {
	b.Helper()
	s := NewService("bench", &ServiceConfig{
		PoolConfig:     PoolConfig{Driver: stubDriver{}},
		PrespawnConns:  -1,
		BanditStrategy: strategy,
	})
	b.Cleanup(func() { require.NoError(b, s.Close()) })
	for i := range hosts {
		s.Add(strconv.Itoa(i))
	}
	leases := make([]*Conn, hosts)
	for i, h := range s.order {
		c, err := h.Get()
		require.NoError(b, err)
		leases[i] = c
	}
	for _, c := range leases {
		require.NoError(b, c.Release(nil, HostUp))
	}
	return s
}

var benchStrategies = []struct {
	name string
	make func() Bandit
}{
	{"RoundRobin", func() Bandit { return NewRoundRobin() }},
	{"EpsilonGreedy", func() Bandit { return NewEpsilonGreedy(0.1) }},
	{"SoftMax", func() Bandit { return NewSoftMax(0.1) }},
}

// Whoever adds a field to host, Pool or conn may push another out of the lines that every call
// touches.
func TestWhatAPairTouchesTakesFewCacheLines(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the layout is made for 64 bits")
	}
	const line = 64
	var h host
	var c conn
	newest, ok := reflect.TypeFor[decay.Window]().FieldByName("newest")
	require.True(t, ok)
	begin := unsafe.Offsetof(h.window) + newest.Offset
	end := unsafe.Offsetof(h.Pool) + unsafe.Offsetof(h.Pool.latency) + unsafe.Sizeof(h.Pool.latency)
	require.LessOrEqual(t, end-begin, uintptr(2*line))
	allocated = new(host)
	require.Zero(t, (uintptr(unsafe.Pointer(allocated))+begin)%(2*line), "the hot part of host begins with a line of even number")
	require.LessOrEqual(t, unsafe.Offsetof(c.live), uintptr(line))
}

var allocated *host // on the heap, since it is global

// BenchmarkPick is GetConn's choice among 3 hosts.
func BenchmarkPick(b *testing.B) {
	for _, strategy := range benchStrategies {
		b.Run(strategy.name, func(b *testing.B) {
			s := stubService(b, strategy.make(), 3)
			v := s.current(b.Context())
			require.NotNil(b, v)
			for b.Loop() {
				if h, _ := v.pick(s); h == nil {
					b.Fatal("no host")
				}
			}
		})
	}
}

// BenchmarkPoolsAtRandom is a pair without the choice, of hosts in random order: what memory costs.
func BenchmarkPoolsAtRandom(b *testing.B) {
	for _, hosts := range []int{3, 10_000} {
		b.Run("hosts="+strconv.Itoa(hosts), func(b *testing.B) {
			s := stubService(b, NewRoundRobin(), hosts)
			order := append([]*host(nil), s.order...)
			rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			i := 0
			for b.Loop() {
				if i++; i >= len(order) {
					i = 0
				}
				if err := order[i].takeIdle().Release(nil, HostUp); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefresh computes the scores of 10,000 hosts and puts them in effect: of all, and of all
// when no cache has them, as after 100 ms of other work.
func BenchmarkRefresh(b *testing.B) {
	other := make([]byte, 64<<20) // more than the caches hold
	for _, strategy := range benchStrategies {
		s := stubService(b, strategy.make(), 10_000)
		for _, mode := range []string{"all", "cold"} {
			b.Run(strategy.name+"/"+mode, func(b *testing.B) {
				b.ReportAllocs()
				for range b.N {
					b.StopTimer()
					if mode == "cold" {
						for j := 0; j < len(other); j += 64 {
							other[j]++
						}
					}
					b.StartTimer()
					<-s.rebuild(true).done
				}
			})
		}
	}
}

// BenchmarkNewPicker is what each strategy makes of 10,000 hosts that are all in use.
func BenchmarkNewPicker(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	arms := make([]Arm, 10_000)
	for i := range arms {
		arms[i] = Arm{Score: rng.Float64(), Trials: 100 * rng.Float64()}
	}
	for _, strategy := range []Bandit{
		NewRoundRobin(), NewWeightedRoundRobin(), NewEpsilonGreedy(0.1), NewSoftMax(0.1), NewUCB(0.5), NewThompson(),
		NewPowerOfTwo(), NewPeakEWMA(5), NewHotCold(5, 0.84),
	} {
		b.Run(strategyName(strategy), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p := strategy.NewPicker(arms)
				if u, ok := p.(*ucbPicker); ok {
					u.picks.Store(50_000) // which it spreads next time
				}
			}
		})
	}
}

// A refresh that comes between an ejection and the rebuild that it asks for must not bring the host
// back.
func TestRefreshAfterAnEjectionLeavesTheHostOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewService("ejection", &ServiceConfig{PoolConfig: PoolConfig{Driver: stubDriver{}}, PrespawnConns: -1})
		defer s.Close()
		s.Add("a")
		s.Add("b")
		c, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, HostUp))
		out := s.hosts["b"]
		out.mu.Lock()
		out.become(ejected)
		out.mu.Unlock()
		time.Sleep(s.slotLength / 2)
		require.NotContains(t, s.snapshot.Load().hosts, out)
	})
}

// gatedBandit is round-robin whose pickers take as long as the gate is closed.
type gatedBandit struct{ gate chan struct{} }

func (b gatedBandit) NewPicker(arms []Arm) Picker {
	<-b.gate
	return NewRoundRobin().NewPicker(arms)
}

// A snapshot that is being built when a host is ejected has that host. It must not be all that the
// ejection gets.
func TestEjectionDuringABuildAsksForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		s := NewService("ejection", &ServiceConfig{
			PoolConfig: PoolConfig{Driver: stubDriver{}}, PrespawnConns: -1, BanditStrategy: gatedBandit{gate},
		})
		defer s.Close()
		s.Add("a")
		s.Add("b")
		running := s.rebuild(false)
		synctest.Wait()
		require.Same(t, running, s.rebuild(false))
		out := s.hosts["b"]
		out.mu.Lock()
		out.become(ejected)
		out.mu.Unlock()
		next := s.rebuild(false)
		require.NotSame(t, running, next)
		close(gate)
		<-next.done
		require.NotContains(t, s.snapshot.Load().hosts, out)
	})
}

func TestLevelOffHandsOutAllPicks(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60_000 {
		arms := make([]Arm, 1+rng.IntN(30))
		most := math.Exp(12 * rng.Float64())
		for i := range arms {
			arms[i] = Arm{Score: rng.Float64(), Trials: most * (1 - 0.1*rng.Float64())}
		}
		u := NewUCB(math.Exp(4*rng.Float64() - 3))
		picks, sum := math.Floor(1+math.Exp(12*rng.Float64())), 0.0
		for _, part := range u.spread(arms, picks) {
			sum += part
		}
		require.InEpsilon(t, picks, sum, 0.01, "%d arms of up to %v trials, %v", len(arms), most, u)
	}
}

// The common ways of GetConn and Release must not be taken where something else is to be done.

func TestFirstCallAfterAPauseHasTheScoresOfNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewService("pause", &ServiceConfig{PoolConfig: PoolConfig{Driver: stubDriver{}}})
		defer s.Close()
		s.Add("a")
		cycle := func() {
			c, err := s.GetConn()
			require.NoError(t, err)
			require.NoError(t, c.Release(nil, HostUp))
		}
		cycle()
		time.Sleep(time.Hour)
		was := s.hosts["a"].score.Load()
		require.Greater(t, was, 0.5, "of when the service fell asleep")
		cycle()
		require.Equal(t, 0.5, s.hosts["a"].score.Load(), "nothing was tried within DecayDuration")
	})
}

func TestCallWhoseContextHasEndedGetsNoIdleConnection(t *testing.T) {
	s := NewService("ended", &ServiceConfig{PoolConfig: PoolConfig{Driver: stubDriver{}}})
	defer s.Close()
	s.Add("a")
	p := NewPool("a", &PoolConfig{Driver: stubDriver{}})
	defer p.Close()
	for name, get := range map[string]func(context.Context) (*Conn, error){"service": s.GetConnContext, "pool": p.GetContext} {
		c, err := get(t.Context())
		require.NoError(t, err, name)
		require.NoError(t, c.Release(nil, HostUp), name)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = get(ctx)
		require.ErrorIs(t, err, context.Canceled, name)
	}
	require.Zero(t, s.Stats().InUse+p.Stats().InUse)
}

func TestLastLeaseOfAConnectionThatEndsWellClosesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("a", &PoolConfig{Driver: stubDriver{}})
		defer p.Close()
		c, err := p.Get()
		require.NoError(t, err)
		require.True(t, p.spend(c, forRequest))
		require.NoError(t, c.Release(nil, HostUp))
		synctest.Wait()
		require.Zero(t, p.Stats().Open)
	})
}

// Or all leases that follow on one that was timed, with metrics at a low rate, would end in the
// longer way.
func TestWhenALeaseBeganIsForgottenAsItEnds(t *testing.T) {
	p := NewPool("a", &PoolConfig{Driver: stubDriver{}})
	defer p.Close()
	c, err := p.Get()
	require.NoError(t, err)
	c.conn.start = 1
	require.NoError(t, c.Release(nil, HostUp))
	require.Zero(t, c.conn.start)
}
