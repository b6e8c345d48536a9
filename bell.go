package pooly

import "sync/atomic"

// bell wakes all who wait for something to change. Its methods may be called concurrently. Ringing
// costs one atomic load if nobody waits. The zero value is ready for use.
type bell struct {
	next atomic.Pointer[chan struct{}] // closed by the next ring; nil: nobody waits
}

// listen returns a channel that the next ring closes. Call listen before you look at what may
// change, so that no ring is missed.
func (b *bell) listen() <-chan struct{} {
	for {
		if next := b.next.Load(); next != nil {
			return *next
		}
		next := make(chan struct{})
		if b.next.CompareAndSwap(nil, &next) {
			return next
		}
	}
}

func (b *bell) ring() {
	if b.next.Load() == nil {
		return
	}
	if next := b.next.Swap(nil); next != nil {
		close(*next)
	}
}
