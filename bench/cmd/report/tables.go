package main

import (
	"bytes"
	"fmt"
	"math"
	"os/exec"
	"runtime"
	"strings"

	"github.com/3XX0/pooly/bench/peers"
)

// contestant is a line of the first table.
type contestant struct {
	peer  string // as in the benchmark's name
	hosts int
	label string
}

var contestants = []contestant{
	{"channel", 1, "bare buffered channel: the lower bound"},
	{"channelpool", 1, "the usual channel pool"},
	{"puddle", 1, "jackc/puddle"},
	{"commons", 1, "jolestar/go-commons-pool"},
	{"hostpool-roundrobin", 3, "bitly/go-hostpool, round-robin: chooses, pools nothing"},
	{"hostpool-epsilon", 3, "bitly/go-hostpool, epsilon-greedy: chooses, pools nothing"},
	{"pooly.Pool", 1, "**pooly**, a Pool alone"},
	{"pooly-roundrobin", 3, "**pooly**, round-robin"},
	{"pooly-epsilon", 3, "**pooly**, epsilon-greedy"},
	{"pooly-softmax", 3, "**pooly**, softmax"},
	{"pooly-thompson", 3, "**pooly**, Thompson sampling"},
	{"pooly-ucb", 3, "**pooly**, UCB"},
	{"pooly-weighted", 3, "**pooly**, weighted round-robin"},
	{"pooly-poweroftwo", 3, "**pooly**, power of two choices"},
	{"pooly-peakewma", 3, "**pooly**, peak EWMA of five, which times leases"},
	{"pooly-leastlatency", 3, "**pooly**, least latency, which times leases"},
	{"pooly-hotcold", 3, "**pooly**, hot-cold of five, which times leases"},
}

func pair(peer string, hosts int) string {
	return fmt.Sprintf("Pair/peer=%s/hosts=%d", peer, hosts)
}

func report(r *results, benchstat, how string) []byte {
	var b bytes.Buffer
	out := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }

	out("# Benchmark results\n\nWritten by `%s`; do not edit.\n", how)
	out("Medians with their 95 %% confidence intervals, all of one run, in nanoseconds unless a unit is given. How to")
	out("read and repeat them: [PERFORMANCE.md](../docs/PERFORMANCE.md).\n")
	machine(out, r)

	out("\n## One lease and its end\n\nOf a connection that costs nothing, so that only the pool is measured.\n")
	out("%s", begin)
	shortTable(out, r)
	out("%s", end)

	out("\n## Against the targets\n")
	targetTable(out, r)

	out("\n## How it grows with the hosts\n")
	growthTable(out, r)

	out("\n## 64 goroutines for 4 connections\n")
	out("Each use gives up the processor once, as one that waits for a reply would. `TestFIFO` has checked that")
	out("pooly serves callers in the order in which they came; go-commons-pool does not.")
	out("Each takes turns with puddle.\n")
	out("| pool | per pair | × puddle | wait p50 | wait p99 | × puddle | B | allocations |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, peer := range []string{"channel", "channelpool", "puddle", "commons", "pooly.Pool", "pooly"} {
		name := "Contended/peer=" + peer
		out("| %s | %s | %s | %s | %s | %s | %s | %s |", peer, r.spread(name, "ns/op"), r.spread(name, "x-puddle"),
			r.spread(name, "p50-wait-ns"), r.spread(name, "p99-wait-ns"), r.spread(name, "p99-x-puddle"), number(r.median(name, "B/op")), number(r.median(name, "allocs/op")))
	}

	out("\n## A byte there and back over loopback TCP\n")
	out("| connection | round trip |\n| --- | ---: |")
	for _, peer := range []string{"bare", "channel-without-peek", "channelpool-without-peek", "puddle-without-peek",
		"commons-without-peek", "pooly-without-peek", "pooly"} {
		out("| %s | %s |", strings.ReplaceAll(peer, "-", " "), r.spread("TCP/peer="+peer, "ns/op"))
	}
	out("\nBy turns, medians:\n\n| connection | round trip |\n| --- | ---: |")
	for _, turn := range [][2]string{
		{"bare", "bare"}, {"looked", "bare, after one recvfrom(MSG_PEEK)"},
		{"puddle", "puddle, and one recvfrom(MSG_PEEK)"}, {"pooly", "pooly"},
	} {
		out("| %s | %s |", turn[1], r.spread("TCPOverhead", turn[0]+"-ns"))
	}
	out("\nThe ratio of pooly to bare is %s. In a loop of nothing else, NetDriver's look at the socket takes %s.",
		r.spread("TCPOverhead", "pooly/bare"), r.spread("Peek", "ns/op"))

	out("\n## Metrics\n\n| statsd sample rate | per pair |\n| --- | ---: |")
	for _, rate := range []string{"off", "0.01", "1"} {
		out("| %s | %s |", rate, r.spread("Metrics/rate="+rate, "ns/op"))
	}

	out("\n## Hosts that come and go during traffic\n\nParallel, round-robin.\n")
	out("| hosts | no changes | 1,000 added and removed each second |\n| ---: | ---: | ---: |")
	for _, hosts := range []int{3, 100, 10_000} {
		name := fmt.Sprintf("Churn/hosts=%d/changes=", hosts)
		out("| %d | %s | %s |", hosts, r.spread(name+"0", "ns/op"), r.spread(name+"1000", "ns/op"))
	}

	out("\n## What a host costs\n")
	out("| what | hosts | measured |\n| --- | ---: | ---: |")
	for _, hosts := range []int{100, 10_000} {
		name := fmt.Sprintf("AddRemove/hosts=%d", hosts)
		out("| Add, each | %d | %s ns |", hosts, r.spread(name, "add-ns"))
		out("| Remove, each | %d | %s ns |", hosts, r.spread(name, "remove-ns"))
	}
	for _, s := range peers.Strategies {
		for _, hosts := range []int{3, 10_000} {
			name := fmt.Sprintf("Refresh/strategy=%s/hosts=%d/traffic=light", s.Name, hosts)
			out("| share of a core under 20 calls a second, %s | %d | %s %% |", s.Name, hosts, r.spread(name, "%core"))
		}
	}
	out("| share of a core without calls | 10000 | %s %% |", r.spread("Refresh/strategy=roundrobin/hosts=10000/traffic=none", "%core"))
	out("| bytes of a host without connections | 10000 | %s |", r.spread("Footprint/of=host", "B/each"))
	out("| bytes of an idle connection, without socket | 1000 | %s |", r.spread("Footprint/of=conn", "B/each"))
	out("| goroutines of 10,000 hosts, of 10,000 idle connections | | %s, %s |",
		number(r.median("Footprint/of=host", "goroutines")), number(r.median("Footprint/of=conn", "goroutines")))
	out("| timers of 10,000 hosts, of 10,000 idle connections | | %s, %s |",
		number(r.median("Footprint/of=host", "timers")), number(r.median("Footprint/of=conn", "timers")))

	out("\n## The floor\n\nWhat a pool of this kind cannot do without, on this machine.\n")
	out("| step | ns |\n| --- | ---: |")
	for _, what := range []string{"mutex", "lease", "two-mutexes-and-lease", "the-same-over-10000-at-random", "clock", "context-err"} {
		out("| %s | %s |", strings.ReplaceAll(what, "-", " "), r.spread("Floor/what="+what, "ns/op"))
	}

	out("\n<details><summary>All of it, by benchstat</summary>\n\n```\n%s```\n\n</details>", benchstat)
	return b.Bytes()
}

func machine(out func(string, ...any), r *results) {
	out("| | |\n| --- | --- |")
	out("| processor | %s, %d cores |", r.cpu, runtime.NumCPU())
	out("| system | %s/%s %s |", runtime.GOOS, runtime.GOARCH, kernel())
	out("| Go | %s |", runtime.Version())
	for _, module := range []string{"github.com/jackc/puddle/v2", "github.com/jolestar/go-commons-pool/v2", "github.com/bitly/go-hostpool"} {
		if version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output(); err == nil {
			out("| %s | %s |", module, strings.TrimSpace(string(version)))
		}
	}
}

func kernel() string {
	release, err := exec.Command("uname", "-r").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(release))
}

func shortTable(out func(string, ...any), r *results) {
	out("| | hosts | sequential | × pooly | parallel | × pooly | allocations |")
	out("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, c := range contestants {
		name := pair(c.peer, c.hosts)
		sequential, parallel := name+"/mode=sequential", name+"/mode=parallel"
		out("| %s | %d | %s | %.2f | %s | %.2f | %s, %s B |", c.label, c.hosts,
			r.spreadByRatio(sequential), r.ratio(sequential), r.spreadByRatio(parallel), r.ratio(parallel),
			number(r.median(sequential, "allocs/op")), number(r.median(sequential, "B/op")))
	}
	out("\nTime of one GetConn and Release in ns, with its 95 %% confidence interval. \"× pooly\" is the ratio to")
	out("pooly's round-robin over 3 hosts. The two run alternately for a few ms, and the median ratio is shown.")
	out("Each time is this ratio times the median time of round-robin in the whole run. Parallel is 8")
	out("goroutines per core, wall time. Hosts is how many hosts the pool chooses among. Allocations are")
	out("rounded down: pooly makes one allocation of 128 bytes for 16 leases.\n\n![bar chart of the table](results.svg)")
}

func growthTable(out func(string, ...any), r *results) {
	choosers := []string{"hostpool-roundrobin", "hostpool-epsilon"}
	for _, s := range peers.Strategies {
		choosers = append(choosers, "pooly-"+s.Name)
	}
	out("| | mode | 1 host | 3 hosts | 100 hosts | 10,000 hosts | growth from 3 |")
	out("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
	for _, peer := range choosers {
		for _, mode := range []string{"sequential", "parallel"} {
			name := func(hosts int) string { return pair(peer, hosts) + "/mode=" + mode }
			growth := r.median(name(10_000), "x-3-hosts") // by turns
			if math.IsNaN(growth) {
				growth = r.ratio(name(10_000)) / r.ratio(name(3))
			}
			out("| %s | %s | %s | %s | %s | %s | %.2f |", peer, mode, r.spreadByRatio(name(1)), r.spreadByRatio(name(3)),
				r.spreadByRatio(name(100)), r.spreadByRatio(name(10_000)), growth)
		}
	}
}
