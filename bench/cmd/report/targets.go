package main

import (
	"fmt"

	"github.com/3XX0/pooly/bench/peers"
)

// target is a promise of the project, as a value that must not exceed a limit.
type target struct {
	what  string
	value float64
	limit float64
}

func targets(r *results) []target {
	ratio := func(peer string, hosts int, mode string) float64 { // to round-robin over 3 hosts
		return r.ratio(pair(peer, hosts) + "/mode=" + mode)
	}
	sequential := pair("pooly-roundrobin", 3) + "/mode=sequential"
	list := []target{
		{"3 hosts, sequential, × puddle", 1 / ratio("puddle", 1, "sequential"), 0.6},
		{"3 hosts, sequential, × channel pool", 1 / ratio("channelpool", 1, "sequential"), 0.75},
		{"3 hosts, allocations", r.median(sequential, "allocs/op"), 1},
		{"3 hosts, bytes", r.median(sequential, "B/op"), 64},
		{"3 hosts, parallel, × puddle", 1 / ratio("puddle", 1, "parallel"), 0.35},
		{"3 hosts, parallel, × channel pool", 1 / ratio("channelpool", 1, "parallel"), 0.9},
	}
	for _, s := range []string{"epsilon", "softmax"} {
		for _, mode := range []string{"sequential", "parallel"} {
			list = append(list, target{s + " at 3 hosts, " + mode + ", × round-robin", ratio("pooly-"+s, 3, mode), 1.2})
		}
	}
	for _, s := range peers.Strategies {
		for _, mode := range []string{"sequential", "parallel"} {
			list = append(list, target{s.Name + ", " + mode + ", 10,000 hosts × 3 hosts",
				r.median(pair("pooly-"+s.Name, 10_000)+"/mode="+mode, "x-3-hosts"), 2})
		}
	}
	for _, peer := range []string{"pooly.Pool", "pooly"} {
		list = append(list,
			target{peer + " contended, time per pair × puddle", r.median("Contended/peer="+peer, "x-puddle"), 1},
			target{peer + " contended, p99 wait × puddle", r.median("Contended/peer="+peer, "p99-x-puddle"), 1})
	}
	off := r.ns("Metrics/rate=off")
	refresh := func(strategy string) float64 {
		share := func(hosts int) float64 {
			return r.median(fmt.Sprintf("Refresh/strategy=%s/hosts=%d/traffic=light", strategy, hosts), "%core")
		}
		return share(10_000) - share(3)
	}
	for _, s := range peers.Strategies {
		list = append(list, target{s.Name + ", score refresh of 10,000 hosts, % of a core", refresh(s.Name), 1})
	}
	const floor = "Floor/what=the-same-over-10000-at-random"
	return append(list,
		target{"epsilon, sequential, 10,000 hosts × the floor over as many", 1 / r.median(floor, "x-epsilon"), 1.3},
		target{"softmax, the same", 1 / r.median(floor, "x-softmax"), 1.3},
		target{"metrics at rate 1, ns more per pair", r.ns("Metrics/rate=1") - off, 1000},
		target{"metrics at rate 0.01, ns more per pair", r.ns("Metrics/rate=0.01") - off, 100},
		target{"TCP echo × bare connection", r.median("TCPOverhead", "pooly/bare"), 1.05},
		target{"the same × puddle after one recvfrom(MSG_PEEK)", r.median("TCPOverhead", "pooly/puddle"), 1.05},
		target{"Add of 10,000 hosts, s", r.median("AddRemove/hosts=10000", "add-ns") * 1e-5, 1},
		target{"Remove of 10,000 hosts, s", r.median("AddRemove/hosts=10000", "remove-ns") * 1e-5, 1},
		target{"Add of 10,000 hosts, each × Add of 100", r.median("AddRemove/hosts=10000", "add-ns") / r.median("AddRemove/hosts=100", "add-ns"), 2},
		target{"goroutines of 10,000 idle connections", r.median("Footprint/of=conn", "goroutines"), 0},
		target{"timers of 10,000 hosts, the service's own included", r.median("Footprint/of=host", "timers"), 1},
	)
}

func targetTable(out func(string, ...any), r *results) {
	out("| | measured | at most | |\n| --- | ---: | ---: | --- |")
	for _, t := range targets(r) {
		verdict := "met"
		if !(t.value <= t.limit) {
			verdict = "**missed**"
		}
		out("| %s | %s | %s | %s |", t.what, number(t.value), number(t.limit), verdict)
	}
}
