package pooly

import (
	"context"
	"iter"
	"slices"
)

// search is one GetConn whose first choice had no idle connection. It belongs to one goroutine. It makes its maps
// only for hosts that fail, and locks a full host twice: with 64 callers for 4 connections a pair takes 1.07 µs,
// against 1.34 with the maps and six locks (BenchmarkContended in bench/).
//
// In each round it asks the hosts one by one: the strategy's first choice, two more of its choices, so that what
// overflows follows the scores too, then all others. The first with an idle connection or room for a dial is
// the one. If all have been asked and some are merely busy, it queues for these; if none is, it asks the
// ejected ones.
type search struct {
	service  *Service
	limit    limit
	first    *host          // the strategy's first choice, nil if there is none
	asked    map[*Pool]bool // the hosts that failed in this round; made with the first
	attempts []Attempt
	place    map[*Pool]int        // in attempts
	early    [1 + morePicks]*host // the memory for the strategy's choices that are full

	turn turn
}

// morePicks is how many more choices a search asks the strategy for.
const morePicks = 2

// search leases a connection, or returns a *GetConnError.
func (s *Service) search(ctx context.Context, first *host) (*Conn, error) {
	q := &search{
		service: s,
		limit:   newLimit(ctx, s.config.WaitTimeout),
		first:   first,
	}
	defer q.limit.stop()
	defer q.turn.bury()
	for attempt := 1; ; attempt++ {
		lease, err := q.round()
		if lease != nil {
			return lease, nil
		}
		if err == nil && attempt < s.config.GetAttempts {
			err = q.limit.pause(s.config.RetryDelay, s.done)
		} else if err == nil {
			err = s.reason()
		}
		if err != nil {
			return nil, &GetConnError{Service: s.name, Reason: err, Attempts: q.attempts}
		}
	}
}

// reason returns why no host could serve: a service that is closed meanwhile has none.
func (s *Service) reason() error {
	select {
	case <-s.done:
		return ErrPoolClosed
	default:
		return ErrNoHostAvailable
	}
}

// round asks each host at most once. It returns neither lease nor error if none could be reached.
func (q *search) round() (*Conn, error) {
	clear(q.asked)
	for {
		if err := q.limit.err(); err != nil {
			return nil, err
		}
		v, err := q.service.currentView()
		if err != nil {
			return nil, err
		}
		if len(v.hosts)+len(v.ejected) == 0 {
			return nil, ErrNoHostAvailable
		}
		w := q.turn.waiter()
		var awaited *Pool
		outcome, full := q.ask(w, q.candidates(v), false)
		if outcome == gone {
			outcome, full = q.ask(w, q.all(v), true)
		}
		switch outcome {
		case leased:
			return w.lease, nil
		case gone:
			return nil, nil
		case waiting:
			awaited = w.pool
		case busy:
			awaited = &full[0].Pool
			if !q.service.queue.push(w) {
				return nil, ErrPoolClosed
			}
			q.turn.keep(w)
			for _, h := range full {
				h.serve() // what came free since it was asked
			}
			if q.service.generation.Load() != v.generation {
				w.withdraw(q.service.queue) // v may lack a host that has room
				q.service.rebuild()
				continue
			}
		}
		q.turn.bury()
		r, err := q.service.await(w, &q.limit, awaited)
		switch {
		case err != nil:
			return nil, err
		case r.err != nil:
			q.failed(r.pool, r.err)
		case r.pool != nil && q.turn.accept(w.lease):
			return w.lease, nil
		}
	}
}

// ask goes through hosts until one has a connection for w or lets it wait for a dial. Otherwise it returns the
// hosts that are merely busy, or gone if there is none. A host that failed in this round is ejected, so it is passed
// over unless forced, and if it was restored meanwhile it may be asked again.
func (q *search) ask(w *waiter, hosts iter.Seq[*host], forced bool) (outcome got, full []*host) {
	outcome, full = gone, q.early[:0]
	for h := range hosts {
		if forced && q.asked[&h.Pool] || slices.Contains(full[:min(len(full), len(q.early))], h) {
			continue
		}
		switch g := h.get(w, forced); g {
		case leased, waiting:
			return g, nil
		case busy:
			outcome = busy
			full = append(full, h)
		}
	}
	return outcome, full
}

// candidates yields the hosts that are not ejected, in the order in which to ask them. Those of the strategy come
// twice.
func (q *search) candidates(v *view) iter.Seq[*host] {
	return func(yield func(*host) bool) {
		if first := q.first; first != nil {
			q.first = nil
			if !yield(first) {
				return
			}
		}
		for range min(morePicks, len(v.hosts)-1) {
			if h, _ := v.pick(q.service); h != nil && !yield(h) {
				return
			}
		}
		q.fromRandom(v.hosts, yield)
	}
}

// all yields every host: the ejected ones, and those that were ejected since the view was made.
func (q *search) all(v *view) iter.Seq[*host] {
	return func(yield func(*host) bool) {
		if q.fromRandom(v.hosts, yield) {
			q.fromRandom(v.ejected, yield)
		}
	}
}

// fromRandom yields the hosts in turn, from a random one on. It reports whether there was demand for all.
func (q *search) fromRandom(hosts []*host, yield func(*host) bool) bool {
	start := 0
	if len(hosts) > 1 {
		start = q.service.rng.IntN(len(hosts))
	}
	for i := range hosts {
		if !yield(hosts[(start+i)%len(hosts)]) {
			return false
		}
	}
	return true
}

// failed notes that a host could not be reached.
func (q *search) failed(p *Pool, err error) {
	if q.asked == nil {
		q.asked, q.place = make(map[*Pool]bool), make(map[*Pool]int)
	}
	q.asked[p] = true
	i, known := q.place[p]
	if !known {
		i = len(q.attempts)
		q.place[p] = i
		q.attempts = append(q.attempts, Attempt{Address: p.address})
	}
	q.attempts[i].Err = err
}
