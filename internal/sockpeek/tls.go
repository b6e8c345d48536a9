package sockpeek

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// errReader says that somebody reads from a connection that should be idle. That Read would take
// the next user's reply.
var errReader = errors.New("a Read of an earlier user is still in flight")

// errHandshake says that the server wants a new handshake, which takes longer than a check may.
var errHandshake = errors.New("a TLS renegotiation on an idle connection")

// TLSSocket is the connection beneath a tls.Conn, whose reads can be made not to wait. That is how
// Check reads from the tls.Conn:
//   - a reply is found that is still in the socket, has come in part, or is decrypted already;
//   - records that concern only TLS are consumed, such as the session tickets that servers send
//     after the handshake.
type TLSSocket struct {
	net.Conn
	socket *socket   // nil if there is none to be found
	direct bool      // Conn is the socket itself: bytes that wait there can be read at once
	tls    *tls.Conn // on top; set by Bind
	buf    [1]byte

	nowait  atomic.Bool  // reads fail instead of waiting
	reading atomic.Int32 // reads in flight
	asked   atomic.Bool  // something was written since Bind

	header [5]byte // of the record in progress; its last two bytes are the length of what follows
	have   int     // bytes of the header that have come; 0 between two records
	left   int     // bytes of the record that are to come
}

// UnderTLS returns what tls.Client should get in the place of c. Bind must be called next.
func UnderTLS(c net.Conn) *TLSSocket {
	s := newSocket(c)
	if s != nil {
		return &TLSSocket{Conn: c, socket: s, direct: true}
	}
	return &TLSSocket{Conn: c, socket: find(c)}
}

// Bind says which connection runs on s. Its handshake must be complete.
func (s *TLSSocket) Bind(tc *tls.Conn) {
	s.tls = tc
	s.asked.Store(false)
}

// Check implements Checker.
func (s *TLSSocket) Check() error {
	s.nowait.Store(true)
	defer s.nowait.Store(false)
	// A Read that has not been counted yet sees nowait.
	if s.reading.Load() > 0 {
		return errReader
	}
	asked := s.asked.Swap(false)
	n, err := s.tls.Read(s.buf[:])
	wrote := s.asked.Load()
	s.asked.Store(asked || wrote)
	switch {
	case n > 0:
		return ErrUnread
	case !errors.Is(err, errNothingToRead):
		return err
	case wrote && !s.tls.ConnectionState().HandshakeComplete:
		return errHandshake // begun by the Read, and broken off for good
	}
	var unread error
	if s.have > 0 {
		unread = ErrUnread // a record has come in part, which may be a reply
	}
	if s.direct {
		return unread
	}
	if s.socket != nil {
		if err := s.socket.Check(); err != nil {
			unread = err
		}
	}
	if unread == ErrUnread && !s.asked.Load() {
		return nil // session tickets, or a greeting: nobody has sent a request yet
	}
	return unread
}

// Read implements net.Conn.
func (s *TLSSocket) Read(b []byte) (int, error) {
	s.reading.Add(1)
	defer s.reading.Add(-1)
	if s.nowait.Load() {
		if !s.direct {
			// The layers between may wait although bytes are in the socket.
			return 0, errNothingToRead
		}
		switch err := s.socket.Check(); err {
		case ErrUnread: // the read below returns at once
		case nil:
			return 0, errNothingToRead
		default:
			return 0, err
		}
	}
	n, err := s.Conn.Read(b)
	s.track(b[:n])
	return n, err
}

// track follows the records in what was read.
func (s *TLSSocket) track(b []byte) {
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

// Write implements net.Conn.
func (s *TLSSocket) Write(b []byte) (int, error) {
	s.asked.Store(true)
	return s.Conn.Write(b)
}

// NetConn returns the connection beneath, as that of tls.Conn does.
func (s *TLSSocket) NetConn() net.Conn {
	return s.Conn
}

// errNothingToRead looks like a timeout to crypto/tls, which therefore does not take the
// connection for broken.
var errNothingToRead net.Error = nothingToRead{}

type nothingToRead struct{}

func (nothingToRead) Error() string   { return "nothing to read" }
func (nothingToRead) Timeout() bool   { return true }
func (nothingToRead) Temporary() bool { return true }

// tlsOnSocket checks a tls.Conn that somebody else has put on a socket, such as a tls.Dialer. Its
// reads can be ended only by a deadline.
type tlsOnSocket struct {
	tls    *tls.Conn
	socket *socket
	ready  bool // the handshake is complete
}

// A check reads for ticketPatience from a connection whose socket has bytes to read. They are at
// hand, so it is the time to decrypt them. If they are session tickets, nothing follows, and the
// check takes this long; that happens once in the life of a connection. A check that did not get a
// processor in that time tries again, ticketTries times in all.
const (
	ticketPatience = time.Millisecond
	ticketTries    = 5
)

var past = time.Unix(1, 0)

// Check implements Checker. A record that has come in part is not seen.
func (c *tlsOnSocket) Check() error {
	defer func() { _ = c.tls.SetReadDeadline(time.Time{}) }()
	err := c.socket.Check()
	if err == nil {
		return c.read(past) // finds what is decrypted already
	}
	for try := 0; try < ticketTries && err == ErrUnread; try++ {
		if err := c.read(time.Now().Add(ticketPatience)); err != nil {
			return err
		}
		err = c.socket.Check() // if nothing is left, it was session tickets
	}
	return err
}

// read returns nil if there was nothing to read until the deadline. The deadline also ends a Read
// that an earlier user has left in flight.
func (c *tlsOnSocket) read(deadline time.Time) error {
	if err := c.tls.SetReadDeadline(deadline); err != nil {
		return err
	}
	if c.ready = c.ready || c.tls.ConnectionState().HandshakeComplete; !c.ready {
		return nil // a Read would begin the handshake, and the deadline end it for good
	}
	n, err := c.tls.Read(c.socket.buf[:])
	switch {
	case n > 0:
		return ErrUnread
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case !c.tls.ConnectionState().HandshakeComplete:
		return errHandshake // begun by the Read, and broken off for good
	}
	return nil
}
