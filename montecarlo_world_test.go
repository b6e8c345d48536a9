//go:build montecarlo_simulation

package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
)

// A world is one run of hosts that fill up, under services of pooly. Every call is a Do with a
// deadline, and the services have the default configuration except for what the description says.
// A client that gives up closes its connection. The host drops its request if it has not begun it,
// and finishes it otherwise.
type world struct {
	hostsDescription
	clients []*pooly.Service
	scored  bool
	reports reporting     // how hosts tell their load
	target  time.Duration // what latencies are scored against
	began   time.Time
	calls   sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	hosts []worldHost
	latencies
}

// A worldHost is a simulated host.
type worldHost struct {
	antagonist bool
	busy       int
	line       []*request
}

// A request is a lease of a simulated host.
type request struct {
	arrival
	gone bool       // its client has given up
	done chan error // answers; holds one
}

// targetOfWork times the mean work is what latencies are scored against.
const targetOfWork = 2.5

// warmUp is the share of a run that is not measured.
const warmUp = 0.25

var errFails = errors.New("simulated: the request failed")

// playWorld runs a trace under services with the given strategy and returns the latencies. It must
// be called in a bubble.
func playWorld(t *testing.T, d hostsDescription, c contender, tr *trace, length time.Duration, seed uint64) *latencies {
	w := &world{
		hostsDescription: d,
		scored:           c.scored,
		reports:          reportingOf(c),
		target:           time.Duration(targetOfWork * float64(d.work())),
		hosts:            make([]worldHost, d.Hosts),
		latencies:        latencies{deadline: d.Deadline.duration()},
	}
	driver := pooly.Driver(memoryDriver{})
	if w.reports.probes > 0 {
		driver = probedDriver{world: w}
	}
	for client := range d.Clients {
		s := pooly.NewService("simulated", &pooly.ServiceConfig{
			PoolConfig:     pooly.PoolConfig{Driver: driver, MaxConns: d.MaxConns},
			ProbeRate:      w.reports.probes,
			ProbeWait:      w.reports.wait,
			BanditStrategy: reportingOf(c).Bandit,
			Logger:         slog.New(slog.DiscardHandler),
		})
		own := seed<<20 + uint64(client)
		pooly.SeedService(s, own)
		addresses := make([]string, d.Hosts)
		for i, host := range rand.New(rand.NewPCG(own, 1)).Perm(d.Hosts) {
			addresses[i] = strconv.Itoa(host)
		}
		s.SetHosts(addresses...)
		w.clients = append(w.clients, s)
	}
	w.began = time.Now()
	w.calls.Go(func() {
		for _, c := range tr.changes {
			time.Sleep(c.at - time.Since(w.began))
			w.mu.Lock()
			w.hosts[c.host].antagonist = !w.hosts[c.host].antagonist
			w.mu.Unlock()
		}
	})
	measured := time.Duration(warmUp * float64(length))
	for _, a := range tr.requests {
		time.Sleep(a.at - time.Since(w.began))
		w.calls.Go(func() {
			err := w.call(a)
			if a.at >= measured {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.add(time.Since(w.began)-a.at, err)
			}
		})
	}
	w.calls.Wait()
	for _, s := range w.clients {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	return &w.latencies
}

// call is what a user of pooly writes.
func (w *world) call(a arrival) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.Deadline.duration())
	defer cancel()
	return w.clients[a.client].Do(ctx, func(c *pooly.Conn) error {
		began := time.Now()
		err := w.request(ctx, c.Interface().(int), &request{arrival: a, done: make(chan error, 1)})
		if w.reports.inReplies && err == nil {
			l := w.loadOf(c.Interface().(int))
			l.InFlight++ // itself
			_ = c.ReportLoad(l)
		}
		if w.scored && err == nil {
			return c.Release(nil, pooly.LatencyScore(time.Since(began), w.target))
		}
		return err
	})
}

// request sends a request to a host and waits for the answer.
func (w *world) request(ctx context.Context, host int, r *request) error {
	if r.luck < w.failureRate(host) {
		return errFails
	}
	w.mu.Lock()
	if h := &w.hosts[host]; h.busy < w.Workers {
		w.beginLocked(host, r)
	} else {
		h.line = append(h.line, r)
	}
	w.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		r.gone = true
		return ctx.Err()
	}
}

func (w *world) beginLocked(host int, r *request) {
	h := &w.hosts[host]
	h.busy++
	time.AfterFunc(w.takes(host, h.antagonist, r.work), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		h.busy--
		for h.busy < w.Workers && len(h.line) > 0 {
			next := h.line[0]
			h.line = h.line[1:]
			if !next.gone {
				w.beginLocked(host, next)
			}
		}
		r.done <- nil
	})
}

// takes returns how long a host works on a request that it begins now.
func (d *hostsDescription) takes(host int, antagonist bool, work time.Duration) time.Duration {
	rate := d.strength(host)
	if antagonist {
		rate *= 1 - d.AntagonistsTake
	}
	return time.Duration(float64(work) / rate)
}

// A latencies is a histogram of latencies whose bars are each 1 % wider than the one before. A
// request that fails counts as one that takes until the deadline.
type latencies struct {
	deadline time.Duration
	bars     [1200]int
	count    int
	fails    int
}

const shortestBar = 100 * time.Microsecond

func (l *latencies) add(d time.Duration, err error) {
	if err != nil {
		l.fails++
		d = l.deadline
	}
	bar := math.Log(float64(max(d, 1))/float64(shortestBar)) / math.Log(1.01)
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
	ms := shortestBar.Seconds() * 1000 * math.Pow(1.01, float64(bar+1))
	return min(ms, l.deadline.Seconds()*1000)
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

func (l *latencies) failRate() float64 { return float64(l.fails) / float64(max(1, l.count)) }

// tail returns the share of requests that took longer than each bar's edge.
func (l *latencies) tail(each func(ms, share float64)) {
	left := l.count
	for bar, n := range l.bars {
		left -= n
		each(l.edge(bar), float64(left)/float64(l.count))
	}
}

func sortChanges(all []change) {
	slices.SortFunc(all, func(a, b change) int { return int(a.at - b.at) })
}
