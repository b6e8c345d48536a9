//go:build montecarlo_simulation

package poolyhttp_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// A hedgeWorld is hosts that serve requests at random times (Poisson) over HTTP/2. A host works on
// some requests at once, and the others wait in line there. It drops a request that its client gave
// up while it waited in line, and finishes one that it has begun.
type hedgeWorld struct {
	name     string
	hosts    int
	slots    int // 0: no limit
	strategy pooly.Bandit
	rate     float64                            // requests a second
	work     func(rng *rand.Rand) time.Duration // of a request
	redraw   bool                               // each copy has work of its own, because the host causes it
	unequal  bool                               // the hosts have 0.5 to 1.5 times the mean strength
}

const hedgeRequests = 30_000 // in each of hedgeRuns

const hedgeRuns = 3

// exponential work has the given mean.
func exponential(mean time.Duration) func(*rand.Rand) time.Duration {
	return func(rng *rand.Rand) time.Duration { return time.Duration(rng.ExpFloat64() * float64(mean)) }
}

// mixed work is short mostly, and long for 5 % of the requests. Its mean is 20 ms.
func mixed(rng *rand.Rand) time.Duration {
	if rng.Float64() < 0.05 {
		return exponential(210 * ms)(rng)
	}
	return exponential(10 * ms)(rng)
}

// logNormal work is that of the strategies' queueing scenario. Its mean is 20 ms.
func logNormal(rng *rand.Rand) time.Duration {
	return time.Duration(14.5 * float64(ms) * math.Exp(0.8*rng.NormFloat64()))
}

// stalling work stalls for 1 % of the requests, whatever the load.
func stalling(rng *rand.Rand) time.Duration {
	d := 5*ms + exponential(5*ms)(rng)
	if rng.Float64() < 0.01 {
		d += 300 * ms
	}
	return d
}

// play returns the latencies of all requests in order, and how many copies the hosts got.
func (w hedgeWorld) play(t *testing.T, seed uint64, delay time.Duration) (latencies []time.Duration, served int32) {
	var copies atomic.Int32
	handlers := make(map[string]http.HandlerFunc)
	for i := range w.hosts {
		var mu sync.Mutex // guards rng
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		slots := sync.OnceValue(func() chan struct{} { return make(chan struct{}, w.slots) }) // in the bubble
		handlers[fmt.Sprint("host", i)] = func(_ http.ResponseWriter, r *http.Request) {
			copies.Add(1)
			ns, _ := strconv.ParseInt(strings.TrimPrefix(r.URL.Path, "/"), 10, 64)
			work := time.Duration(ns)
			if w.redraw {
				mu.Lock()
				work = w.work(rng)
				mu.Unlock()
			}
			if w.slots > 0 {
				select {
				case slots() <- struct{}{}:
					defer func() { <-slots() }()
				case <-r.Context().Done():
					return
				}
			}
			if w.unequal {
				work = time.Duration(float64(work) / (0.5 + 0.25*float64(i%5)))
			}
			time.Sleep(work)
		}
	}
	config := pooly.ServiceConfig{BanditStrategy: w.strategy}
	inPipes(t, true, config, poolyhttp.Options{Hedge: delay}, handlers,
		func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
			rng := rand.New(rand.NewPCG(seed, 1<<32))
			var mu sync.Mutex // guards latencies
			var wg sync.WaitGroup
			var failed atomic.Int32
			for range hedgeRequests {
				time.Sleep(exponential(time.Duration(float64(time.Second) / w.rate))(rng))
				url := fmt.Sprint("http://web/", int64(w.work(rng)))
				wg.Go(func() {
					began := time.Now()
					if _, _, err := fetch(client, "GET", url, nil); err != nil {
						failed.Add(1)
					}
					mu.Lock()
					latencies = append(latencies, time.Since(began))
					mu.Unlock()
				})
			}
			wg.Wait()
			time.Sleep(time.Minute) // hosts finish what was given up
			require.Zero(t, failed.Load())
		})
	return latencies, copies.Load()
}

// TestMonteCarloHedge writes what hedges do to the tail of the latencies.
func TestMonteCarloHedge(t *testing.T) {
	worlds := []hedgeWorld{{
		name: "1 % stall 300 ms", hosts: 10, strategy: pooly.NewRoundRobin(), rate: 500,
		work: stalling, redraw: true,
	}}
	for _, redraw := range []bool{true, false} {
		for _, load := range []float64{0.5, 0.7, 0.85} {
			whose := "request's"
			if redraw {
				whose = "host's"
			}
			worlds = append(worlds, hedgeWorld{
				name:  fmt.Sprintf("load %.0f %%, the %s work", 100*load, whose),
				hosts: 20, slots: 4, strategy: pooly.NewHotCold(2, 0),
				rate: load * 20 * 4 / 0.020, work: mixed, redraw: redraw,
			})
		}
	}
	for _, load := range []float64{0.5, 0.7, 0.85} {
		worlds = append(worlds, hedgeWorld{
			name:  fmt.Sprintf("load %.0f %%, log-normal, unequal hosts", 100*load),
			hosts: 20, slots: 4, strategy: pooly.NewHotCold(5, 0.84),
			rate: load * 20 * 4 / 0.020, work: logNormal, unequal: true,
		})
	}
	fmt.Println("| hosts | hedges | p50 / p99 / p99.9 (ms) | copies |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, w := range worlds {
		var p99, p999 [2]float64
		for i, hedges := range []string{"none", "at p95"} {
			var all []time.Duration
			served := int32(0)
			for seed := range uint64(hedgeRuns) {
				latencies, n := w.play(t, seed, []time.Duration{0, poolyhttp.HedgeAtP95}[i])
				all, served = append(all, latencies...), served+n
			}
			slices.Sort(all)
			at := func(q float64) float64 {
				return float64(all[int(q*float64(len(all)))]) / float64(ms)
			}
			p99[i], p999[i] = at(0.99), at(0.999)
			fmt.Printf("| %s | %s | %.0f / %.0f / %.0f | %.1f %% |\n", w.name, hedges, at(0.5), p99[i], p999[i],
				100*float64(int(served)-len(all))/float64(len(all)))
		}
		most, most999 := 1.07, 1.1 // no harm, apart from chance
		if w.redraw {
			most, most999 = 0.75, 0.75
		}
		require.LessOrEqual(t, p99[1]/p99[0], most, w.name)
		require.LessOrEqual(t, p999[1]/p999[0], most999, w.name)
	}
}
