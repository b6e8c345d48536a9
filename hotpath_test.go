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
		ready := make(chan *waiter, 1)
		w := &waiter{ready: ready}
		require.Equal(b, waiting, h.get(w, true))
		leases[i] = (<-ready).lease
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

// Whoever adds a field to host, Pool or conn may push another out of the lines that every call touches.
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
	end := unsafe.Offsetof(h.waiters) + unsafe.Sizeof(h.waiters.length)
	require.Zero(t, begin%(2*line), "the hot part of host begins with a line of even number")
	require.LessOrEqual(t, end-begin, uintptr(2*line))
	allocated = new(host)
	require.Zero(t, uintptr(unsafe.Pointer(allocated))%(2*line), "the allocator aligns objects of 512 bytes")
	require.LessOrEqual(t, unsafe.Offsetof(c.live), uintptr(line))
}

var allocated *host // on the heap, since it is global

// BenchmarkPick is GetConn's choice among 3 hosts.
func BenchmarkPick(b *testing.B) {
	for _, strategy := range benchStrategies {
		b.Run(strategy.name, func(b *testing.B) {
			s := stubService(b, strategy.make(), 3)
			v, err := s.currentView()
			require.NoError(b, err)
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
				if err := order[i].takeIdle(false).Release(nil, HostUp); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRefresh computes the scores of 10,000 hosts and puts them in effect: of all, of all when no cache has
// them, as after 100 ms of other work, and with few rated since the last time.
func BenchmarkRefresh(b *testing.B) {
	const few = 100
	other := make([]byte, 64<<20) // more than the caches hold
	for _, strategy := range benchStrategies {
		s := stubService(b, strategy.make(), 10_000)
		refresh := func() {
			s.mu.Lock()
			s.refreshed = 0 // so that they are due
			s.mu.Unlock()
			s.refresh()
		}
		for _, mode := range []string{"all", "cold", "few"} {
			b.Run(strategy.name+"/"+mode, func(b *testing.B) {
				b.ReportAllocs()
				for i := range b.N {
					b.StopTimer()
					switch mode {
					case "few":
						for j := range few {
							h := s.order[(i*few+j)%len(s.order)]
							require.NoError(b, h.takeIdle(false).Release(nil, HostUp))
						}
						s.walked.slot = s.slotAt(s.clock.now())
					case "cold":
						for j := 0; j < len(other); j += 64 {
							other[j]++
						}
						fallthrough
					default:
						s.walked.slot = -1
					}
					b.StartTimer()
					refresh()
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

type pickerFunc func(*rand.Rand) int

func (f pickerFunc) Pick(rng *rand.Rand) int { return f(rng) }

func TestAHostWhoseLockIsTakenIsLeftForAnotherPick(t *testing.T) {
	s := NewService("redraw", &ServiceConfig{PoolConfig: PoolConfig{Driver: stubDriver{}}, MemoizeScoreDuration: time.Hour})
	defer s.Close()
	s.SetHosts("a", "b")
	for range 2 { // by turns, so that both have an idle connection
		c, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, HostUp))
	}
	v := *s.view.Load()
	v.redraws = true
	s.view.Store(&v)
	get := func(choices ...int) (picked *host, picks int) {
		v.picker = pickerFunc(func(*rand.Rand) int { picks++; return choices[picks-1] })
		c, err := s.get(t.Context())
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, HostUp))
		return c.conn.pool.host, picks
	}

	h, picks := get(0)
	require.Same(t, v.hosts[0], h)
	require.Equal(t, 1, picks, "no more while no other call is there")

	v.hosts[0].mu.Lock()
	h, picks = get(0, 1)
	require.Same(t, v.hosts[1], h)
	require.Equal(t, 2, picks)

	time.AfterFunc(10*time.Millisecond, v.hosts[0].mu.Unlock)
	h, picks = get(0, 0, 0)
	require.Same(t, v.hosts[0], h, "waits for the last pick")
	require.Equal(t, 3, picks)
}

// A view that was begun earlier may be filled later, and then hosts stand elsewhere than the current one has them.
func TestRefreshFindsHostsThatAnotherViewHasElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewService("places", &ServiceConfig{PoolConfig: PoolConfig{Driver: stubDriver{}}, PrespawnConns: -1})
		defer s.Close()
		for i := range 20 {
			s.Add(strconv.Itoa(i))
		}
		c, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, HostDown))
		v := s.view.Load()
		for _, h := range v.hosts {
			h.place.Store((h.place.Load() + 1) % 20)
		}
		time.Sleep(s.slotLength / 2)
		require.NotSame(t, v, s.view.Load())
		for i, a := range s.view.Load().arms {
			require.EqualValues(t, i, s.order[i].place.Load(), "which is mended, so that the next refresh finds it")
			require.Equal(t, s.order[i].address, a.Address)
			if a.Address == c.Address() {
				require.Zero(t, a.Score)
			} else {
				require.Equal(t, decay.NoTrials, a.Score)
			}
		}
	})
}

// A refresh that comes between an ejection and the rebuild that it asks for must not bring the host back.
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
		out.setHealthLocked(ejected)
		out.mu.Unlock()
		time.Sleep(s.slotLength / 2)
		require.NotContains(t, s.view.Load().hosts, out)
		require.Contains(t, s.view.Load().ejected, out)
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

// A plug-in that ends the goroutine of a call leaves the waiter in its line.
func TestWaiterThatStandsInALineServesNoOtherCall(t *testing.T) {
	env := &poolEnv{queue: new(waitQueue)}
	first, second := turn{env: env}, turn{env: env}
	w := first.waiter()
	require.True(t, env.queue.push(w))
	first.stand(w)
	first.done()
	require.NotSame(t, w, second.waiter())
	require.Same(t, w, env.queue.list.front)
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
		was := s.view.Load().arms[0].Score
		require.Greater(t, was, 0.5, "of when the service fell asleep")
		cycle()
		require.Equal(t, 0.5, s.view.Load().arms[0].Score, "nothing was tried within DecayDuration")
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
		require.True(t, p.spend(c))
		require.NoError(t, c.Release(nil, HostUp))
		require.Zero(t, p.Stats().Open)
	})
}

// Or all leases that follow on one that was timed, with metrics at a low rate, would end in the longer way.
func TestWhenALeaseBeganIsForgottenAsItEnds(t *testing.T) {
	p := NewPool("a", &PoolConfig{Driver: stubDriver{}})
	defer p.Close()
	c, err := p.Get()
	require.NoError(t, err)
	c.conn.start.Store(1)
	require.NoError(t, c.Release(nil, HostUp))
	require.Zero(t, c.conn.start.Load())
}
