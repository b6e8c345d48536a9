// Package bench compares pooly with its peers; bench/run.sh turns its benchmarks into RESULTS.md.
package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// BenchmarkPair is one lease and its end, of a connection that costs nothing.
func BenchmarkPair(b *testing.B) {
	for _, p := range peers.Pools {
		b.Run(fmt.Sprintf("peer=%s/hosts=1", p.Name), func(b *testing.B) {
			bothModes(b, p.New(size, peers.Nothing))
		})
	}
	for _, hosts := range []int{1, 3, 100, 10_000} {
		for _, p := range peers.HostPools {
			b.Run(fmt.Sprintf("peer=%s/hosts=%d", p.Name, hosts), func(b *testing.B) {
				bothModes(b, p.New(hosts))
			})
		}
		for _, s := range peers.Strategies {
			b.Run(fmt.Sprintf("peer=pooly-%s/hosts=%d", s.Name, hosts), func(b *testing.B) {
				bothModes(b, peers.NewService(hosts, &pooly.ServiceConfig{BanditStrategy: s.New()}))
			})
		}
	}
}

func bothModes(b *testing.B, p peers.Peer) {
	defer p.Close()
	b.Run("mode=sequential", func(b *testing.B) { sequential(b, p) })
	b.Run("mode=parallel", func(b *testing.B) { parallel(b, p) })
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

// reportCPU reports the processor time of an operation, on all cores together and with the garbage collector's.
// Unlike the wall time it hardly depends on what else the machine does.
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

// BenchmarkFloor is what no pool of this shape can do without, so that a ratio can be told from a machine: two
// uncontended locks, a lease of its own, the clock, a random number, a channel's handover.
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
			kept = supply.next()
		}
	})
	b.Run("what=two-mutexes-and-lease", func(b *testing.B) {
		b.ReportAllocs()
		var mu sync.Mutex
		for b.Loop() {
			mu.Lock()
			kept = supply.next()
			mu.Unlock()
			mu.Lock()
			kept.conn = nil
			mu.Unlock()
		}
	})
	b.Run("what=the-same-over-10000-at-random", func(b *testing.B) {
		for i := range hosts {
			hosts[i] = &floorHost{idle: new(floorConn)}
		}
		for b.Loop() {
			h := hosts[rand.IntN(len(hosts))]
			h.mu.Lock()
			c := h.idle
			h.idle = nil
			l := c.lease()
			h.mu.Unlock()
			c = l.conn // all that a caller gives back
			h.mu.Lock()
			h.score++
			h.idle = c
			h.mu.Unlock()
		}
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

// hosts are those of the floor at random.
var hosts [tenThousand]*floorHost

// floorHost is as large as pooly's, and has what a pair needs in two cache lines, too.
type floorHost struct {
	mu    sync.Mutex
	score int
	_     [64 - 16]byte
	idle  *floorConn
	_     [512 - 64 - 8]byte
}

type floorConn struct {
	leases *[8]floorLease
	used   int
	_      [128 - 16]byte
}

type floorLease struct{ conn *floorConn }

// lease returns a lease that was not given out before.
func (c *floorConn) lease() *floorLease {
	if c.used %= len(c.leases); c.used == 0 {
		c.leases = new([8]floorLease)
		for i := range c.leases {
			c.leases[i].conn = c
		}
	}
	c.used++
	return &c.leases[c.used-1]
}

// lease is as small as one can be. Like pooly's, they are allocated eight at a time, a cache line.
type lease struct{ conn *int }

type leases struct {
	chunk *[8]lease
	used  int
}

func (l *leases) next() *lease {
	if l.used %= len(l.chunk); l.used == 0 {
		l.chunk = new([8]lease)
	}
	l.used++
	return &l.chunk[l.used-1]
}

var (
	supply  leases
	kept    *lease
	elapsed time.Duration
)
