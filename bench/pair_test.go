// Package bench compares pooly with its peers; bench/run.sh turns its benchmarks into RESULTS.md.
package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

const (
	size       = 30 // connections of a pool: pooly's default
	goroutines = 8  // per core, in parallel mode
)

// BenchmarkPair is one lease and its end, of a connection that costs nothing, by turns with
// round-robin over 3 hosts, and those over 10,000 also with the same strategy over 3.
func BenchmarkPair(b *testing.B) {
	for _, p := range peers.Pools {
		b.Run(fmt.Sprintf("peer=%s/hosts=1", p.Name), func(b *testing.B) {
			bothModes(b, p.New(size, peers.Nothing), 1)
		})
	}
	for _, hosts := range []int{1, 3, 100, tenThousand} {
		for _, p := range peers.HostPools {
			b.Run(fmt.Sprintf("peer=%s/hosts=%d", p.Name, hosts), func(b *testing.B) {
				bothModes(b, p.New(hosts), hosts)
			})
		}
		for _, s := range peers.Strategies {
			b.Run(fmt.Sprintf("peer=pooly-%s/hosts=%d", s.Name, hosts), func(b *testing.B) {
				var yardsticks []yardstick
				if hosts == tenThousand {
					yardsticks = append(yardsticks, yardstick{"3-hosts", strategy(s.New, 3)})
				}
				bothModes(b, strategy(s.New, hosts)(), hosts, yardsticks...)
			})
		}
	}
}

func bothModes(b *testing.B, p peers.Peer, hosts int, more ...yardstick) {
	defer p.Close()
	yardsticks := append([]yardstick{roundRobin}, more...)
	b.Run("mode=sequential", func(b *testing.B) { byTurns(b, p, inSequence, turnOf(hosts), yardsticks...) })
	b.Run("mode=parallel", func(b *testing.B) { byTurns(b, p, inParallel, turnOf(hosts), yardsticks...) })
}

func sequential(b *testing.B, p peers.Peer) {
	b.ReportAllocs()
	used := cpuTime()
	for b.Loop() {
		if err := p.Pair(nil); err != nil {
			b.Fatal(err)
		}
	}
	reportCPU(b, cpuTime()-used)
}

func parallel(b *testing.B, p peers.Peer) {
	b.ReportAllocs()
	b.SetParallelism(goroutines)
	used := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := p.Pair(nil); err != nil {
				b.Error(err)
				return
			}
		}
	})
	reportCPU(b, cpuTime()-used)
}

// reportCPU reports the processor time of an operation, on all cores together and with the garbage
// collector's. Unlike the wall time it hardly depends on what else the machine does.
func reportCPU(b *testing.B, used time.Duration) {
	b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkFloor is what no pool of this shape can do without, so that a ratio can be told from a
// machine: two uncontended locks, a lease of its own, the clock, a random number, a channel's
// handover.
func BenchmarkFloor(b *testing.B) {
	b.Run("what=mutex", func(b *testing.B) {
		var mu sync.Mutex
		for b.Loop() {
			mu.Lock()
			mu.Unlock() //lint:ignore SA2001 that is what is measured
		}
	})
	b.Run("what=lease", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			kept = supply.next(nil)
		}
	})
	b.Run("what=two-mutexes-and-lease", func(b *testing.B) {
		byTurns(b, newFloor(1), inSequence, turnOf(1), roundRobin)
	})
	b.Run("what=the-same-over-10000-at-random", func(b *testing.B) {
		byTurns(b, newFloor(tenThousand), inSequence, turnOf(tenThousand), roundRobin,
			yardstick{"epsilon", strategy(func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }, tenThousand)},
			yardstick{"softmax", strategy(func() pooly.Bandit { return pooly.NewSoftMax(0.1) }, tenThousand)})
	})
	b.Run("what=clock", func(b *testing.B) {
		base := time.Now()
		for b.Loop() {
			elapsed = time.Since(base)
		}
	})
	b.Run("what=context-err", func(b *testing.B) {
		ctx := context.Background()
		for b.Loop() {
			if ctx.Err() != nil {
				b.Fatal("ended")
			}
		}
	})
}

// floor is the least that a pool over many hosts can do for a pair: lock a host at random, lease
// its connection, unlock it, and lock it again to give that back and add to a score.
type floor []*floorHost

// floorHost is as large as pooly's, and has what a pair needs in two cache lines, too.
type floorHost struct {
	mu    sync.Mutex
	score int
	_     [64 - 16]byte
	idle  *floorConn
	_     [512 - 64 - 8]byte
}

type floorConn struct {
	supply leases
	_      [128 - 16]byte
}

func newFloor(hosts int) floor {
	f := make(floor, hosts)
	for i := range f {
		f[i] = &floorHost{idle: new(floorConn)}
	}
	return f
}

func (f floor) Pair(func(net.Conn)) error {
	h := f[rand.IntN(len(f))]
	h.mu.Lock()
	c := h.idle
	h.idle = nil
	l := c.supply.next(c)
	h.mu.Unlock()
	c = l.conn // all that a caller gives back
	h.mu.Lock()
	h.score++
	h.idle = c
	h.mu.Unlock()
	return nil
}

func (f floor) Close() {}

// lease is as small as one can be. Like pooly's, they are allocated 16 at a time.
type lease struct{ conn *floorConn }

type leases struct {
	chunk *[16]lease
	used  int
}

// next returns a lease that was not given out before.
func (l *leases) next(c *floorConn) *lease {
	if l.used %= len(l.chunk); l.used == 0 {
		l.chunk = new([16]lease)
		for i := range l.chunk {
			l.chunk[i].conn = c
		}
	}
	l.used++
	return &l.chunk[l.used-1]
}

var (
	supply  leases
	kept    *lease
	elapsed time.Duration
)
