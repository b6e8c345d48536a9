package pooly

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// errUnread says that a connection has bytes that its last user did not read.
var errUnread = errors.New("unread bytes on an idle connection")

// liveness tells whether an idle socket is fit for use, without waiting. It is made once per connection, so
// that a check allocates nothing. It belongs to whoever has the lease.
type liveness struct {
	socket net.Conn
	raw    syscall.RawConn
	look   func(fd uintptr) // l.peek, as a value that is made once
	buf    [1]byte
	result error // of the last peek

	tls    *tls.Conn // on top of socket; nil: none
	under  *tlsSocket
	nowait bool // reads of socket by tls fail instead of waiting
}

// newLiveness returns nil if the connection has no socket to look at.
func newLiveness(socket net.Conn) *liveness {
	sc, ok := socket.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	l := &liveness{socket: socket, raw: raw}
	l.look = l.peek
	return l
}

// check returns an error if the peer has closed the connection, or if there is something to read.
func (l *liveness) check() error {
	// A deadline in the past would make the check fail, and the next user's first call.
	if err := l.socket.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if l.tls != nil {
		return l.checkTLS()
	}
	// Control, unlike Read, does not wait for a Read that is in flight.
	if err := l.raw.Control(l.look); err != nil {
		return err
	}
	return l.result
}

// peek notes what is to be read from the socket.
func (l *liveness) peek(fd uintptr) {
	switch n, err := peek(fd, l.buf[:]); {
	case errors.Is(err, errWouldBlock):
		l.result = nil
	case err != nil:
		l.result = os.NewSyscallError("recvfrom", err)
	case n == 0:
		l.result = io.EOF
	default:
		l.result = errUnread
	}
}

// checkTLS reads from a TLS connection without waiting. That finds a reply that has been decrypted already as
// well as one that is still in the socket, and consumes records that concern only TLS, such as the session
// tickets that servers send after the handshake. A record that has come in part may be a reply, so it counts as
// unread.
func (l *liveness) checkTLS() error {
	l.nowait = true
	defer func() { l.nowait = false }()
	n, err := l.tls.Read(l.buf[:])
	switch {
	case n > 0:
		return errUnread
	case errors.Is(err, errNothingToRead):
		if l.under.partial() {
			return errUnread
		}
		return nil
	default:
		return err
	}
}

// underTLS returns socket as tls.Client should get it.
func (l *liveness) underTLS(socket net.Conn) net.Conn {
	l.under = &tlsSocket{Conn: socket, live: l}
	return l.under
}

// tlsSocket is a socket whose reads can be made not to wait.
type tlsSocket struct {
	net.Conn
	live *liveness

	header [5]byte // of the record that is being received; its last two bytes are the length of what follows
	have   int     // bytes of the header that have come; 0 between two records
	left   int     // bytes of the record that are to come
}

// partial reports whether a record has come in part.
func (s *tlsSocket) partial() bool {
	return s.have > 0
}

// track follows the records in what was read.
func (s *tlsSocket) track(b []byte) {
	for len(b) > 0 {
		n := 0
		if s.have < len(s.header) {
			n = copy(s.header[s.have:], b)
			if s.have += n; s.have == len(s.header) {
				s.left = int(s.header[3])<<8 | int(s.header[4])
			}
		} else {
			n = min(s.left, len(b))
			s.left -= n
		}
		b = b[n:]
		if s.have == len(s.header) && s.left == 0 {
			s.have = 0
		}
	}
}

func (s *tlsSocket) Read(b []byte) (int, error) {
	if s.live.nowait {
		err := s.live.raw.Control(s.live.look)
		if err == nil && s.live.result == nil {
			err = errNothingToRead
		}
		if err != nil {
			return 0, err
		}
		// There is something, or the end of it: the read below returns at once.
	}
	n, err := s.Conn.Read(b)
	s.track(b[:n])
	return n, err
}

// NetConn returns the socket itself.
func (s *tlsSocket) NetConn() net.Conn {
	return s.Conn
}

// errNothingToRead looks like a timeout to crypto/tls, which therefore does not take the connection for broken.
var errNothingToRead net.Error = nothingToRead{}

type nothingToRead struct{}

func (nothingToRead) Error() string   { return "nothing to read" }
func (nothingToRead) Timeout() bool   { return true }
func (nothingToRead) Temporary() bool { return true }
