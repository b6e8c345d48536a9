package bench

import (
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

const (
	few  = 4  // connections
	many = 64 // goroutines that want one
)

// BenchmarkContended has 64 goroutines use 4 connections. Each use gives up the processor once, as
// one that waits for a reply would; without that two cores never have more than two leases out.
// Each pool takes turns with puddle, see byTurns. It reports how long calls waited for their
// connection, besides the time per pair.
func BenchmarkContended(b *testing.B) {
	for _, p := range peers.Pools {
		b.Run("peer="+p.Name, func(b *testing.B) {
			pool, puddle := p.New(few, peers.Nothing), peers.NewPuddle(few, peers.Nothing)
			defer pool.Close()
			defer puddle.Close()
			var own, others contention
			own.take(b, pool)
			others.take(b, puddle)
			own, others = contention{}, contention{}
			for b.Loop() {
				others.take(b, puddle)
				own.take(b, pool)
			}
			b.ReportMetric(median(own.pair), "ns/op")
			b.ReportMetric(median(own.p50), "p50-wait-ns")
			b.ReportMetric(median(own.p99), "p99-wait-ns")
			b.ReportMetric(median(ratios(own.pair, others.pair)), "x-puddle")
			b.ReportMetric(median(ratios(own.p99, others.p99)), "p99-x-puddle")
			waits := new([many][uses]time.Duration)
			reportAllocations(b, many*uses, func() { contend(b, pool, waits) })
		})
	}
}

// uses is how often each goroutine uses a connection in a turn, which takes some 20 ms.
const uses = 300

// contention is what was measured in each turn, in nanoseconds.
type contention struct{ pair, p50, p99 []float64 }

func (c *contention) take(b *testing.B, p peers.Peer) {
	var waits [many][uses]time.Duration
	began := time.Now()
	contend(b, p, &waits)
	c.pair = append(c.pair, float64(time.Since(began))/(many*uses))
	all := make([]time.Duration, 0, many*uses)
	for i := range waits {
		all = append(all, waits[i][:]...)
	}
	slices.Sort(all)
	c.p50 = append(c.p50, float64(all[len(all)/2]))
	c.p99 = append(c.p99, float64(all[len(all)*99/100]))
}

// contend lets the goroutines run, and notes how long each use waited.
func contend(b *testing.B, p peers.Peer, waits *[many][uses]time.Duration) {
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			var asked time.Time
			k := 0
			use := func(net.Conn) {
				waits[i][k] = time.Since(asked)
				runtime.Gosched()
			}
			for k = range uses {
				asked = time.Now()
				if err := p.Pair(use); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestFIFO checks what the contended benchmark could otherwise be won with: callers are served in
// the order in which they came.
func TestFIFO(t *testing.T) {
	s := peers.NewService(1, &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}})
	defer s.Close()
	first, err := s.GetConn()
	if err != nil {
		t.Fatal(err)
	}
	order := make(chan int, many)
	for i := range many {
		go func() {
			err := s.Pair(func(net.Conn) { order <- i })
			if err != nil {
				t.Error(err)
			}
		}()
		for s.Stats().Waiting <= i {
			runtime.Gosched()
		}
	}
	if err := first.Release(nil, pooly.HostUp); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		if got := <-order; got != i {
			t.Fatalf("caller %d was served as number %d", got, i)
		}
	}
}
