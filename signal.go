package pooly

// signal tells all listeners of an event. The zero value is ready for use. Nothing is locked under
// its lock.
type signal struct {
	mu   mutex
	next chan struct{} // guarded by mu; nil while nobody listens
}

// listen returns a channel that the next tell closes. After listen, the caller must check for
// itself whether the event has happened already.
func (n *signal) listen() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	return n.next
}

// tell wakes all listeners.
func (n *signal) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.next != nil {
		close(n.next)
		n.next = nil
	}
}
