//go:build montecarlo_simulation

package pooly_test

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// A reference dispatches requests with knowledge that no client has. It is no strategy of pooly but
// a measure for them.
type reference struct {
	name string
	make func(w *referenceWorld) dispatcher
}

// A dispatcher returns the host for a request, or -1 to keep it in the central queue.
type dispatcher interface {
	dispatch(a *arrival) (host int)
}

var references = []reference{
	{"clairvoyant", func(w *referenceWorld) dispatcher { return clairvoyant{w} }},
	{"central queue", func(w *referenceWorld) dispatcher { return centralQueue{w} }},
	{"Prequal, 5 probes", func(w *referenceWorld) dispatcher { return &prequal{w: w} }},
	{"JSQ(2), true queues", func(w *referenceWorld) dispatcher { return shortestOf{w, 2} }},
}

// A referenceWorld is one run of the hosts of a world, without services.
type referenceWorld struct {
	hostsDescription
	rng     *rand.Rand
	now     time.Duration
	hosts   []referenceHost
	central []*referenceRequest // of requests that are at no host
	ends    endings
	latencies
}

type referenceHost struct {
	antagonist bool
	working    []*referenceRequest
	line       []*referenceRequest
	recent     recentLatencies
}

type referenceRequest struct {
	*arrival
	host   int
	inLine int // requests at the host when this one came, itself included
	ends   time.Duration
}

// endings is a heap of requests that hosts work on.
type endings []*referenceRequest

func (e endings) Len() int           { return len(e) }
func (e endings) Less(i, j int) bool { return e[i].ends < e[j].ends }
func (e endings) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *endings) Push(x any)        { *e = append(*e, x.(*referenceRequest)) }
func (e *endings) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}

// playReference runs a trace under a reference and returns the latencies.
func playReference(d hostsDescription, r reference, tr *trace, length time.Duration, seed uint64) *latencies {
	w := &referenceWorld{
		hostsDescription: d,
		rng:              rand.New(rand.NewPCG(seed, 4)),
		hosts:            make([]referenceHost, d.Hosts),
		latencies:        latencies{deadline: d.Deadline.duration()},
	}
	to := r.make(w)
	requests, changes := tr.requests, tr.changes
	measured := time.Duration(warmUp * float64(length))
	for len(requests) > 0 || len(w.ends) > 0 {
		const never = time.Duration(1<<63 - 1)
		arrives, changed, ends := never, never, never
		if len(requests) > 0 {
			arrives = requests[0].at
		}
		if len(changes) > 0 {
			changed = changes[0].at
		}
		if len(w.ends) > 0 {
			ends = w.ends[0].ends
		}
		switch w.now = min(arrives, changed, ends); w.now {
		case changed:
			h := &w.hosts[changes[0].host]
			h.antagonist = !h.antagonist
			changes = changes[1:]
		case arrives:
			a := &requests[0]
			requests = requests[1:]
			host := to.dispatch(a)
			if host < 0 {
				w.central = append(w.central, &referenceRequest{arrival: a})
			} else {
				w.send(host, &referenceRequest{arrival: a, host: host}, measured)
			}
		case ends:
			w.end(heap.Pop(&w.ends).(*referenceRequest), to, measured)
		}
	}
	return &w.latencies
}

func (w *referenceWorld) send(host int, r *referenceRequest, measured time.Duration) {
	h := &w.hosts[host]
	if r.luck < w.failureRate(host) {
		w.record(r, errFails, measured)
		return
	}
	r.host, r.inLine = host, h.load()+1
	if len(h.working) < w.Workers {
		w.begin(r)
	} else {
		h.line = append(h.line, r)
	}
}

func (w *referenceWorld) begin(r *referenceRequest) {
	h := &w.hosts[r.host]
	r.ends = w.now + w.takes(r.host, h.antagonist, r.work)
	h.working = append(h.working, r)
	heap.Push(&w.ends, r)
}

func (w *referenceWorld) end(r *referenceRequest, to dispatcher, measured time.Duration) {
	h := &w.hosts[r.host]
	i := slices.Index(h.working, r)
	h.working = slices.Delete(h.working, i, i+1)
	h.recent.add(r.inLine, w.now-r.at)
	w.record(r, nil, measured)
	for len(h.line) > 0 && len(h.working) < w.Workers {
		next := h.line[0]
		h.line = h.line[1:]
		if w.now-next.at < w.Deadline.duration() {
			w.begin(next)
		} else {
			w.record(next, context.DeadlineExceeded, measured)
		}
	}
	for len(w.central) > 0 {
		next := w.central[0]
		if w.now-next.at >= w.Deadline.duration() {
			w.record(next, context.DeadlineExceeded, measured)
		} else if host := to.dispatch(next.arrival); host >= 0 {
			w.send(host, next, measured)
		} else {
			break
		}
		w.central = w.central[1:]
	}
}

func (w *referenceWorld) record(r *referenceRequest, err error, measured time.Duration) {
	if w.now-r.at > w.Deadline.duration() {
		err = context.DeadlineExceeded
	}
	if r.at >= measured {
		w.add(w.now-r.at, err)
	}
}

// load returns how many requests are at the host.
func (h *referenceHost) load() int { return len(h.working) + len(h.line) }

// clairvoyant knows every queue, the size of every request, and where it would fail. It picks the
// host where the request would end first. What antagonists will do it does not know.
type clairvoyant struct{ *referenceWorld }

func (w clairvoyant) dispatch(a *arrival) int {
	best, first := -1, time.Duration(0)
	free := make([]time.Duration, 0, 64)
	for host := range w.hosts {
		if a.luck < w.failureRate(host) && (best >= 0 || host < len(w.hosts)-1) {
			continue
		}
		h := &w.hosts[host]
		free = free[:0] // when each worker of the host will be
		for _, r := range h.working {
			free = append(free, r.ends)
		}
		for len(free) < w.Workers {
			free = append(free, w.now)
		}
		next := func(work time.Duration) time.Duration {
			i := 0
			for j := range free {
				if free[j] < free[i] {
					i = j
				}
			}
			free[i] += w.takes(host, h.antagonist, work)
			return free[i]
		}
		for _, r := range h.line {
			next(r.work)
		}
		if ends := next(a.work); best < 0 || ends < first {
			best, first = host, ends
		}
	}
	return best
}

// centralQueue gives a request to the fastest host with a free worker, and keeps it while there is
// none.
type centralQueue struct{ *referenceWorld }

func (w centralQueue) dispatch(*arrival) int {
	best, least := -1, time.Duration(0)
	for host := range w.hosts {
		h := &w.hosts[host]
		if len(h.working) >= w.Workers {
			continue
		}
		if d := w.takes(host, h.antagonist, time.Second); best < 0 || d < least {
			best, least = host, d
		}
	}
	return best
}

// shortestOf joins the shortest of d queues, as the hosts know them.
type shortestOf struct {
	*referenceWorld
	d int
}

func (w shortestOf) dispatch(*arrival) int {
	best := -1
	for range w.d {
		host := w.rng.IntN(len(w.hosts))
		if best < 0 || w.hosts[host].load() < w.hosts[best].load() {
			best = host
		}
	}
	return best
}

// prequal probes five hosts when a request comes: the synchronous mode of Prequal (Wydrowski,
// Kleinberg and Rumble, Load is not what you should balance, NSDI 2024). A host answers with its
// requests in flight, and the median latency of recent ones that met as many. The hosts with more
// requests than 84 % of the last probes found are hot. Of the others the fastest gets the request,
// and if all are hot, the one with the fewest requests.
type prequal struct {
	w    *referenceWorld
	last []int // requests in flight, by the last probes
	next int
}

func (p *prequal) dispatch(*arrival) int {
	const probes, remembered, hot = 5, 100, 0.84
	limit := 0
	if len(p.last) > 0 {
		sorted := slices.Sorted(slices.Values(p.last))
		limit = sorted[int(hot*float64(len(sorted)-1))]
	}
	coldest, cold := -1, -1
	fastest := time.Duration(0)
	for _, host := range p.w.rng.Perm(len(p.w.hosts))[:min(probes, len(p.w.hosts))] {
		h := &p.w.hosts[host]
		load := h.load()
		if coldest < 0 || load < p.w.hosts[coldest].load() {
			coldest = host
		}
		if load <= limit {
			if d := h.recent.at(load + 1); cold < 0 || d < fastest {
				cold, fastest = host, d
			}
		}
		if len(p.last) < remembered {
			p.last = append(p.last, load)
		} else {
			p.last[p.next] = load
			p.next = (p.next + 1) % remembered
		}
	}
	if cold >= 0 {
		return cold
	}
	return coldest
}

// recentLatencies are the last latencies of a host by its load when the requests came.
type recentLatencies struct {
	byLoad [64][]time.Duration // the newest last
}

const (
	recentOfLoad = 8 // latencies that are kept for each load
	recentEnough = 5 // latencies that a median is taken of, at least
)

func (l *recentLatencies) add(load int, d time.Duration) {
	of := &l.byLoad[min(load, len(l.byLoad)-1)]
	if len(*of) == recentOfLoad {
		*of = slices.Delete(*of, 0, 1)
	}
	*of = append(*of, d)
}

// at returns the median of the latencies at the loads that are nearest to the given one, or 0.
func (l *recentLatencies) at(load int) time.Duration {
	load = min(load, len(l.byLoad)-1)
	var near [3 * recentOfLoad]time.Duration
	found := append(near[:0], l.byLoad[load]...)
	for away := 1; len(found) < recentEnough && away < len(l.byLoad); away++ {
		if load-away >= 0 {
			found = append(found, l.byLoad[load-away]...)
		}
		if load+away < len(l.byLoad) {
			found = append(found, l.byLoad[load+away]...)
		}
	}
	if len(found) == 0 {
		return 0
	}
	slices.Sort(found)
	return found[len(found)/2]
}
