//go:build montecarlo_simulation

package pooly_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// The queueing scenario: requests come at random to hosts of unequal strength, some of which share their machines
// with antagonists that come and go. A host serves four requests at once and lets the others wait in line. A
// client gives up after two seconds, which rates the host HostDown; the host does not know that and serves the
// request all the same.
const (
	queueHosts    = 20
	queueWorkers  = 4
	queueWork     = 20 * time.Millisecond // the mean time for a request, on a host of strength 1
	queueSigma    = 0.8                   // of the log-normal distribution of these times
	queuePatience = 2 * time.Second
	queueTarget   = 50 * time.Millisecond // what latencies are scored against

	antagonized    = 8                  // hosts that have an antagonist
	antagonistRate = 0.4                // what it leaves of their strength
	antagonistStay = 2 * time.Second    // on average
	antagonistAway = 2 * antagonistStay // on average

	queueWarmUp = 5 * time.Second  // not measured
	queueLength = 20 * time.Second // the warm-up included
	queueRuns   = 250              // a run has tens of thousands of requests, so there is one for so many of -runs
)

var (
	queueStrengths = []float64{0.5, 0.75, 1, 1.25, 1.5}
	queueLoads     = []float64{0.70, 0.85, 0.95}
)

// leastInUse compares all hosts and picks the one with the fewest leases out: what a balancer does that is told to
// use the least loaded host. It is no strategy of pooly but a measure for them.
type leastInUse struct{}

func (leastInUse) NewPicker(arms []pooly.Arm) pooly.Picker { return leastInUsePicker(arms) }

type leastInUsePicker []pooly.Arm

func (p leastInUsePicker) Pick(rng *rand.Rand) int {
	first := rng.IntN(len(p))
	best, least := first, p[first].InUse()
	for i := 1; i < len(p); i++ {
		at := (first + i) % len(p)
		if n := p[at].InUse(); n < least {
			best, least = at, n
		}
	}
	return best
}

// lowestLatency picks the lowest of five latencies, as they were and not as they would be under the load of now. It
// is the mistake against which the paper behind hot-cold warns, and is here to show what it costs.
type lowestLatency struct{}

func (lowestLatency) NewPicker(arms []pooly.Arm) pooly.Picker { return lowestLatencyPicker(arms) }

type lowestLatencyPicker []pooly.Arm

func (p lowestLatencyPicker) Pick(rng *rand.Rand) int {
	best, least := -1, time.Duration(0)
	for range 5 {
		i := rng.IntN(len(p))
		if d := p[i].Latency(); best < 0 || d < least {
			best, least = i, d
		}
	}
	return best
}

// A queueContender is a strategy under load. Without scored, every request that succeeds is rated HostUp.
type queueContender struct {
	contender
	scored bool
}

func queueContenders() []queueContender {
	var list []queueContender
	for _, c := range contenders {
		if !c.chief && c.family != "load" {
			continue
		}
		list = append(list, queueContender{c, c.family != "load"})
		if c.kind == "poweroftwo" {
			c.name, c.chief = "power of two, scored", false
			list = append(list, queueContender{c, true})
		}
	}
	return append(list,
		queueContender{contender{name: "least in use of all", kind: "least",
			make: func() pooly.Bandit { return leastInUse{} }}, false},
		queueContender{contender{name: "lowest latency of five", kind: "lowest",
			make: func() pooly.Bandit { return lowestLatency{} }}, false})
}

// A latencies is a histogram of latencies whose bars are each 1 % wider than the one before.
type latencies struct {
	bars  [1000]int
	count int
	fails int
}

const shortestBar = 100 * time.Microsecond

func (l *latencies) add(d time.Duration) {
	bar := math.Log(float64(d)/float64(shortestBar)) / math.Log(1.01)
	l.bars[min(max(0, int(bar)), len(l.bars)-1)]++
	l.count++
}

func (l *latencies) merge(m *latencies) {
	for i, n := range m.bars {
		l.bars[i] += n
	}
	l.count += m.count
	l.fails += m.fails
}

// edge returns where a bar ends, in milliseconds.
func (l *latencies) edge(bar int) float64 {
	ms := float64(shortestBar) / float64(time.Millisecond) * math.Pow(1.01, float64(bar+1))
	return min(ms, float64(queuePatience/time.Millisecond))
}

// quantile returns the latency, in milliseconds, that the share q of the requests did not exceed.
func (l *latencies) quantile(q float64) float64 {
	need := int(math.Ceil(q * float64(l.count)))
	for i, n := range l.bars {
		if need -= n; need <= 0 {
			return l.edge(i)
		}
	}
	return math.Inf(1)
}

func (l *latencies) failRate() float64 { return float64(l.fails) / float64(l.count) }

// A queueOutcome is what a strategy reached under one load.
type queueOutcome struct {
	latencies
	p50, p99, p999, failed sum // of each run
}

// A request is a lease of a simulated host.
type request struct {
	conn *pooly.Conn // nil once the client has it no more
	came time.Duration
	work time.Duration // on a host of strength 1
}

// A queueHost is a simulated host.
type queueHost struct {
	strength   float64
	antagonist bool
	busy       int
	line       []*request
}

func (h *queueHost) rate() float64 {
	if h.antagonist {
		return h.strength * antagonistRate
	}
	return h.strength
}

// An event is something that happens at a time: to a request if it has one and to a host if that is not negative.
type event struct {
	at      time.Duration
	kind    eventKind
	host    int
	request *request
}

type eventKind uint8

const (
	arrival eventKind = iota
	completion
	surrender // the client gives up
	change    // the antagonist comes or goes
)

// agenda is a heap of events, the next one first.
type agenda []event

func (a *agenda) push(e event) {
	*a = append(*a, e)
	h := *a
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if h[parent].at <= h[i].at {
			break
		}
		h[parent], h[i] = h[i], h[parent]
		i = parent
	}
}

func (a *agenda) pop() event {
	h := *a
	next, last := h[0], len(h)-1
	h[0] = h[last]
	h = h[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			break
		}
		if child+1 < last && h[child+1].at < h[child].at {
			child++
		}
		if h[i].at <= h[child].at {
			break
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
	*a = h
	return next
}

var errGaveUp = errors.New("gave up")

// A queueWorld is one run of the queueing scenario. It must be used in a bubble.
type queueWorld struct {
	t       *testing.T
	service *pooly.Service
	scored  bool
	rng     *rand.Rand
	rate    float64 // arrivals per nanosecond
	hosts   []queueHost
	agenda  agenda
	leases  map[*request]struct{}
	began   time.Time
	now     time.Duration
	latencies
}

// newQueueWorld makes a world whose arrivals are the given share of what its hosts can serve on average.
func newQueueWorld(t *testing.T, b pooly.Bandit, load float64, scored bool, seed uint64) *queueWorld {
	w := &queueWorld{
		t:       t,
		service: simulatedService(b, queueHosts, 0, seed),
		scored:  scored,
		rng:     rand.New(rand.NewPCG(seed, 2)),
		hosts:   make([]queueHost, queueHosts),
		leases:  make(map[*request]struct{}),
		began:   time.Now(),
	}
	capacity := 0.0
	for i := range w.hosts {
		w.hosts[i].strength = queueStrengths[i%len(queueStrengths)]
		mean := w.hosts[i].strength
		if i < antagonized {
			const present = float64(antagonistStay) / float64(antagonistStay+antagonistAway)
			mean *= 1 - present*(1-antagonistRate)
			w.agenda.push(event{at: w.wait(antagonistAway), kind: change, host: i})
		}
		capacity += mean * queueWorkers / float64(queueWork)
	}
	w.rate = load * capacity
	w.agenda.push(event{at: w.wait(time.Duration(1 / w.rate)), kind: arrival})
	return w
}

// wait draws the time from now to something that happens at random, once in mean.
func (w *queueWorld) wait(mean time.Duration) time.Duration {
	return w.now + time.Duration(w.rng.ExpFloat64()*float64(mean))
}

func (w *queueWorld) run() {
	defer w.service.Close()
	for {
		e := w.agenda.pop()
		if e.at > queueLength {
			break
		}
		if e.kind == surrender && e.request.conn == nil {
			continue // most are served in time
		}
		time.Sleep(e.at - time.Since(w.began))
		w.now = e.at
		switch e.kind {
		case arrival:
			w.agenda.push(event{at: w.wait(time.Duration(1 / w.rate)), kind: arrival})
			w.arrive()
		case completion:
			w.complete(e)
		case surrender:
			w.end(e.request, errGaveUp)
		case change:
			h := &w.hosts[e.host]
			h.antagonist = !h.antagonist
			stay := antagonistAway
			if h.antagonist {
				stay = antagonistStay
			}
			w.agenda.push(event{at: w.wait(stay), kind: change, host: e.host})
		}
	}
	for r := range w.leases {
		_ = r.conn.Release(nil, pooly.HostUp)
	}
}

func (w *queueWorld) arrive() {
	// Every strategy gets the same requests at the same times.
	work := float64(queueWork) * math.Exp(queueSigma*w.rng.NormFloat64()-queueSigma*queueSigma/2)
	c, err := w.service.GetConn()
	if err != nil {
		w.t.Fatal(err)
	}
	r := &request{conn: c, came: w.now, work: time.Duration(work)}
	w.leases[r] = struct{}{}
	w.agenda.push(event{at: w.now + queuePatience, kind: surrender, request: r})
	host := c.Interface().(int)
	if h := &w.hosts[host]; h.busy < queueWorkers {
		w.serve(host, r)
	} else {
		h.line = append(h.line, r)
	}
}

func (w *queueWorld) serve(host int, r *request) {
	h := &w.hosts[host]
	h.busy++
	takes := time.Duration(float64(r.work) / h.rate())
	w.agenda.push(event{at: w.now + takes, kind: completion, host: host, request: r})
}

func (w *queueWorld) complete(e event) {
	h := &w.hosts[e.host]
	h.busy--
	if len(h.line) > 0 {
		next := h.line[0]
		h.line = h.line[1:]
		w.serve(e.host, next)
	}
	if e.request.conn != nil {
		w.end(e.request, nil)
	}
}

// end gives a lease back and takes its time.
func (w *queueWorld) end(r *request, err error) {
	elapsed := w.now - r.came
	score := pooly.HostUp
	switch {
	case err != nil:
		score = pooly.HostDown
	case w.scored:
		score = pooly.LatencyScore(elapsed, queueTarget)
	}
	if err := r.conn.Release(err, score); err != nil {
		w.t.Fatal(err)
	}
	r.conn = nil
	delete(w.leases, r)
	if r.came < queueWarmUp {
		return
	}
	w.add(elapsed)
	if err != nil {
		w.fails++
	}
}

func simulateQueue(t *testing.T, c queueContender, load float64, n int) *queueOutcome {
	t.Helper()
	each := make([]*latencies, n)
	inParallel(t, n, func(t *testing.T, _ int, seed uint64) {
		w := newQueueWorld(t, c.make(), load, c.scored, seed)
		w.run()
		each[seed&math.MaxUint32] = &w.latencies
	})
	o := new(queueOutcome)
	for _, l := range each {
		o.merge(l)
		o.p50.add(l.quantile(0.5))
		o.p99.add(l.quantile(0.99))
		o.p999.add(l.quantile(0.999))
		o.failed.add(l.failRate())
	}
	return o
}

// queueResults are the outcomes by load and name.
type queueResults map[float64]map[string]*queueOutcome

func TestMonteCarloQueueing(t *testing.T) {
	n := max(2, *runs/queueRuns)
	all := make(queueResults)
	for _, load := range queueLoads {
		all[load] = make(map[string]*queueOutcome)
		t.Run(fmt.Sprintf("load=%.0f%%", 100*load), func(t *testing.T) {
			t.Logf("%d hosts at %.0f %% load: %d runs of %v, the first %v left out", queueHosts, 100*load, n, queueLength, queueWarmUp)
			for _, c := range queueContenders() {
				began := time.Now()
				o := simulateQueue(t, c, load, n)
				all[load][c.name] = o
				t.Logf("%-22s p50 %6.1f ms, p99 %6.0f ± %.0f ms, p99.9 %6.0f ms, errors %.3f %%  (%d requests, %.1f s)",
					c.name, o.quantile(0.5), o.quantile(0.99), 1.96*o.p99.deviation(), o.quantile(0.999),
					100*o.failRate(), o.count, time.Since(began).Seconds())
			}
			checkQueue(t, all[load], load)
		})
	}
	if *out != "" {
		drawQueue(t, all)
		writeQueue(t, all)
	}
}

func checkQueue(t *testing.T, r map[string]*queueOutcome, load float64) {
	two := r["power of two"]
	for _, name := range []string{"hot-cold(5, 0.84)", "peak EWMA(5)"} {
		o := r[name]
		require.Less(t, o.quantile(0.99), two.quantile(0.99), "p99 of %s and of two choices", name)
		require.Less(t, o.quantile(0.999), two.quantile(0.999), "p99.9 of %s and of two choices", name)
	}
	require.Less(t, r["hot-cold(5, 0.84)"].quantile(0.99), r["lowest latency of five"].quantile(0.99))
	require.Less(t, two.quantile(0.99), r["round-robin"].quantile(0.99)/2)
	if load < 0.9 {
		for _, c := range contenders {
			if c.family == "load" {
				require.Less(t, r[c.name].failRate(), 0.0001, c.name)
			}
		}
	}
}
