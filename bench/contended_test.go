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

// BenchmarkContended has 64 goroutines use 4 connections. Each use gives up the processor once, as one that
// waits for a reply would; without that two cores never have more than two leases out. It reports how long
// calls waited for their connection, besides the time per pair.
func BenchmarkContended(b *testing.B) {
	for _, p := range peers.Pools {
		b.Run("peer="+p.Name, func(b *testing.B) {
			pool := p.New(few, peers.Nothing)
			defer pool.Close()
			contended(b, pool)
		})
	}
}

func contended(b *testing.B, p peers.Peer) {
	b.ReportAllocs()
	waits := make([][]time.Duration, many)
	for i := range waits {
		waits[i] = make([]time.Duration, 0, b.N/many+1)
	}
	var wg sync.WaitGroup
	b.ResetTimer()
	for i := range waits {
		wg.Go(func() {
			var asked time.Time
			use := func(net.Conn) {
				waits[i] = append(waits[i], time.Since(asked))
				runtime.Gosched()
			}
			for range cap(waits[i]) {
				asked = time.Now()
				if err := p.Pair(use); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(waits...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2]), "p50-wait-ns")
	b.ReportMetric(float64(all[len(all)*99/100]), "p99-wait-ns")
}

// TestFIFO checks what the contended benchmark could otherwise be won with: callers are served in the order in
// which they came.
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
