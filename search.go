package pooly

import (
	"context"
	"iter"
	"slices"
	"time"
)

// search is one GetConn whose first choice had no idle connection. It belongs to one goroutine. It makes its maps
// only for hosts that fail, and locks a full host twice: with 64 callers for 4 connections a pair takes 1.07 µs,
// against 1.34 with the maps and six locks (BenchmarkContended in bench/).
//
// In each round it asks the hosts one by one: the strategy's first choice, two more of its choices, so that what
// overflows follows the scores too, then all others. The first with an idle connection or room for a dial is
// the one. If all have been asked and some are merely busy, it queues for these; if none is, it asks the
// ejected ones.
//
// If a dial has not ended after FallbackDelay, it goes on with the next host as if that dial had failed, but stays in
// line for it: the first to answer serves the call (as RFC 8305, section 5, races the addresses of a name).
type search struct {
	service  *Service
	limit    limit
	first    *host          // the strategy's first choice, nil if there is none
	asked    map[*Pool]bool // the hosts that failed in this round; made with the first
	attempts []Attempt
	place    map[*Pool]int        // in attempts
	early    [1 + morePicks]*host // the memory for the strategy's choices that are full

	turn    turn
	awaited *Pool           // the last host that the call began to wait for
	news    <-chan struct{} // of hosts to try; nil unless the call waits only for dials, and has no other
}

// morePicks is how many more choices a search asks the strategy for.
const morePicks = 2

func (s *Service) newSearch(ctx context.Context, first *host) *search {
	return &search{
		service: s,
		limit:   newLimit(ctx, s.config.WaitTimeout),
		first:   first,
		turn:    turn{env: &s.poolEnv},
	}
}

// run leases a connection, or returns a *GetConnError. Hosts to avoid are asked once no other answers in time.
func (q *search) run() (*Conn, error) {
	s := q.service
	defer q.limit.stop()
	defer q.turn.done()
	for attempt := 1; ; attempt++ {
		lease, err := q.round()
		for _, w := range q.turn.end() {
			q.failed(w.pool, w.err)
		}
		if lease != nil {
			return lease, nil
		}
		q.turn.avoid = nil
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
		lease, patience, err := q.stand(v)
		if lease != nil || err != nil {
			return lease, err
		}
		if q.turn.placed == 0 {
			return nil, nil
		}
		w, err := q.turn.await(&q.limit, patience, q.news, q.awaited)
		switch {
		case err != nil:
			return nil, err
		case w == nil:
			if q.news == nil { // it is not because of these
				q.awaited.suspectDials()
			}
		case w.err != nil:
			q.failed(w.pool, w.err)
		case w.lease != nil && q.turn.accept(w.lease):
			return w.lease, nil
		}
	}
}

// stand leases an idle connection, or else takes a place where there will be one, besides those that the call has: in
// the line of the next host to dial, or in the queue. It returns how long to wait before the next host is tried
// alongside; 0 if there is none, and see news.
func (q *search) stand(v *view) (lease *Conn, patience time.Duration, err error) {
	defer q.turn.bury()
	q.news = nil
	if !q.turn.makeRoom() {
		return nil, 0, nil
	}
	s := q.service
	w := q.turn.waiter()
	outcome, full := q.ask(w, q.candidates(v), false)
	if outcome == gone {
		if s.widen(v.generation) {
			return q.standAnew()
		}
		outcome, full = q.ask(w, q.all(v), true)
	}
	switch {
	case outcome == leased:
		return w.lease, 0, nil
	case outcome == waiting:
		q.awaited = w.chosen
		q.turn.stand(w)
		return nil, max(0, s.config.FallbackDelay), nil
	case q.turn.standsAt(nil) || outcome == gone && q.turn.placed == 0:
		return nil, 0, nil
	case outcome == gone:
		return q.listen(v)
	case !s.queue.push(w):
		return nil, 0, ErrPoolClosed
	}
	q.awaited = &full[0].Pool
	q.turn.stand(w)
	for _, h := range full {
		if q.turn.unused && q.turn.dead == nil {
			q.turn.dead = h.evict()
		}
		h.serve() // what came free since it was asked
	}
	if s.generation.Load() != v.generation && w.leave(s.queue) {
		q.turn.forget(w) // v may lack a host that has room
		return q.standAnew()
	}
	return nil, 0, nil
}

// listen is for a call that waits for dials which take long, and has no host left to try alongside: the hosts to avoid are
// that, and after those any that joins or is restored.
func (q *search) listen(v *view) (lease *Conn, patience time.Duration, err error) {
	if q.turn.avoid != nil {
		q.turn.avoid = nil
		return q.stand(v)
	}
	q.news = q.service.news.listen()
	if q.service.generation.Load() != v.generation {
		return q.standAnew() // that may have been told before
	}
	return nil, 0, nil
}

// standAnew is stand with the hosts as they are now.
func (q *search) standAnew() (lease *Conn, patience time.Duration, err error) {
	v := q.service.rebuild()
	if v == nil {
		return nil, 0, ErrPoolClosed
	}
	return q.stand(v)
}

// ask goes through hosts until one has a connection for w or lets it wait for a dial. Otherwise it returns the
// hosts that are merely busy, or gone if there is none. A host that failed in this round is ejected, so it is passed
// over unless forced, and if it was restored meanwhile it may be asked again. When forced it is not dialled again, but a
// lease that ended meanwhile may have left it an idle connection.
func (q *search) ask(w *waiter, hosts iter.Seq[*host], forced bool) (outcome got, full []*host) {
	outcome, full = gone, q.early[:0]
	for h := range hosts {
		if q.turn.passesOver(&h.Pool) || slices.Contains(full[:min(len(full), len(q.early))], h) {
			continue
		}
		if forced && q.asked[&h.Pool] {
			if !q.turn.unused {
				w.lease = h.takeIdle(true)
			}
			if w.lease != nil {
				return leased, nil
			}
			continue
		}
		var g got
		if q.turn.unused {
			g = h.getUnused(w, forced)
		} else {
			g = h.get(w, forced)
		}
		switch g {
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
