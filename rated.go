package pooly

import "sync"

// ratedHosts are those of which a score was released since the scores were last computed. Of the others, the scores
// change only when a slot ends, so a refresh need not look at them. A host that has the flag rated is among them; one
// that has not may be so, too, and one may be there twice.
type ratedHosts struct {
	mu    sync.Mutex // a leaf, taken under a pool's lock
	hosts []*host
	spare []*host // empty; the memory of the time before
}

func (r *ratedHosts) push(h *host) {
	r.mu.Lock()
	r.hosts = append(r.hosts, h)
	r.mu.Unlock()
}

// take returns the hosts, and begins anew. The slice is good until give.
func (r *ratedHosts) take() []*host {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.hosts
	r.hosts, r.spare = r.spare, nil
	return taken
}

// give returns the memory of what take returned.
func (r *ratedHosts) give(taken []*host) {
	clear(taken)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare = taken[:0]
}
