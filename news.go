package pooly

import "sync"

// news tells calls that have no host left to try of one that came or is back. The zero value is ready for use. Its lock
// is a leaf: it may be taken under a pool's lock, and nothing is taken under it.
type news struct {
	mu   sync.Mutex
	next chan struct{} // guarded by mu; nil while nobody listens
}

// listen returns a channel that the next tell closes. What was told before, the caller must see for itself, afterwards.
func (n *news) listen() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}
