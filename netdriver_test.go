package pooly_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNetTwoHostsOneRefuses(t *testing.T) {
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, echo), closedPort(t))
	var failures atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 625 {
				if err := ping(s, "ping"); err != nil {
					failures.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, failures.Load())
	stats := s.Stats()
	require.EqualValues(t, 10_000, stats.Puts)
	for _, h := range stats.Hosts {
		if h.Ejected {
			require.LessOrEqual(t, h.Dials, uint64(20), "a handful")
		}
	}
}

func TestNetNineOfTenRefuse(t *testing.T) {
	s := pooly.NewService("net", &pooly.ServiceConfig{PrespawnConns: -1})
	defer func() { require.NoError(t, s.Close()) }()
	for range 9 {
		s.Add(closedPort(t))
	}
	good := listen(t, echo)
	s.Add(good)
	require.NoError(t, ping(s, "the first GetConn succeeds"))
}

func TestNetAllRefuseUntilOneComesBack(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	other := closedPort(t)
	s := newNetService(t, pooly.NewNetDriver("tcp"), address, other)

	began := time.Now()
	err = ping(s, "ping")
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorContains(t, err, address)
	require.ErrorContains(t, err, other)
	require.GreaterOrEqual(t, time.Since(began), 20*time.Millisecond, "two pauses")

	l, err = net.Listen("tcp", address)
	require.NoError(t, err)
	serveOn(t, l, echo)
	require.NoError(t, ping(s, "at once, without a call to Add"))
}

// spyDriver remembers the connections it made.
type spyDriver struct {
	*pooly.NetDriver
	mu   sync.Mutex
	made []*pooly.Conn
}

func (d *spyDriver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.NetDriver.Dial(ctx, address)
	if err == nil {
		d.mu.Lock()
		d.made = append(d.made, c)
		d.mu.Unlock()
	}
	return c, err
}

// waitForFIN returns when the end of each connection has reached this side. A busy machine
// delivers it some time after the other side has closed, and until then nobody can know.
func (d *spyDriver) waitForFIN(t *testing.T) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.made {
		eventually(t, func() bool { return d.TestOnBorrow(c) != nil })
	}
	d.made = nil
}

func TestNetServerRestartedBetweenTwoCalls(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	stop := serveOn(t, l, echo)
	d := &spyDriver{NetDriver: pooly.NewNetDriver("tcp")}
	s := pooly.NewService("net", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}})
	defer func() { require.NoError(t, s.Close()) }()
	s.Add(address)
	for range 3 { // several connections, so that each must be found dead
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() { assert.NoError(t, ping(s, "before")) })
		}
		wg.Wait()
		eventually(t, func() bool { return s.Stats().Dialing == 0 })
		stop()
		d.waitForFIN(t)
		l, err = net.Listen("tcp", address)
		require.NoError(t, err)
		stop = serveOn(t, l, echo)
		require.NoError(t, ping(s, "after"))
	}
	require.EqualValues(t, s.Stats().Gets, s.Stats().Puts)
}

func TestNetUnreadReplyIsNeverHandedToTheNext(t *testing.T) {
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, echo))
	c := get(t, s)
	local := c.NetConn().LocalAddr().String()
	_, err := io.WriteString(c.NetConn(), "the reply to this is not read")
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = io.ReadFull(c.NetConn(), one) // so that the rest has arrived
	require.NoError(t, err)
	release(t, c) // the user says that all is well

	c = get(t, s)
	require.NotEqual(t, local, c.NetConn().LocalAddr().String())
	release(t, c)
	require.NoError(t, ping(s, "fine"))
}

func TestNetTimeoutIsFatalForTheConnection(t *testing.T) {
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	d := pooly.NewNetDriver("tcp")
	d.SetReadTimeout(20 * time.Millisecond)
	d.SetWriteTimeout(time.Minute)
	s := newNetService(t, d, silent)
	err := ping(s, "no reply")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Zero(t, s.Stats().Idle, "its connection is closed")
}

func TestNetDeadlineLeftBehindDoesNotReachTheNext(t *testing.T) {
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, echo))
	c := get(t, s)
	local := c.NetConn().LocalAddr().String()
	require.NoError(t, c.NetConn().SetDeadline(time.Now().Add(-time.Hour)))
	release(t, c)
	c = get(t, s)
	require.Equal(t, local, c.NetConn().LocalAddr().String())
	release(t, c)
	require.NoError(t, ping(s, "in time"))
}

func TestNetConnTimeoutBoundsTheDial(t *testing.T) {
	d := pooly.NewNetDriver("tcp")
	d.SetConnTimeout(20 * time.Millisecond)
	d.SetDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	s := newNetService(t, d, "black hole")
	_, err := s.GetConn()
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)

	d = pooly.NewNetDriver("tcp")
	d.SetDialContext(nil)
	d.SetConnTimeout(0)
	s = newNetService(t, d, listen(t, echo))
	require.NoError(t, ping(s, "without a bound"))
}

func TestNetUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	stop := serveOn(t, l, echo)
	s := newNetService(t, pooly.NewNetDriver("unix"), path)
	require.NoError(t, ping(s, "ping"))
	require.NoError(t, ping(s, "ping"))
	require.EqualValues(t, 1, s.Stats().Dials)
	stop()
	err = ping(s, "ping")
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorContains(t, err, path)
}

func TestNetIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 loopback: ", err)
	}
	serveOn(t, l, echo)
	s := newNetService(t, pooly.NewNetDriver("tcp6"), l.Addr().String())
	require.NoError(t, ping(s, "ping"))
}

// tlsServer listens with a certificate for the names, and returns the client's config that trusts
// it.
func tlsServer(t *testing.T, serve func(net.Conn), names ...string) (address string, client *tls.Config) {
	t.Helper()
	return tlsServerOver(t, func(c net.Conn) net.Conn { return c }, serve, names...)
}

// tlsServerOver is tlsServer with something between TLS and the sockets.
func tlsServerOver(
	t *testing.T, wrap func(net.Conn) net.Conn, serve func(net.Conn), names ...string,
) (address string, client *tls.Config) {
	t.Helper()
	cert, client := certificate(t, names...)
	server := &tls.Config{Certificates: []tls.Certificate{cert}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveOn(t, l, func(c net.Conn) {
		tc := tls.Server(wrap(c), server)
		defer func() { _ = tc.Close() }()
		serve(tc)
	})
	return l.Addr().String(), client
}

// certificate returns one for the names, and the config of a client that trusts it.
func certificate(t *testing.T, names ...string) (cert tls.Certificate, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "pooly test"},
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return cert, &tls.Config{RootCAs: roots}
}

func TestNetTLS(t *testing.T) {
	address, config := tlsServer(t, echo, "127.0.0.1")
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(config)
	s := newNetService(t, d, address)
	// The server sends session tickets after the handshake, which nobody reads before the
	// connection is idle. They are no one's reply, so the connection lives on.
	for range 50 {
		require.NoError(t, ping(s, "secret"))
		c := get(t, s)
		release(t, c)
	}
	require.EqualValues(t, 1, s.Stats().Dials)

	first, second := get(t, s), get(t, s)
	tc, ok := second.NetConn().(*tls.Conn)
	require.True(t, ok)
	require.True(t, tc.ConnectionState().DidResume, "the pool's connections share their sessions")
	release(t, first)
	release(t, second)
}

func TestNetTLSUnreadReplyAndCloseAreSeen(t *testing.T) {
	conns := make(chan net.Conn, 10)
	address, config := tlsServer(t, func(c net.Conn) { conns <- c; echo(c) }, "127.0.0.1")
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(config)
	s := newNetService(t, d, address)
	c := get(t, s)
	local := c.NetConn().LocalAddr().String()
	_, err := io.WriteString(c.NetConn(), "the reply to this is not read")
	require.NoError(t, err)
	one := make([]byte, 1)
	_, err = io.ReadFull(c.NetConn(), one)
	require.NoError(t, err)
	release(t, c)
	c = get(t, s)
	require.NotEqual(t, local, c.NetConn().LocalAddr().String(), "the rest of the reply is in the way")
	local = c.NetConn().LocalAddr().String()
	release(t, c)
	require.NoError(t, ping(s, "all read"))

	<-conns
	require.NoError(t, (<-conns).Close())
	eventually(t, func() bool {
		c := get(t, s)
		defer release(t, c)
		return c.NetConn().LocalAddr().String() != local
	})
}

func TestNetTLSVerifiesTheHostOfTheAddress(t *testing.T) {
	address, config := tlsServer(t, echo, "elsewhere.example")
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(config)
	s := newNetService(t, d, address)
	_, err := s.GetConn()
	var wrongHost x509.HostnameError
	require.ErrorAs(t, err, &wrongHost)

	config = config.Clone()
	config.ServerName = "elsewhere.example"
	d = pooly.NewNetDriver("tcp")
	d.SetTLSConfig(config)
	s = newNetService(t, d, address)
	require.NoError(t, ping(s, "named"))

	d = pooly.NewNetDriver("tcp")
	d.SetTLSConfig(&tls.Config{ServerName: config.ServerName}) // trusts only the system's authorities
	d.SetReadTimeout(time.Second)
	s = newNetService(t, d, address)
	_, err = s.GetConn()
	var unknown x509.UnknownAuthorityError
	require.ErrorAs(t, err, &unknown)
}

func TestNetDriverChecksWhatADialerReturns(t *testing.T) {
	d := pooly.NewNetDriver("tcp")
	client, server := net.Pipe() // has no socket to peek at
	defer func() { _ = server.Close() }()
	d.SetDialContext(func(context.Context, string, string) (net.Conn, error) { return client, nil })
	s := newNetService(t, d, "pipe")
	release(t, get(t, s))
	c := get(t, s)
	require.Same(t, client, c.NetConn())
	release(t, c)
	require.False(t, d.Temporary(io.EOF))
	require.False(t, d.Temporary(os.ErrDeadlineExceeded))
	require.False(t, d.Temporary(syscall.ECONNRESET))
	require.False(t, d.Temporary(syscall.EAGAIN))
	require.True(t, d.Temporary(&net.OpError{Err: os.NewSyscallError("read", syscall.EINTR)}))
}

// A server that accepts one connection in its life, as nc -l does, must serve the program of the
// README.
func TestNetServerThatAcceptsOneConnection(t *testing.T) {
	var addresses []string
	var received []chan string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		got := make(chan string, 1)
		received = append(received, got)
		addresses = append(addresses, l.Addr().String())
		go func() {
			c, err := l.Accept()
			_ = l.Close()
			if err != nil {
				got <- err.Error()
				return
			}
			defer func() { _ = c.Close() }()
			all, _ := io.ReadAll(c)
			got <- string(all)
		}()
	}
	s := pooly.NewService("netcat", nil)
	for _, a := range addresses {
		s.Add(a)
	}
	for range 2 {
		c := get(t, s)
		_, err := c.NetConn().Write([]byte("ping\n"))
		require.NoError(t, err)
		release(t, c)
	}
	require.NoError(t, s.Close())
	for _, got := range received {
		require.Equal(t, "ping\n", <-got)
	}
}

// halfConn can hold back the second half of what is written.
type halfConn struct {
	net.Conn
	mu   sync.Mutex
	hold bool
	rest []byte
}

func (c *halfConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hold {
		return c.Conn.Write(b)
	}
	c.rest = append(c.rest, b[len(b)/2:]...)
	if _, err := c.Conn.Write(b[:len(b)/2]); err != nil {
		return 0, err
	}
	return len(b), nil
}

// The rest of a record belongs to whoever the record was for.
func TestNetTLSRecordInPartIsAnUnreadReply(t *testing.T) {
	conns := make(chan *halfConn, 10)
	address, client := tlsServerOver(t, func(c net.Conn) net.Conn { return &halfConn{Conn: c} }, func(c net.Conn) {
		half := c.(*tls.Conn).NetConn().(*halfConn)
		buf := make([]byte, 4)
		for i := range 2 {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if i == 1 {
				half.mu.Lock()
				half.hold = true
				half.mu.Unlock()
			}
			_, _ = c.Write(buf)
		}
		conns <- half
		_, _ = io.Copy(io.Discard, c)
	}, "127.0.0.1")
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(client)
	s := newNetService(t, d, address)
	require.NoError(t, ping(s, "ping"))
	c := get(t, s)
	local := c.NetConn().LocalAddr().String()
	_, err := io.WriteString(c.NetConn(), "late")
	require.NoError(t, err)
	<-conns
	release(t, c)
	eventually(t, func() bool { // the half may take its time
		c := get(t, s)
		defer release(t, c)
		return c.NetConn().LocalAddr().String() != local
	})
}

// Whoever left a reader behind must not make the next caller wait.
func TestNetLookAtTheSocketDoesNotWaitForAReader(t *testing.T) {
	s := newNetService(t, pooly.NewNetDriver("tcp"), listen(t, echo))
	c := get(t, s)
	nc := c.NetConn()
	reading := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() {
		close(reading)
		_, _ = nc.Read(make([]byte, 1))
	})
	<-reading
	release(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1000 { // the reader may not have come to its Read at the first
			release(t, getApart(t, s))
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("GetConn waits for the reader")
	}
	_ = nc.Close()
	<-done
	reader.Wait()
}

func TestNetDialerThatReturnsNothingIsAnError(t *testing.T) {
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, nil })
	s := newNetService(t, d, "nowhere")
	_, err := s.GetConn()
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorContains(t, err, "SetDialContext")
}
