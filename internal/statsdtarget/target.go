// Package statsdtarget sends UDP packets to a statsd server that may be down, unknown or moving.
package statsdtarget

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Target sends packets to the server at a host:port. Packets are dropped until the server's address
// is known. It implements the statsd client's Sender.
//
// Its methods may be called concurrently. Only Resolve looks up a name.
type Target struct {
	address string        // immutable
	period  time.Duration // immutable
	socket  atomic.Pointer[net.UDPConn]
	remote  atomic.Pointer[net.UDPAddr]

	mu       sync.Mutex // guards the fields below; not held during a look-up
	looking  bool       // a look-up is in progress
	lookedUp time.Time  // when the last successful look-up ended
	closed   bool
}

// New returns a Target for the server at address, which may be any string: packets to an address
// that means nothing are dropped. Once found, the server is looked up again after each period, in
// case it has moved.
func New(address string, period time.Duration) *Target {
	return &Target{address: address, period: period}
}

// Resolve looks up the server if that is due: until it is found, and when the period has passed
// since it was. Call it regularly. It does nothing while another call is looking up the server.
func (t *Target) Resolve(ctx context.Context) {
	t.resolve(ctx, true)
}

// ResolveLiteral is Resolve for a server whose host is a literal IP address or empty. For others it
// does nothing. So it needs no name server, and returns at once.
func (t *Target) ResolveLiteral() {
	t.resolve(context.Background(), false)
}

// Known reports whether packets are sent rather than dropped.
func (t *Target) Known() bool {
	return t.remote.Load() != nil
}

// Send sends one packet. It fails with net.ErrClosed if the server is not known or the Target is
// closed. It waits only while the kernel's buffer for the socket is full.
func (t *Target) Send(packet []byte) (int, error) {
	socket, remote := t.socket.Load(), t.remote.Load()
	if socket == nil || remote == nil {
		return 0, net.ErrClosed
	}
	return socket.WriteToUDP(packet, remote)
}

// Close closes the socket. Calls of Resolve that are in progress find nothing.
func (t *Target) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if socket := t.socket.Load(); socket != nil {
		return socket.Close()
	}
	return nil
}

func (t *Target) resolve(ctx context.Context, names bool) {
	t.mu.Lock()
	due := t.remote.Load() == nil || time.Since(t.lookedUp) >= t.period
	if !due || t.looking || t.closed {
		t.mu.Unlock()
		return
	}
	t.looking = true
	t.mu.Unlock()
	remote := t.lookUp(ctx, names)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.looking = false
	if remote == nil || t.closed {
		return
	}
	if t.socket.Load() == nil {
		socket, err := net.ListenUDP("udp", nil)
		if err != nil {
			return
		}
		t.socket.Store(socket)
	}
	t.remote.Store(remote)
	t.lookedUp = time.Now()
}

// lookUp returns the server's address, nil if it has none now. Host names are looked up only if
// names is set.
func (t *Target) lookUp(ctx context.Context, names bool) *net.UDPAddr {
	host, service, err := net.SplitHostPort(t.address)
	if err != nil {
		return nil
	}
	if host == "" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if ip == nil && !names {
		return nil
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "udp", service)
	if err != nil {
		return nil
	}
	if ip == nil {
		ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
		if err != nil || len(ips) == 0 {
			return nil
		}
		ip = ips[0]
		for _, other := range ips {
			// Prefer IPv4: statsd servers listen on it unless told otherwise, and UDP does not tell
			// whether one does.
			if other.To4() != nil {
				ip = other
				break
			}
		}
	}
	return &net.UDPAddr{IP: ip, Port: port}
}
