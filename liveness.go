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
	look   func(fd uintptr) bool // l.peek, as a value that is made once
	buf    [1]byte
	result error // of the last peek

	tls    *tls.Conn // on top of socket; nil: none
	nowait bool      // reads of socket by tls fail instead of waiting
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
	if err := l.raw.Read(l.look); err != nil {
		return err
	}
	return l.result
}

// peek implements the look: it reports true, so that it is not called again when the socket has become
// readable.
func (l *liveness) peek(fd uintptr) bool {
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
	return true
}

// checkTLS reads from a TLS connection without waiting. That finds a reply that has been decrypted already as
// well as one that is still in the socket, and consumes records that concern only TLS, such as the session
// tickets that servers send after the handshake. A record that has come in part stays with the tls.Conn until
// the rest of it comes.
func (l *liveness) checkTLS() error {
	l.nowait = true
	defer func() { l.nowait = false }()
	n, err := l.tls.Read(l.buf[:])
	switch {
	case n > 0:
		return errUnread
	case errors.Is(err, errNothingToRead):
		return nil
	default:
		return err
	}
}

// underTLS returns socket as tls.Client should get it.
func (l *liveness) underTLS(socket net.Conn) net.Conn {
	return &tlsSocket{Conn: socket, live: l}
}

// tlsSocket is a socket whose reads can be made not to wait.
type tlsSocket struct {
	net.Conn
	live *liveness
}

func (s *tlsSocket) Read(b []byte) (int, error) {
	if s.live.nowait {
		err := s.live.raw.Read(s.live.look)
		if err == nil && s.live.result == nil {
			err = errNothingToRead
		}
		if err != nil {
			return 0, err
		}
		// There is something, or the end of it: the read below returns at once.
	}
	return s.Conn.Read(b)
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
