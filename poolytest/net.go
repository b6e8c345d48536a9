// Package poolytest helps to test drivers, and code that uses pooly.
//
//   - [Net] is a network in memory, with faults: hosts that refuse, hang, answer late or break.
//     [Net.DialContext] is its dial function, and [Net.Driver] a driver for it.
//   - [Strategy] is a strategy that records its choices, or follows a script.
//   - [NoLeases] and [NoConns] find what a test has left behind.
//
// All of it works inside and outside the bubbles of testing/synctest. In a bubble time is virtual:
// a test of ten minutes of failures takes milliseconds, and has the same result each time.
package poolytest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/3XX0/pooly"
)

// Net is a network in memory. It has a host at each address. A host is up, accepts each dial at
// once, and sends back what it receives. [Net.Serve] and [Net.Listen] give it a server.
//
// Faults last until [Net.Heal]. Several can be in effect at once, such as slow dials and slow
// answers.
//
// All methods may be called concurrently. Make a Net in the bubble in which it is used.
type Net struct {
	mu       sync.Mutex
	hosts    map[string]*host // by address; guarded by mu
	closed   bool             // guarded by mu
	handlers sync.WaitGroup
}

// Stats are the figures of a host.
type Stats struct {
	Dials   int // begun
	Dialing int // in flight
	Open    int // connections that the dialling side has not closed
	Closed  int // connections that the dialling side has closed
	Peak    int // the most of Open and Dialing together: what PoolConfig.MaxConns bounds

	DialTimes []time.Time // when each dial began
}

// NewNet returns a network whose hosts are up.
func NewNet() *Net {
	return &Net{hosts: make(map[string]*host)}
}

// Driver returns a NetDriver that dials with DialContext. Make further settings, such as TLS,
// before it is used.
func (n *Net) Driver() *pooly.NetDriver {
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(n.DialContext)
	return d
}

// DialContext connects to the host at an address. The network may be any. The connection is a
// *[Conn]. It is the dial function for NetDriver.SetDialContext, for http.Transport, and for other
// clients that take one.
//
// It fails like a net.Dialer, with a *net.OpError, or with the error given to Fail. It returns
// when ctx ends.
func (n *Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := n.host(address).dial(ctx, network)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Serve makes a function serve each later connection to an address, in a goroutine of its own. Its
// argument is the host's end of the connection, which is closed when the function returns. A nil
// handler sends back what it receives, as a host does in the beginning.
//
// A Read returns io.EOF when the dialling side has closed the connection. The handler should return
// then, or the bubble never ends.
func (n *Net) Serve(address string, handler func(net.Conn)) {
	n.change([]string{address}, func(h *host) { h.handler, h.listener = handler, nil })
}

// Listen returns a listener that accepts the later connections to an address, for servers such as
// http.Server. When it is closed, dials are refused until the next Listen or Serve.
func (n *Net) Listen(address string) net.Listener {
	h := n.host(address)
	l := &listener{host: h, arrived: sync.NewCond(&h.mu)}
	n.change([]string{address}, func(h *host) { h.listener = l })
	return l
}

// Refuse makes the addresses refuse dials, as if no server ran there. Open connections stay as they
// are.
func (n *Net) Refuse(addresses ...string) {
	n.change(addresses, func(h *host) { h.err = h.refusal() })
}

// Fail makes dials to an address fail with an error.
func (n *Net) Fail(address string, err error) {
	n.change([]string{address}, func(h *host) { h.err = err })
}

// Hang turns the addresses into black holes, as if a cable was cut. A dial waits until its context
// ends. What is sent over open connections, in either direction, arrives after Heal. So does the
// end of a connection. At the end of a test, heal the host or close the Net, so that handlers
// return.
func (n *Net) Hang(addresses ...string) {
	n.change(addresses, func(h *host) { h.hangs = true })
}

// SlowDials delays later dials to an address. After the delay they succeed or fail, as the host
// does at that time.
func (n *Net) SlowDials(address string, delay time.Duration) {
	n.change([]string{address}, func(h *host) { h.dialDelay = delay })
}

// SlowAnswers delays what a host sends from now on.
func (n *Net) SlowAnswers(address string, delay time.Duration) {
	n.change([]string{address}, func(h *host) { h.answerDelay = delay })
}

// ResetAfter breaks each connection to an address, open connections included, when the host has
// sent the given number of bytes on it and sends more. The bytes can be read. Then reads and writes
// fail with ECONNRESET. With 0 bytes, the first answer breaks the connection.
func (n *Net) ResetAfter(address string, bytes int) {
	n.change([]string{address}, func(h *host) { h.resetAfter = max(0, bytes) })
}

// Flap makes an address change between up and down, beginning with up. When it goes down, its
// connections break as by Reset, and dials are refused until it is up. It panics if a duration is
// not positive.
func (n *Net) Flap(address string, up, down time.Duration) {
	if up <= 0 || down <= 0 {
		panic(fmt.Sprintf("poolytest: Flap(%q, %v, %v): not positive", address, up, down))
	}
	n.change([]string{address}, func(h *host) { h.flap(up, down) })
}

// Heal ends all faults of the addresses. What has broken stays broken.
func (n *Net) Heal(addresses ...string) {
	n.change(addresses, func(h *host) {
		h.err, h.hangs, h.dialDelay, h.answerDelay, h.resetAfter = nil, false, 0, 0, -1
		h.stopFlapping()
	})
}

// Reset breaks all open connections to the addresses: reads and writes fail with ECONNRESET. After
// Refuse, it acts like the crash of a server.
func (n *Net) Reset(addresses ...string) {
	n.change(addresses, (*host).reset)
}

// CloseIdle closes the host's end of the open connections on which no answer is due: nothing was
// sent to the host since something was last read. It acts like a server that closes idle
// connections.
func (n *Net) CloseIdle(addresses ...string) {
	n.change(addresses, func(h *host) {
		for c := range h.conns {
			if !c.asked && !c.closed {
				c.peer.close()
			}
		}
	})
}

// Dials returns how many dials to an address have begun. Stats has more.
func (n *Net) Dials(address string) int {
	return n.Stats(address).Dials
}

// Open returns how many connections to an address the dialling side has open. Stats has more.
func (n *Net) Open(address string) int {
	return n.Stats(address).Open
}

// Stats returns the figures of a host.
func (n *Net) Stats(address string) Stats {
	h := n.host(address)
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stats
	s.DialTimes = slices.Clone(s.DialTimes)
	return s
}

// Close breaks all connections, refuses all dials, and waits for the handlers of Serve. Call it at
// the end of a test: t.Cleanup(n.Close). It is not needed if the users have closed all connections.
func (n *Net) Close() {
	for _, h := range n.shut() {
		h.mu.Lock()
		h.stopFlapping()
		h.err, h.hangs = h.refusal(), false
		h.reset()
		h.wake()
		h.mu.Unlock()
	}
	n.handlers.Wait()
}

func (n *Net) host(address string) *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[address]
	if h == nil {
		h = &host{net: n, address: address, conns: make(map[*Conn]struct{}), resetAfter: -1}
		if n.closed {
			h.err = h.refusal()
		}
		n.hosts[address] = h
	}
	return h
}

// shut closes the network to further hosts, and returns the hosts it has.
func (n *Net) shut() []*host {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	return slices.Collect(maps.Values(n.hosts))
}

// addresses returns the addresses that were used so far, sorted.
func (n *Net) addresses() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.hosts))
}

// change changes hosts, and wakes whoever waits there.
func (n *Net) change(addresses []string, f func(*host)) {
	for _, address := range addresses {
		h := n.host(address)
		h.mu.Lock()
		f(h)
		h.wake()
		h.mu.Unlock()
	}
}
