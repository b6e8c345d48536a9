package bench

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

// A machine that others use, too, is fast at one time and half as fast a second later, so that two benchmarks which follow
// one another cannot be compared. Here a pool takes turns with yardsticks, and what counts is the median of the ratios
// of turns that follow one another: a turn is shorter than most of the noise lasts.
//
// Garbage collections fall into few of the turns, and the median leaves them out, for all pools alike.

// turnOf returns how long a turn takes over so many hosts: long enough to pick each of them a few
// times, so that what the processor has in its caches is from that turn, and for 16 goroutines to
// start.
func turnOf(hosts int) time.Duration {
	return max(2*time.Millisecond, time.Duration(hosts)*2*time.Microsecond)
}

// runner makes a number of pairs.
type runner func(b *testing.B, p peers.Peer, pairs int)

// A yardstick is what a pool takes turns with.
type yardstick struct {
	name string
	new  func() peers.Peer
}

var roundRobin = yardstick{"roundrobin", strategy(peers.Strategies[0].New, 3)}

func strategy(bandit func() pooly.Bandit, hosts int) func() peers.Peer {
	return func() peers.Peer { return peers.NewService(hosts, &pooly.ServiceConfig{BanditStrategy: bandit()}) }
}

// contestant is what takes part in turns, and what was measured of it.
type contestant struct {
	peer  peers.Peer
	pairs int       // of a turn
	ns    []float64 // of a pair, by turns
}

// byTurns measures p against yardsticks that are used in the same way. It reports the median time
// of a pair, for each yardstick that of its own and the ratio, and what p allocates for a pair.
func byTurns(b *testing.B, p peers.Peer, run runner, turn time.Duration, yardsticks ...yardstick) {
	contestants := []contestant{{peer: p}}
	for _, y := range yardsticks {
		other := y.new()
		defer other.Close()
		contestants = append(contestants, contestant{peer: other})
	}
	for i := range contestants {
		c := &contestants[i]
		c.pairs = calibrate(b, c.peer, run, turn)
	}
	for b.Loop() {
		for i := range contestants {
			c := &contestants[i]
			c.ns = append(c.ns, pairTime(b, c.peer, run, c.pairs))
		}
	}
	own := contestants[0]
	b.ReportMetric(median(own.ns), "ns/op")
	for i, y := range yardsticks {
		other := contestants[i+1]
		b.ReportMetric(median(other.ns), y.name+"-ns")
		b.ReportMetric(median(ratios(own.ns, other.ns)), "x-"+y.name)
	}
	reportAllocations(b, own.pairs, func() { run(b, p, own.pairs) })
}

// reportAllocations reports what use allocates for each of its pairs.
func reportAllocations(b *testing.B, pairs int, use func()) {
	b.ReportAllocs()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	use()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(pairs), "allocs/op")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(pairs), "B/op")
}

// warmUp is long enough for each of 10,000 hosts to have served several leases: the first of one
// takes microseconds, since it gets its memory.
const warmUp = 100 * time.Millisecond

// calibrate returns how many pairs take a turn, after the warm-up.
func calibrate(b *testing.B, p peers.Peer, run runner, turn time.Duration) (pairs int) {
	for began := time.Now(); time.Since(began) < warmUp; {
		run(b, p, 1)
	}
	for pairs = 1; ; pairs *= 2 {
		least := pairTime(b, p, run, pairs)
		for range 4 { // something else may have come between
			least = min(least, pairTime(b, p, run, pairs))
		}
		if least*float64(pairs) >= float64(turn)/2 {
			return pairs
		}
	}
}

// pairTime returns the nanoseconds that a pair takes.
func pairTime(b *testing.B, p peers.Peer, run runner, pairs int) float64 {
	began := time.Now()
	run(b, p, pairs)
	return float64(time.Since(began)) / float64(pairs)
}

func inSequence(b *testing.B, p peers.Peer, pairs int) {
	for range pairs {
		if err := p.Pair(nil); err != nil {
			b.Fatal(err)
		}
	}
}

func inParallel(b *testing.B, p peers.Peer, pairs int) {
	grain := min(128, max(1, pairs/128)) // what a goroutine takes at a time
	var begun atomic.Int64
	var wg sync.WaitGroup
	for range goroutines * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				first := int(begun.Add(int64(grain))) - grain
				for range min(grain, pairs-first) {
					if err := p.Pair(nil); err != nil {
						b.Error(err)
						return
					}
				}
				if first >= pairs {
					return
				}
			}
		})
	}
	wg.Wait()
}

// ratios divides what was measured in each turn by what was of another in the same.
func ratios(own, others []float64) []float64 {
	all := make([]float64, len(own))
	for i := range all {
		all[i] = own[i] / others[i]
	}
	return all
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}
