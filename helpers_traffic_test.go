package pooly_test

import (
	"container/heap"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// reply is how a host answers a request: how long that takes, and how the caller releases the
// lease.
type reply struct {
	took  time.Duration
	err   error
	score float64
}

// traffic has clients use a service in virtual time, and counts who gets the requests. Clients ask,
// wait for the answer, and ask again after a pause. All happens in one goroutine and with seeded
// random numbers, so it is repeatable. It must be used in a bubble.
type traffic struct {
	t       *testing.T
	service *pooly.Service
	hosts   int
	pause   time.Duration // between an answer and the client's next request, in the mean
	reply   func(host int, at time.Duration, rng *rand.Rand) reply

	rng    *rand.Rand
	began  time.Time
	now    time.Duration
	agenda agendaOfRequests
	picks  [][]int // of each host, by tenths of a second
}

// requestEvent is a client that asks, or an answer to it.
type requestEvent struct {
	at    time.Duration
	order int
	conn  *pooly.Conn // nil: the client asks
	reply reply
}

type agendaOfRequests []requestEvent

func (a agendaOfRequests) Len() int { return len(a) }
func (a agendaOfRequests) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].order < a[j].order
}
func (a agendaOfRequests) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agendaOfRequests) Push(x any)   { *a = append(*a, x.(requestEvent)) }
func (a *agendaOfRequests) Pop() any {
	last := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return last
}

// tenth is the unit in which traffic counts.
const tenth = 100 * time.Millisecond

func newTraffic(t *testing.T, config pooly.ServiceConfig, hosts, clients int, pause time.Duration) *traffic {
	t.Helper()
	config.MaxConns = 1 << 16
	addresses := make([]string, hosts)
	for i := range addresses {
		addresses[i] = strconv.Itoa(i)
	}
	s, _ := newService(t, config, addresses...)
	pooly.SeedService(s, 1)
	w := &traffic{t: t, service: s, hosts: hosts, pause: pause, rng: rand.New(rand.NewPCG(1, 2)), began: time.Now()}
	for i := range clients {
		heap.Push(&w.agenda, requestEvent{at: w.after(pause), order: i})
	}
	return w
}

func (w *traffic) after(mean time.Duration) time.Duration {
	return w.now + time.Duration(w.rng.ExpFloat64()*float64(mean))
}

// run goes on until the time at.
func (w *traffic) run(until time.Duration) {
	for w.agenda[0].at < until {
		e := heap.Pop(&w.agenda).(requestEvent)
		time.Sleep(e.at - time.Since(w.began))
		w.now = e.at
		if e.conn == nil {
			w.ask(e)
			continue
		}
		_ = e.conn.Release(e.reply.err, e.reply.score)
		heap.Push(&w.agenda, requestEvent{at: w.after(w.pause), order: e.order})
	}
	time.Sleep(until - time.Since(w.began))
	w.now = until
}

func (w *traffic) ask(e requestEvent) {
	c, err := w.service.GetConn()
	require.NoError(w.t, err)
	host, err := strconv.Atoi(c.Address())
	require.NoError(w.t, err)
	bucket := int(w.now / tenth)
	for len(w.picks) <= bucket {
		w.picks = append(w.picks, make([]int, w.hosts))
	}
	w.picks[bucket][host]++
	e.conn, e.reply = c, w.reply(host, w.now, w.rng)
	e.at = w.now + e.reply.took
	heap.Push(&w.agenda, e)
}

// share returns the share of a host in the requests between two times.
func (w *traffic) share(host int, from, to time.Duration) float64 {
	own, all := 0, 0
	for bucket := int(from / tenth); bucket < min(len(w.picks), int(to/tenth)); bucket++ {
		for h, n := range w.picks[bucket] {
			all += n
			if h == host {
				own += n
			}
		}
	}
	return float64(own) / float64(max(1, all))
}

// reaches returns how long after from a host first has at least the given share of the requests of
// a second. It returns the time until to if it never has.
func (w *traffic) reaches(host int, share float64, from, to time.Duration) time.Duration {
	for at := from; at+time.Second <= to; at += tenth {
		if w.share(host, at, at+time.Second) >= share {
			return at - from
		}
	}
	return to - from
}

// close ends the leases that are out.
func (w *traffic) close() {
	for _, e := range w.agenda {
		if e.conn != nil {
			_ = e.conn.Release(nil, pooly.HostUp)
		}
	}
	require.NoError(w.t, w.service.Close())
}
