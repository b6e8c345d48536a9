package bench

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly/bench/web"
)

func TestMain(m *testing.M) {
	web.ServeIfAsked()
	os.Exit(m.Run())
}

// BenchmarkHTTP has poolyhttp take turns with http.Transport over the same servers, which run in a
// process of their own. It reports the medians of a request's time, and of the ratios of time and
// of allocations of turns that follow one another.
func BenchmarkHTTP(b *testing.B) {
	servers, err := web.Start(4)
	if err != nil {
		b.Fatal(err)
	}
	defer servers.Stop()
	for _, version := range []int{1, 2} {
		for _, backends := range []int{1, 4} {
			for _, callers := range []int{1, 64} {
				for _, size := range []int{100, 1_000_000} {
					name := fmt.Sprintf("version=%d/backends=%d/callers=%d/bytes=%d", version, backends, callers, size)
					b.Run(name, func(b *testing.B) {
						httpByTurns(b, version, servers.Addresses[:backends], callers, size, 0)
					})
				}
			}
			name := fmt.Sprintf("version=%d/backends=%d/callers=1/bytes=100/deadline=1s", version, backends)
			b.Run(name, func(b *testing.B) {
				httpByTurns(b, version, servers.Addresses[:backends], 1, 100, time.Second)
			})
		}
	}
}

// httpTurn is how long a turn of either transport takes.
const httpTurn = 10 * time.Millisecond

func httpByTurns(b *testing.B, version int, addresses []string, callers, size int, timeout time.Duration) {
	var measured [2]struct{ ns, cpu, allocs, bytes []float64 } // of a request, by turns
	clients := [2]*web.Client{web.NewPooly(version, addresses), web.NewNetHTTP(version, addresses)}
	// The callers live as long as the benchmark, so that turns do not pay for the growth of their
	// stacks.
	var wg sync.WaitGroup
	var current *web.Client
	var left atomic.Int64
	turns := make(chan struct{})
	defer close(turns)
	for range callers {
		go func() {
			for range turns {
				for left.Add(-1) >= 0 {
					if err := current.Get(size, timeout); err != nil {
						b.Error(err)
						break
					}
				}
				wg.Done()
			}
		}()
	}
	run := func(c *web.Client, requests int) time.Duration {
		began := time.Now()
		current = c
		left.Store(int64(requests))
		wg.Add(callers)
		for range callers {
			turns <- struct{}{}
		}
		wg.Wait()
		return time.Since(began)
	}
	requests := callers
	for _, c := range clients {
		defer c.Close()
		for began := time.Now(); time.Since(began) < warmUp; {
			run(c, requests)
		}
	}
	for run(clients[1], requests) < httpTurn {
		requests *= 2
	}
	var before, after runtime.MemStats
	for b.Loop() {
		for i, c := range clients {
			m := &measured[i]
			runtime.ReadMemStats(&before)
			cpu := web.CPUTime()
			took := run(c, requests)
			m.cpu = append(m.cpu, float64(web.CPUTime()-cpu)/float64(requests))
			runtime.ReadMemStats(&after)
			m.ns = append(m.ns, float64(took)/float64(requests))
			m.allocs = append(m.allocs, float64(after.Mallocs-before.Mallocs)/float64(requests))
			m.bytes = append(m.bytes, float64(after.TotalAlloc-before.TotalAlloc)/float64(requests))
		}
	}
	b.ReportAllocs() // show the two that follow
	ours, theirs := measured[0], measured[1]
	b.ReportMetric(median(ours.ns), "ns/op")
	b.ReportMetric(median(ours.allocs), "allocs/op")
	b.ReportMetric(median(ours.bytes), "B/op")
	b.ReportMetric(median(theirs.ns), "nethttp-ns")
	b.ReportMetric(median(theirs.allocs), "nethttp-allocs")
	b.ReportMetric(median(theirs.bytes), "nethttp-B")
	b.ReportMetric(median(ratios(ours.ns, theirs.ns)), "x-nethttp")
	b.ReportMetric(median(ratios(ours.cpu, theirs.cpu)), "cpu-x-nethttp")
}
