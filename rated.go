package pooly

import "sync/atomic"

// ratedHosts are those of which a score was released since the scores were last computed. Of the others, the scores
// change only when a slot ends, so a refresh need not look at them.
//
// It is a stack, linked through the hosts: each host is pushed once, under its pool's lock and with its flag rated, and
// refresh takes all. From then until refresh clears the flag, under that lock, its link does not change.
type ratedHosts struct {
	top   atomic.Pointer[host]
	count atomic.Int32 // about as many as there are: pushes are counted a moment late
}

func (r *ratedHosts) push(h *host) {
	for {
		h.below = r.top.Load()
		if r.top.CompareAndSwap(h.below, h) {
			r.count.Add(1)
			return
		}
	}
}

// take empties the stack. It returns the topmost host, nil if there is none, and about how many there were.
func (r *ratedHosts) take() (top *host, count int) {
	return r.top.Swap(nil), int(r.count.Swap(0))
}
