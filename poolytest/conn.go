package poolytest

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/3XX0/pooly/internal/sockpeek"
)

// Conn is one end of a connection of a [Net]. It is a net.Conn like a TCP connection: reads and
// writes heed deadlines, and a write does not wait for the reader.
//
// NetDriver, DriverOf and clients such as go-redis find out by its SyscallConn method that an idle
// Conn is unfit, as they do with a socket.
type Conn struct {
	host          *host      // its mu guards the fields below
	peer          *Conn      // immutable; the other end
	dialled       bool       // immutable; it is the end that dialled
	id            int        // immutable
	local, remote addr       // immutable
	readable      *sync.Cond // immutable; on host.mu: a Read may go on

	in       []packet // what is on its way here, and what was not read
	received int      // bytes that were read
	ended    bool     // nothing more is sent here
	silent   bool     // nothing more is sent from here
	closed   bool     // by Close
	broken   error    // the error of reads and writes; nil: they work
	asked    bool     // something was written since something was read
	echo     bool     // what is written comes back, because the host has no server

	readBy, writeBy time.Time // deadlines; zero: none
}

// packet is what one Write has sent.
type packet struct {
	data []byte
	at   time.Time // when it arrives
}

// newPair returns the end that dialled. It is called with h.mu held.
func newPair(h *host, network string) *Conn {
	id := h.stats.Open + h.stats.Closed - 1
	client := addr{network, fmt.Sprintf("%s-client-%d", h.address, id)}
	server := addr{network, h.address}
	c := &Conn{host: h, id: id, dialled: true, local: client, remote: server}
	c.peer = &Conn{host: h, id: id, local: server, remote: client, peer: c}
	c.readable, c.peer.readable = sync.NewCond(&h.mu), sync.NewCond(&h.mu)
	return c
}

// ID returns the number of the connection at its host: 0 is the first that was established. Both
// ends have the same.
func (c *Conn) ID() int { return c.id }

// Closed reports whether Close was called.
func (c *Conn) Closed() bool {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	return c.closed
}

// Break breaks the connection, as the network or the peer would: reads and writes at both ends fail
// with err. A nil error stands for a peer that has closed its end: a Read returns what has arrived,
// and then io.EOF.
func (c *Conn) Break(err error) {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if err == nil {
		c.peer.close()
		return
	}
	c.breakWith(err)
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	for {
		until := c.readBy
		switch now := time.Now(); {
		case c.closed:
			return 0, c.failed("read", net.ErrClosed)
		case passed(c.readBy, now):
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		case c.broken != nil:
			return 0, c.failed("read", c.broken)
		case len(b) == 0:
			return 0, nil
		case c.arrived(now) && c.spent():
			c.breakWith(syscall.ECONNRESET)
			return 0, c.failed("read", c.broken)
		case c.arrived(now):
			return c.take(b), nil
		case c.host.hangs:
		case len(c.in) > 0:
			if at := c.in[0].at; until.IsZero() || at.Before(until) {
				until = at
			}
		case c.ended:
			return 0, io.EOF
		}
		c.wait(until)
	}
}

// arrived reports whether there is something to read.
func (c *Conn) arrived(now time.Time) bool {
	return len(c.in) > 0 && !c.host.hangs && !c.in[0].at.After(now)
}

// spent reports whether the connection breaks instead of delivering more.
func (c *Conn) spent() bool {
	return c.dialled && c.host.resetAfter >= 0 && c.received >= c.host.resetAfter
}

// take reads what has arrived first.
func (c *Conn) take(b []byte) int {
	if limit := c.host.resetAfter - c.received; c.dialled && c.host.resetAfter >= 0 {
		b = b[:min(len(b), limit)]
	}
	first := &c.in[0]
	n := copy(b, first.data)
	if first.data = first.data[n:]; len(first.data) == 0 {
		c.in = c.in[1:]
	}
	c.received += n
	c.asked = false
	return n
}

// wait waits until something changes, or a time comes. host.mu is unlocked meanwhile.
func (c *Conn) wait(until time.Time) {
	if !until.IsZero() {
		t := time.AfterFunc(time.Until(until), func() {
			c.host.mu.Lock()
			defer c.host.mu.Unlock()
			c.readable.Broadcast()
		})
		defer t.Stop()
	}
	c.readable.Wait()
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	switch {
	case c.closed:
		return 0, c.failed("write", net.ErrClosed)
	case passed(c.writeBy, time.Now()):
		return 0, c.failed("write", os.ErrDeadlineExceeded)
	case c.broken != nil:
		return 0, c.failed("write", c.broken)
	case c.silent || c.peer.closed:
		return 0, c.failed("write", syscall.EPIPE)
	case len(b) == 0:
		return 0, nil
	}
	c.asked = true
	to := c.peer
	if c.echo {
		to = c
	}
	to.deliver(b)
	return len(b), nil
}

// deliver sends b to c. It is read after what was sent before, even if that arrives later.
func (c *Conn) deliver(b []byte) {
	if c.ended { // by CloseRead
		return
	}
	p := packet{data: append([]byte(nil), b...), at: time.Now()}
	if c.dialled {
		p.at = p.at.Add(c.host.answerDelay)
	}
	c.in = append(c.in, p)
	c.readable.Broadcast()
}

// Close implements net.Conn. The peer can read what was sent before.
func (c *Conn) Close() error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.closed {
		return c.failed("close", net.ErrClosed)
	}
	c.close()
	return nil
}

// close closes the connection at this end. host.mu is held.
func (c *Conn) close() {
	if c.closed {
		return
	}
	c.closed, c.peer.ended = true, true
	if c.dialled {
		c.host.stats.Open--
		c.host.stats.Closed++
	}
	if c.peer.closed || c.echo {
		delete(c.host.conns, c)
		delete(c.host.conns, c.peer)
	}
	c.readable.Broadcast()
	c.peer.readable.Broadcast()
}

// breakWith breaks both ends. host.mu is held.
func (c *Conn) breakWith(err error) {
	for _, end := range []*Conn{c, c.peer} {
		if end.broken == nil {
			end.broken = err
		}
		end.readable.Broadcast()
	}
}

// CloseWrite says that nothing more is sent from this end, like a TCP connection's.
func (c *Conn) CloseWrite() error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.closed {
		return c.failed("close", net.ErrClosed)
	}
	c.silent, c.peer.ended = true, true
	if c.echo {
		c.ended = true
	}
	c.peer.readable.Broadcast()
	c.readable.Broadcast()
	return nil
}

// CloseRead says that nothing more is read at this end: a Read returns io.EOF.
func (c *Conn) CloseRead() error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.closed {
		return c.failed("close", net.ErrClosed)
	}
	c.in, c.ended = nil, true
	c.readable.Broadcast()
	return nil
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadline(t, true, true) }

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(t, true, false) }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(t, false, true) }

func (c *Conn) setDeadline(t time.Time, read, write bool) error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	if c.closed {
		return c.failed("set", net.ErrClosed)
	}
	if read {
		c.readBy = t
		c.readable.Broadcast()
	}
	if write {
		c.writeBy = t
	}
	return nil
}

// SyscallConn implements syscall.Conn for clients that check an idle connection. There is no file
// descriptor, so the methods of the RawConn do not call their function. They return nil if the
// connection is fit for use. Otherwise they return what is wrong with it: it is closed or broken,
// the peer has closed it, or bytes have arrived that nobody has read.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return rawConn{c}, nil }

type rawConn struct{ conn *Conn }

func (r rawConn) Control(func(fd uintptr)) error    { return r.conn.check() }
func (r rawConn) Read(func(fd uintptr) bool) error  { return r.conn.check() }
func (r rawConn) Write(func(fd uintptr) bool) error { return r.conn.check() }

// check returns why an idle connection is unfit, without waiting. nil: it is fit.
func (c *Conn) check() error {
	c.host.mu.Lock()
	defer c.host.mu.Unlock()
	switch {
	case c.closed:
		return net.ErrClosed
	case c.broken != nil:
		return c.failed("read", c.broken)
	case c.arrived(time.Now()):
		return sockpeek.ErrUnread
	case c.ended && len(c.in) == 0 && !c.host.hangs:
		return io.EOF
	}
	return nil
}

// failed wraps an error as package net does.
func (c *Conn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: c.local.network, Source: c.local, Addr: c.remote, Err: err}
}

func passed(deadline, now time.Time) bool {
	return !deadline.IsZero() && !deadline.After(now)
}
