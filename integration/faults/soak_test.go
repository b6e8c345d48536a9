//go:build soak

package faults_test

import (
	"flag"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

var soakFor = flag.Duration("soak", 10*time.Minute, "how long the soak test lasts")

// For ten minutes, or as long as -soak says, 64 goroutines send requests to four server processes behind proxies, while
// servers are killed and started, proxies spoil what they carry, and hosts come and go. Some requests are so slow that
// they time out, so that late replies are about, and every reply must have the id of its request. At the end
// nothing may be left, and memory must not have grown.
//
//	go test -tags soak -run Soak -v ./faults -soak 10m
func TestSoakGivesNoWrongReplyAndLosesNothing(t *testing.T) {
	before := footprint()
	t.Run("traffic", soak)
	after := footprint()
	for range 100 { // what was closed takes a moment to go
		if after.sockets <= before.sockets && after.goroutines <= before.goroutines {
			break
		}
		time.Sleep(100 * time.Millisecond)
		after = footprint()
	}
	t.Logf("before: %+v", before)
	t.Logf("after: %+v", after)
	require.LessOrEqual(t, after.sockets, before.sockets)
	require.LessOrEqual(t, after.goroutines, before.goroutines)
}

func soak(t *testing.T) {
	servers, addresses := startServers(t, 4)
	var proxies []*spoiler
	for i, s := range servers {
		p := startSpoiler(t, s.address)
		proxies = append(proxies, p)
		addresses[i] = p.address
	}
	d := newDriver()
	d.SetReadTimeout(100 * time.Millisecond)
	c := newClient(t, 2, pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{
			Driver:          d,
			MaxConns:        12, // fewer in all than callers, so that these queue
			WaitTimeout:     5 * time.Second,
			ConnIdleTimeout: 2 * time.Second,
			MaxConnLifetime: 10 * time.Second,
		},
		BanditStrategy: pooly.NewHotCold(5, 0.84),
	}, addresses...)
	stop := c.load(64, func() request {
		r := request{size: rand.Uint32N(200)}
		switch n := rand.IntN(1000); {
		case n < 500:
			r.after = time.Duration(rand.IntN(3000)) * time.Microsecond
		case n < 503:
			r.after = 90*time.Millisecond + time.Duration(rand.IntN(20_000))*time.Microsecond // around the timeout
		case n < 513:
			r.fault = fault(1 + rand.IntN(int(excess)-1)) // excess may come late, and nobody can see that before it comes
		}
		return r
	})
	disturbed := disturb(servers, proxies, c, *soakFor)
	t.Logf("disturbances: %v", disturbed.kinds)
	for i, s := range servers {
		proxies[i].spoil.Store(&spoil{})
		s.kill()
		s.start()
		c.service.Add(addresses[i])
	}
	time.Sleep(time.Second)
	stop()
	c.report(t)
	for i, m := range disturbed.memory {
		t.Logf("at %3d %%: %+v", (i+1)*100/len(disturbed.memory), m)
	}
	require.Less(t, c.failed.Load(), c.requests.Load()/100, "these two were in the way of two faults at once")
	n := len(disturbed.memory)
	if n >= 8 {
		early, late := mean(disturbed.memory[n/4:n/2]), mean(disturbed.memory[3*n/4:])
		t.Logf("heap: %d KB in the second quarter, %d KB in the last", early>>10, late>>10)
		require.Less(t, late, early+early/4+(1<<20), "memory is flat")
	}
	c.settle(t)
}

type disturbances struct {
	kinds  map[string]int
	memory []usage
}

// disturb makes random faults for a while, one after the other and some at the same time.
func disturb(servers []*server, proxies []*spoiler, c *client, d time.Duration) disturbances {
	got := disturbances{kinds: make(map[string]int)}
	end := time.Now().Add(d)
	measured := time.Now()
	for time.Now().Before(end) {
		i := rand.IntN(len(servers))
		nap := time.Duration(100+rand.IntN(400)) * time.Millisecond
		switch rand.IntN(8) {
		case 0, 1:
			got.kinds["killed"]++
			servers[i].restart(nap)
		case 2:
			got.kinds["removed"]++
			c.service.Remove(proxies[i].address)
			time.Sleep(nap)
			c.service.Add(proxies[i].address)
		case 3:
			got.kinds["unreachable"]++
			proxies[i].stop()
			time.Sleep(nap)
			proxies[i].start()
		default:
			sp := spoils[rand.IntN(len(spoils))]
			got.kinds[sp.name]++
			proxies[i].spoil.Store(sp)
			time.Sleep(nap)
			proxies[i].spoil.Store(&spoil{})
		}
		time.Sleep(nap / 2)
		if time.Since(measured) > d/20 {
			measured = time.Now()
			got.memory = append(got.memory, footprint())
		}
	}
	return got
}

// usage is what the process holds.
type usage struct {
	heap       uint64
	goroutines int
	sockets    int
}

func footprint() usage {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{heap: m.HeapAlloc, goroutines: runtime.NumGoroutine()}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && len(to) > 7 && to[:7] == "socket:" {
			u.sockets++
		}
	}
	return u
}

func mean(of []usage) (heap uint64) {
	for _, u := range of {
		heap += u.heap
	}
	return heap / uint64(len(of))
}
