package sockpeek

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tlsConfigs returns those of a server and of a client that trusts it and wants session tickets.
func tlsConfigs(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"server"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	chain := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	server = &tls.Config{Certificates: []tls.Certificate{chain}}
	client = &tls.Config{
		ServerName: "server", RootCAs: roots,
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	return server, client
}

// halves can hold back the second half of what is written.
type halves struct {
	net.Conn
	mu   sync.Mutex // guards the fields below
	hold bool
	rest []byte
}

func (c *halves) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		return c.Conn.Write(b)
	}
	c.rest = b[len(b)/2:]
	if _, err := c.Conn.Write(b[:len(b)/2]); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *halves) holds(hold bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = hold
}

// session is a TLS connection whose server has sent session tickets that nobody has read yet.
type session struct {
	client  *tls.Conn
	checker Checker
	raw     net.Conn // the client's socket
	socket  Checker  // of raw
	server  *tls.Conn
	halves  *halves // beneath server
}

// handshake has both sides complete it.
func (s *session) handshake(t *testing.T) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.server.Handshake() }()
	require.NoError(t, s.client.Handshake())
	require.NoError(t, <-done)
	becomes(t, s.socket, ErrUnread)
}

// The ways in which a tls.Conn may come about.
var sessions = map[string]func(client net.Conn, config *tls.Config, s *session) (bind func()){
	"on a socket of ours": func(client net.Conn, config *tls.Config, s *session) func() {
		under := UnderTLS(client)
		s.client, s.checker = tls.Client(under, config), under
		return func() { under.Bind(s.client) }
	},
	"over a layer": func(client net.Conn, config *tls.Config, s *session) func() {
		under := UnderTLS(layer{Conn: client})
		s.client, s.checker = tls.Client(under, config), under
		return func() { under.Bind(s.client) }
	},
	"of a dialer": func(client net.Conn, config *tls.Config, s *session) func() {
		s.client = tls.Client(client, config)
		s.checker = Of(s.client)
		return func() {}
	},
}

func newSession(t *testing.T, way string) *session {
	t.Helper()
	serverConfig, clientConfig := tlsConfigs(t)
	client, server := pair(t)
	s := &session{raw: client, socket: Of(client), halves: &halves{Conn: server}}
	s.server = tls.Server(s.halves, serverConfig)
	bind := sessions[way](client, clientConfig, s)
	require.NotNil(t, s.checker)
	s.handshake(t)
	bind()
	return s
}

// exchange sends a request, and returns when the reply was written but for what is held back.
func (s *session) exchange(t *testing.T, reply string) {
	t.Helper()
	_, err := io.WriteString(s.client, "ask")
	require.NoError(t, err)
	_, err = io.ReadFull(s.server, make([]byte, 3))
	require.NoError(t, err)
	_, err = io.WriteString(s.server, reply)
	require.NoError(t, err)
}

func (s *session) read(t *testing.T, n int) {
	t.Helper()
	_, err := io.ReadFull(s.client, make([]byte, n))
	require.NoError(t, err)
}

func everyWay(t *testing.T, test func(t *testing.T, way string)) {
	for way := range sessions {
		t.Run(way, func(t *testing.T) { test(t, way) })
	}
}

func TestSessionTicketsAreNoUnreadReply(t *testing.T) {
	everyWay(t, func(t *testing.T, way string) {
		s := newSession(t, way)
		require.NoError(t, s.checker.Check())
		require.NoError(t, s.checker.Check())
		s.exchange(t, "reply")
		s.read(t, 5)
		require.NoError(t, s.checker.Check())
		require.NoError(t, s.socket.Check(), "and the tickets are read by now")
	})
}

func TestAReplyThatNobodyReadIsSeenUnderTLS(t *testing.T) {
	everyWay(t, func(t *testing.T, way string) {
		s := newSession(t, way)
		s.exchange(t, "reply")
		becomes(t, s.checker, ErrUnread)
	})
}

func TestTheRestOfAReplyThatIsDecryptedIsSeen(t *testing.T) {
	everyWay(t, func(t *testing.T, way string) {
		s := newSession(t, way)
		s.exchange(t, "reply")
		s.read(t, 1)
		require.NoError(t, s.socket.Check(), "the socket tells nothing")
		require.ErrorIs(t, s.checker.Check(), ErrUnread)
	})
}

func TestAReplyThatHasComeInPartIsSeenUnderTLS(t *testing.T) {
	everyWay(t, func(t *testing.T, way string) {
		s := newSession(t, way)
		s.exchange(t, "reply")
		s.read(t, 5)
		s.halves.holds(true)
		s.exchange(t, "late")
		becomes(t, s.socket, ErrUnread)
		if way == "of a dialer" {
			_ = s.checker.Check() // cannot tell the half of a reply from a ticket
			s.halves.holds(false)
			_, err := s.halves.Conn.Write(s.halves.rest)
			require.NoError(t, err)
		}
		becomes(t, s.checker, ErrUnread)
	})
}

func TestAPeerThatClosedIsSeenUnderTLS(t *testing.T) {
	everyWay(t, func(t *testing.T, way string) {
		s := newSession(t, way)
		s.exchange(t, "reply")
		s.read(t, 5)
		require.NoError(t, s.checker.Check())
		require.NoError(t, s.halves.Close()) // without a close_notify
		eventually(t, func() bool { return s.checker.Check() != nil })
	})
}

// Such a Read would take the next user's reply, and holds the lock that a check needs.
func TestAReaderThatWasLeftBehindIsNotWaitedForUnderTLS(t *testing.T) {
	everyWay(t, func(t *testing.T, way string) {
		s := newSession(t, way)
		s.exchange(t, "reply")
		s.read(t, 5)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.client.Read(make([]byte, 1))
		}()
		if under, ok := s.checker.(*TLSSocket); ok {
			eventually(t, func() bool { return under.reading.Load() > 0 })
		}
		checked := make(chan error, 1)
		go func() { checked <- s.checker.Check() }()
		select {
		case err := <-checked:
			if way != "of a dialer" { // there the check ends the Read, if that has begun
				require.ErrorIs(t, err, errReader)
			}
		case <-time.After(5 * time.Second):
			t.Error("the check waits for the reader")
		}
		require.NoError(t, s.raw.Close())
		<-done
	})
}

func TestTLSWithoutASocketIsCheckedForWhatIsDecrypted(t *testing.T) {
	serverConfig, clientConfig := tlsConfigs(t)
	client, server := pair(t)
	under := UnderTLS(cover{client})
	s := &session{client: tls.Client(under, clientConfig), server: tls.Server(server, serverConfig)}
	go func() {
		if s.server.Handshake() == nil {
			_, _ = io.WriteString(s.server, "reply")
		}
	}()
	require.NoError(t, s.client.Handshake())
	under.Bind(s.client)
	require.NoError(t, under.Check())
	s.read(t, 1)
	require.ErrorIs(t, under.Check(), ErrUnread)
}

// A check must not begin the handshake of a client that will do so later, nor end it.
func TestAHandshakeToComeIsLeftAlone(t *testing.T) {
	serverConfig, clientConfig := tlsConfigs(t)
	client, server := pair(t)
	s := &session{
		client: tls.Client(client, clientConfig),
		socket: Of(client),
		server: tls.Server(server, serverConfig),
	}
	s.checker = Of(s.client)
	require.NoError(t, s.checker.Check())
	s.handshake(t)
	require.NoError(t, s.checker.Check())
}

// The socket is beneath layers of which nothing is known, so bytes in it may be a reply.
func TestATLSConnOverALayerIsPeekedAt(t *testing.T) {
	serverConfig, clientConfig := tlsConfigs(t)
	client, server := pair(t)
	s := &session{
		client: tls.Client(layer{Conn: client}, clientConfig),
		socket: Of(client),
		server: tls.Server(server, serverConfig),
	}
	s.checker = Of(s.client)
	s.handshake(t)
	require.ErrorIs(t, s.checker.Check(), ErrUnread)
}
