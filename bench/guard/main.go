// Guard fails if pooly has become slow, in a few seconds and on any machine:
//
//	go -C bench run ./guard
//
// It compares only what it has measured itself within the same seconds, and in processor time, so that neither
// the machine nor its other work matter; of many short, interleaved measurements it takes the lower quartile. The least
// would be less noisy still, but one reading of the processor time that comes out too small decides it. The bounds
// leave room besides (bench/RESULTS.md has what is reached), so that it turns red for another allocation, or
// for work that grows with the hosts, and not for noise.
package main

import (
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
	"github.com/3XX0/pooly/bench/web"
)

const (
	attempts = 4 // if a check fails, all is measured again, from nothing
	rounds   = 25
	pairs    = 20_000 // of each measurement: two for each of 10,000 hosts
	many     = 10_000 // hosts
	requests = 192    // over HTTP, of each measurement
)

// A check compares the measurement of a subject with another's, or with 1 if that has no name.
type check struct {
	subject, than string
	atMost        float64
}

var checks = []check{
	{"pooly-roundrobin 3", "puddle", 0.75},
	{"pooly-roundrobin 3", "channelpool", 1},
	{"allocations per pair", "", 0.5},
	{"bytes per pair", "", 40},
	{"contended pooly", "contended puddle", 1.5},
	{"bytes of contended pooly", "bytes of contended puddle", 0.5}, // 8 and 176
	{"refresh 10000 more than 3, percent of a core", "", 1},
	{"add 10000", "add 1000", 4},
	{"remove 10000", "remove 1000", 4},
	{"HTTP/1 sequential", "HTTP/1 sequential net/http", 1.15},
	{"HTTP/1 parallel", "HTTP/1 parallel net/http", 1.15},
	{"HTTP/2 sequential", "HTTP/2 sequential net/http", 1.15},
	{"HTTP/2 parallel", "HTTP/2 parallel net/http", 1.15},
	{"allocations of HTTP/1 sequential", "allocations of HTTP/1 sequential net/http", 1},
	{"allocations of HTTP/2 sequential", "allocations of HTTP/2 sequential net/http", 1},
}

func init() {
	for _, s := range peers.Strategies {
		few, all := "pooly-"+s.Name+" 3", fmt.Sprintf("pooly-%s %d", s.Name, many)
		checks = append(checks, check{all, few, 20})
		if s.Name == "epsilon" || s.Name == "softmax" { // the others look at more than one host, or time leases
			checks = append(checks, check{few, "pooly-roundrobin 3", 1.8})
		}
	}
}

// samples holds what was measured of each subject: nanoseconds of processor time, or a count.
type samples map[string][]float64

func (s samples) take(subject string, value float64) {
	s[subject] = append(s[subject], value)
}

// of returns the lower quartile, NaN if nothing was measured.
func (s samples) of(subject string) float64 {
	values := slices.Sorted(slices.Values(s[subject]))
	if len(values) == 0 {
		return math.NaN()
	}
	return values[len(values)/4]
}

func (s samples) ratio(c check) float64 {
	if c.than == "" {
		return s.of(c.subject)
	}
	return s.of(c.subject) / s.of(c.than)
}

func main() {
	web.ServeIfAsked()
	for attempt := 1; ; attempt++ {
		measured := make(samples)
		measured.pairs()
		measured.contended()
		measured.addRemove()
		measured.refresh()
		measured.http()
		failed := 0
		for _, c := range checks {
			verdict, ratio := "ok  ", measured.ratio(c)
			if !(ratio <= c.atMost) || math.IsNaN(ratio) {
				verdict = "FAIL"
				failed++
			}
			what := c.subject
			if c.than != "" {
				what += " / " + c.than
			}
			fmt.Printf("%s %-76s %7.2f, at most %.2f\n", verdict, what, ratio, c.atMost)
		}
		if failed == 0 {
			return
		}
		if attempt == attempts {
			fmt.Printf("guard: %d of %d checks failed, %d times\n", failed, len(checks), attempts)
			os.Exit(1)
		}
		fmt.Println("guard: once more")
	}
}

// pairs measures a lease and its end, of each pool in turn.
func (l samples) pairs() {
	subjects := map[string]peers.Peer{
		"puddle":      peers.NewPuddle(30, peers.Nothing),
		"channelpool": peers.NewChannelPool(30, peers.Nothing),
	}
	for _, s := range peers.Strategies {
		for _, hosts := range []int{3, many} {
			config := &pooly.ServiceConfig{BanditStrategy: s.New()}
			subjects[fmt.Sprintf("pooly-%s %d", s.Name, hosts)] = peers.NewService(hosts, config)
		}
	}
	for range rounds {
		for name, p := range subjects {
			l.take(name, cpuTime(func() { run(p, pairs, nil) })/pairs)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(subjects["pooly-roundrobin 3"], pairs, nil)
	runtime.ReadMemStats(&after)
	l.take("allocations per pair", float64(after.Mallocs-before.Mallocs)/pairs)
	l.take("bytes per pair", float64(after.TotalAlloc-before.TotalAlloc)/pairs)
	for _, p := range subjects {
		p.Close()
	}
}

// contended has 64 goroutines use 4 connections, on one processor, where they take turns in the
// same way each time.
func (l samples) contended() {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	subjects := map[string]peers.Peer{
		"contended puddle": peers.NewPuddle(4, peers.Nothing),
		"contended pooly": peers.NewService(1, &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConns: 4, Driver: peers.NewDriver(peers.Nothing)},
		}),
	}
	for range rounds {
		for name, p := range subjects {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			l.take(name, cpuTime(func() {
				var wg sync.WaitGroup
				for range 64 {
					wg.Go(func() { run(p, 100, func(net.Conn) { runtime.Gosched() }) })
				}
				wg.Wait()
			}))
			runtime.ReadMemStats(&after)
			l.take("bytes of "+name, float64(after.TotalAlloc-before.TotalAlloc))
		}
	}
	for _, p := range subjects {
		p.Close()
	}
}

// addRemove measures what adding and removing one of many hosts takes.
func (l samples) addRemove() {
	for range 5 {
		for _, hosts := range []int{1000, 10_000} {
			s := peers.NewService(0, &pooly.ServiceConfig{PrespawnConns: -1})
			addresses := peers.Addresses(hosts)
			adding := cpuTime(func() {
				for _, address := range addresses {
					s.Add(address)
				}
			})
			removing := cpuTime(func() {
				for _, address := range addresses {
					s.Remove(address)
				}
			})
			s.Close()
			l.take(fmt.Sprintf("add %d", hosts), adding/float64(hosts))
			l.take(fmt.Sprintf("remove %d", hosts), removing/float64(hosts))
		}
	}
}

// refresh measures what a service of many hosts with little traffic takes more than one of few,
// which is what their scores take. They are measured by turns: what a process takes to wake up so
// often differs more from minute to minute.
func (l samples) refresh() {
	const measured = time.Second // in which a slot ends
	share := func(s peers.Service) float64 {
		began := time.Now()
		used := cpuTime(func() {
			for time.Since(began) < measured {
				run(s, 1, nil)
				time.Sleep(pooly.DefaultMemoizeScoreDuration / 5)
			}
		})
		return 100 * used / float64(time.Since(began))
	}
	all, few := peers.NewService(many, &pooly.ServiceConfig{}), peers.NewService(3, &pooly.ServiceConfig{})
	defer all.Close()
	defer few.Close()
	share(all) // in the first second, hosts get the memory for their slots
	for range 6 {
		runtime.GC()
		time.Sleep(3 * pooly.DefaultMemoizeScoreDuration) // until the other sleeps
		without := share(few)
		runtime.GC()
		time.Sleep(3 * pooly.DefaultMemoizeScoreDuration)
		l.take("refresh 10000 more than 3, percent of a core", share(all)-without)
	}
}

// http measures requests through poolyhttp and through http.Transport to the same servers, by
// turns. The servers have a process of their own, whose time does not count.
func (l samples) http() {
	servers, err := web.Start(4)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guard:", err)
		os.Exit(1)
	}
	defer servers.Stop()
	for version := 1; version <= 2; version++ {
		clients := map[string]*web.Client{
			"":          web.NewPooly(version, servers.Addresses),
			" net/http": web.NewNetHTTP(version, servers.Addresses),
		}
		for how, callers := range map[string]int{"sequential": 1, "parallel": 64} {
			for round := range 1 + rounds {
				for name, c := range clients {
					name = fmt.Sprintf("HTTP/%d %s%s", version, how, name)
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					used := cpuTime(func() { get(c, callers) })
					runtime.ReadMemStats(&after)
					if round == 0 { // dials
						continue
					}
					l.take(name, used/requests)
					l.take("allocations of "+name, float64(after.Mallocs-before.Mallocs)/requests)
				}
			}
		}
		for _, c := range clients {
			c.Close()
		}
	}
}

func get(c *web.Client, callers int) {
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range requests / callers {
				if err := c.Get(100, 0); err != nil {
					fmt.Fprintln(os.Stderr, "guard:", err)
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

func run(p peers.Peer, n int, use func(net.Conn)) {
	for range n {
		if err := p.Pair(use); err != nil {
			fmt.Fprintln(os.Stderr, "guard:", err)
			os.Exit(1)
		}
	}
}

// cpuTime returns the nanoseconds of processor time that the process spends on f.
func cpuTime(f func()) float64 {
	before := web.CPUTime()
	f()
	return float64(web.CPUTime() - before)
}
