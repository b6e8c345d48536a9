// Package sockpeek tells whether an idle connection is fit for its next user. It finds a peer that
// has closed the connection, and bytes that nobody has read, which may be the late reply to
// somebody else's request. It does so without waiting and without consuming a reply.
//
// The package imports nothing of pooly.
package sockpeek

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// ErrUnread says that a connection has bytes that its last user did not read.
var ErrUnread = errors.New("unread bytes on an idle connection")

// A Checker looks at one idle connection.
type Checker interface {
	// Check returns nil if the connection is fit as far as can be seen. Otherwise the error is
	// ErrUnread, io.EOF if the peer has closed the connection, or what is wrong with it.
	//
	// Check allocates nothing for a fit connection on a plain socket. It must not be called
	// concurrently.
	Check() error
}

// Of returns the Checker of a connection, or nil if the connection has no socket that can be found.
// The socket is c itself if that is a syscall.Conn. Otherwise the NetConn methods of c and of what
// is beneath it lead there, as with tls.Conn.
//
// A tls.Conn directly on a socket is read, so that its session tickets do not count as unread. Of
// other layers the checker knows nothing. Any byte in the socket beneath them counts as unread, and
// what they have read ahead is not seen.
func Of(c net.Conn) Checker {
	if s := newSocket(c); s != nil {
		return s
	}
	if tc, ok := c.(*tls.Conn); ok {
		if s, ok := tc.NetConn().(*TLSSocket); ok {
			return s
		}
		if s := newSocket(tc.NetConn()); s != nil {
			return &tlsOnSocket{tls: tc, socket: s}
		}
	}
	if s := find(c); s != nil {
		return s
	}
	return nil
}

// maxLayers ends the search of a connection whose NetConn leads back to itself.
const maxLayers = 16

// find returns the first socket beneath c, or nil if there is none.
func find(c net.Conn) *socket {
	for range maxLayers {
		if s := newSocket(c); s != nil {
			return s
		}
		layer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = layer.NetConn()
	}
	return nil
}

// socket looks at a socket. It is made once per connection, so that a check allocates nothing.
type socket struct {
	raw    syscall.RawConn
	look   func(fd uintptr) // s.peek, bound once
	buf    [1]byte
	result error // of the last peek
}

// newSocket returns nil if c is no socket.
func newSocket(c net.Conn) *socket {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.look = s.peek
	return s
}

// Check implements Checker.
func (s *socket) Check() error {
	// Control, unlike Read, does not wait for a Read that is in flight.
	if err := s.raw.Control(s.look); err != nil {
		return err
	}
	return s.result
}

// peek notes what is to be read from the socket.
func (s *socket) peek(fd uintptr) {
	switch n, err := peek(fd, s.buf[:]); {
	case errors.Is(err, errWouldBlock):
		s.result = nil
	case err != nil:
		s.result = os.NewSyscallError("recvfrom", err)
	case n == 0:
		s.result = io.EOF
	default:
		s.result = ErrUnread
	}
}
