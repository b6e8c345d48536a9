package poolytest

import (
	"context"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// host is one address of a Net.
type host struct {
	net     *Net   // immutable
	address string // immutable

	mu      sync.Mutex // guards the fields below, and the connections to the host
	stats   Stats
	conns   map[*Conn]struct{} // ends that dialled, until both ends are closed
	changed chan struct{}      // closed at the next change; nil if nobody waits for it

	handler  func(net.Conn) // nil: none
	listener *listener      // nil: none

	// Faults:
	err         error // of dials; nil: they succeed
	hangs       bool
	dialDelay   time.Duration
	answerDelay time.Duration
	resetAfter  int         // bytes; negative: never
	flapping    *time.Timer // to the next change between up and down; nil: none
}

// dial connects, or fails, as the host does at the end of the dial.
func (h *host) dial(ctx context.Context, network string) (*Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stats.Dials++
	h.stats.Dialing++
	h.stats.Peak = max(h.stats.Peak, h.stats.Open+h.stats.Dialing)
	h.stats.DialTimes = append(h.stats.DialTimes, time.Now())
	defer func() { h.stats.Dialing-- }()
	if err := h.travel(ctx); err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: addr{network, h.address}, Err: err}
	}
	if err := h.dialError(); err != nil {
		return nil, err
	}
	return h.connect(network), nil
}

// dialError returns what dials fail with, or nil.
func (h *host) dialError() error {
	if h.err == nil && h.listener != nil && h.listener.closed {
		return h.refusal()
	}
	return h.err
}

// travel waits as long as a dial takes. h.mu is unlocked meanwhile.
func (h *host) travel(ctx context.Context) error {
	var due <-chan time.Time
	if h.dialDelay > 0 {
		t := time.NewTimer(h.dialDelay)
		defer t.Stop()
		due = t.C
	}
	for ctx.Err() == nil && (due != nil || h.hangs && h.dialError() == nil) {
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		h.mu.Unlock()
		select {
		case <-due:
			due = nil
		case <-changed:
		case <-ctx.Done():
		}
		h.mu.Lock()
	}
	return ctx.Err()
}

// connect makes a connection, and gives its other end to the host's server.
func (h *host) connect(network string) *Conn {
	h.stats.Open++
	c := newPair(h, network)
	h.conns[c] = struct{}{}
	switch {
	case h.listener != nil:
		h.listener.queue = append(h.listener.queue, c.peer)
		h.listener.arrived.Broadcast()
	case h.handler != nil:
		handler := h.handler
		h.net.handlers.Go(func() {
			defer func() { _ = c.peer.Close() }()
			handler(c.peer)
		})
	default:
		c.echo = true
	}
	return c
}

// wake wakes dials, reads and accepts, so that they see what has changed.
func (h *host) wake() {
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
	for c := range h.conns {
		c.readable.Broadcast()
		c.peer.readable.Broadcast()
	}
}

func (h *host) reset() {
	for c := range h.conns {
		c.breakWith(syscall.ECONNRESET)
	}
}

// flap makes the host go down after a time, and up again later, and so on.
func (h *host) flap(up, down time.Duration) {
	h.stopFlapping()
	h.err = nil
	isDown := false
	var t *time.Timer
	t = time.AfterFunc(up, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.flapping != t { // Heal came first
			return
		}
		if isDown = !isDown; isDown {
			h.err = h.refusal()
			h.reset()
			t.Reset(down)
		} else {
			h.err = nil
			t.Reset(up)
		}
		h.wake()
	})
	h.flapping = t
}

func (h *host) stopFlapping() {
	if h.flapping != nil {
		h.flapping.Stop()
		h.flapping = nil
	}
}

// refusal is the error of a net.Dialer when nobody listens.
func (h *host) refusal() error {
	return &net.OpError{Op: "dial", Net: "tcp", Addr: addr{"tcp", h.address},
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// listener is the net.Listener of Listen.
type listener struct {
	host    *host
	arrived *sync.Cond // on host.mu
	queue   []*Conn    // guarded by host.mu, like closed
	closed  bool
}

func (l *listener) Accept() (net.Conn, error) {
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.arrived.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.queue[0]
	l.queue = l.queue[1:]
	return c, nil
}

func (l *listener) Close() error {
	l.host.mu.Lock()
	defer l.host.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.closed = true
	for _, c := range l.queue {
		c.breakWith(syscall.ECONNRESET)
	}
	l.queue = nil
	l.arrived.Broadcast()
	l.host.wake()
	return nil
}

func (l *listener) Addr() net.Addr { return addr{"tcp", l.host.address} }

// addr is a net.Addr.
type addr struct{ network, address string }

func (a addr) Network() string { return a.network }
func (a addr) String() string  { return a.address }
