package bench

import (
	"fmt"
	"regexp"
	"runtime"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

const tenThousand = 10_000

// BenchmarkRefresh is the share of one core that a service takes under light traffic (twenty pairs
// a second), in percent. What 10,000 hosts take more than 3 is the refresh of their scores. It does
// not count the first second, in which each host gets its memory for the slots of the score.
func BenchmarkRefresh(b *testing.B) {
	for _, hosts := range []int{3, tenThousand} {
		for _, strategy := range peers.Strategies {
			b.Run(fmt.Sprintf("strategy=%s/hosts=%d/traffic=light", strategy.Name, hosts), func(b *testing.B) {
				s := peers.NewService(hosts, &pooly.ServiceConfig{BanditStrategy: strategy.New()})
				defer s.Close()
				measured := time.Second
				if strategy.Name == "thompson" && hosts == tenThousand {
					measured *= 10 // it takes 10 ms, every few seconds
				}
				ticker := time.NewTicker(pooly.DefaultMemoizeScoreDuration / 2)
				defer ticker.Stop()
				share(b, measured, func() {
					<-ticker.C
					if err := s.Pair(nil); err != nil {
						b.Fatal(err)
					}
				})
			})
		}
	}
	b.Run(fmt.Sprintf("strategy=roundrobin/hosts=%d/traffic=none", tenThousand), func(b *testing.B) {
		s := peers.NewService(tenThousand, &pooly.ServiceConfig{})
		defer s.Close()
		time.Sleep(3 * pooly.DefaultMemoizeScoreDuration)
		share(b, time.Second, func() { time.Sleep(pooly.DefaultMemoizeScoreDuration / 2) })
	})
}

// share calls step for a second and then for as long as is measured, and reports the processor time
// that the process used in that.
func share(b *testing.B, measured time.Duration, step func()) {
	for began := time.Now(); time.Since(began) < time.Second; {
		step()
	}
	runtime.GC()
	began, used := time.Now(), cpuTime()
	for time.Since(began) < measured {
		step()
	}
	b.ReportMetric(100*float64(cpuTime()-used)/float64(time.Since(began)), "%core")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkAddRemove adds hosts one by one, then removes them one by one. An operation is all of
// them, and the metrics are for one. The connections come and go in the background.
func BenchmarkAddRemove(b *testing.B) {
	for _, hosts := range []int{100, tenThousand} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			addresses := peers.Addresses(hosts)
			var adding, removing time.Duration
			n := 0
			for b.Loop() {
				s := peers.NewService(0, &pooly.ServiceConfig{})
				began := time.Now()
				for _, address := range addresses {
					s.Add(address)
				}
				adding += time.Since(began)
				began = time.Now()
				for _, address := range addresses {
					s.Remove(address)
				}
				removing += time.Since(began)
				s.Close()
				n++
			}
			b.ReportMetric(float64(adding.Nanoseconds())/float64(n*hosts), "add-ns")
			b.ReportMetric(float64(removing.Nanoseconds())/float64(n*hosts), "remove-ns")
		})
	}
}

// BenchmarkFootprint is what a host and an idle connection hold: bytes of heap, goroutines and
// timers. The connection itself is that of a driver which connects to nothing, so what a socket
// takes comes on top. Timers are counted only under -test.memprofilerate=1.
func BenchmarkFootprint(b *testing.B) {
	b.Run("of=host", func(b *testing.B) {
		footprint(b, tenThousand, 0, func(s peers.Service) {
			for _, address := range peers.Addresses(tenThousand) {
				s.Add(address)
			}
			// The view, and the slots of the score's window, are part of what a host costs.
			leaseAll(b, s, 1)()
			time.Sleep(2 * pooly.DefaultMemoizeScoreDuration)
			s.Stats()
		})
	})
	b.Run("of=conn", func(b *testing.B) {
		const hosts, conns = 1000, 10
		footprint(b, hosts*conns, hosts, func(s peers.Service) { leaseAll(b, s, hosts*conns)() })
	})
}

// footprint reports what one of n things holds that create puts into a service of some hosts.
func footprint(b *testing.B, n, hosts int, create func(peers.Service)) {
	var held counted
	for b.Loop() {
		config := &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{MaxConns: 10},
			PrespawnConns: -1,
			DecayDuration: pooly.DefaultMemoizeScoreDuration, // so that a slot passes meanwhile
		}
		s := peers.NewService(hosts, config)
		time.Sleep(config.DecayDuration)
		s.Stats() // so that these hosts have their slots
		before := census()
		create(s)
		after := census()
		held.bytes = after.bytes - before.bytes
		held.goroutines = after.goroutines - before.goroutines
		held.timers = after.timers - before.timers
		s.Close()
	}
	b.ReportMetric(held.bytes/float64(n), "B/each")
	b.ReportMetric(held.goroutines, "goroutines")
	if runtime.MemProfileRate == 1 {
		b.ReportMetric(held.timers, "timers")
	}
	b.ReportMetric(0, "ns/op")
}

// leaseAll leases n connections at once.
func leaseAll(b *testing.B, s peers.Service, n int) (release func()) {
	leases := make([]*pooly.Conn, n)
	for i := range leases {
		c, err := s.GetConn()
		if err != nil {
			b.Fatal(err)
		}
		leases[i] = c
	}
	return func() {
		for _, c := range leases {
			if err := c.Release(nil, pooly.HostUp); err != nil {
				b.Fatal(err)
			}
		}
	}
}

type counted struct{ bytes, goroutines, timers float64 }

// census counts what is alive, once the background has come to rest.
func census() counted {
	time.Sleep(50 * time.Millisecond)
	runtime.GC()
	runtime.GC() // a profile is as of the last collection but one
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return counted{float64(memory.HeapAlloc), float64(runtime.NumGoroutine()), float64(timers())}
}

var allocator = regexp.MustCompile(`^runtime\.(mallocgc|newobject)`)

// timers counts the live timers: what package time has made for them, and not what the runtime
// keeps for having had some.
func timers() (n int64) {
	records := make([]runtime.MemProfileRecord, 10_000)
	k, ok := runtime.MemProfile(records, false)
	if !ok {
		panic("more allocation sites than expected")
	}
	for _, r := range records[:k] {
		frames := runtime.CallersFrames(r.Stack())
		frame, more := frames.Next()
		for more && allocator.MatchString(frame.Function) {
			frame, more = frames.Next()
		}
		if frame.Function == "time.newTimer" {
			n += r.InUseObjects()
		}
	}
	return n
}
