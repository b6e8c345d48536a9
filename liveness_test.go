package pooly_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// coverConn hides the socket that it wraps, as the connections of many dialers do.
type coverConn struct{ net.Conn }

// layerConn wraps a socket and tells of it, as tls.Conn does.
type layerConn struct{ net.Conn }

func (c layerConn) NetConn() net.Conn { return c.Conn }

// wrapping returns a dialer of TCP that wraps its connections.
func wrapping(wrap func(net.Conn) net.Conn) dialFunc {
	return func(ctx context.Context, _, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return wrap(c), nil
	}
}

// newLivenessService has no prespawned connections, so that tests know which one they get.
func newLivenessService(t *testing.T, d *pooly.NetDriver, address string) *pooly.Service {
	t.Helper()
	s := pooly.NewService("net", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1,
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Add(address)
	return s
}

// local tells connections apart.
func local(c *pooly.Conn) string { return c.NetConn().LocalAddr().String() }

func TestDeadlineLeftOnAnyConnectionDoesNotReachTheNextUser(t *testing.T) {
	secure, config := tlsServer(t, echo, "127.0.0.1")
	plain := listen(t, echo)
	bare := func(c net.Conn) net.Conn { return c }
	hide := func(c net.Conn) net.Conn { return coverConn{c} }
	layer := func(c net.Conn) net.Conn { return layerConn{c} }
	for name, v := range map[string]struct {
		wrap    func(net.Conn) net.Conn
		tls     bool
		timeout time.Duration
	}{
		"socket":                 {wrap: bare},
		"hidden socket":          {wrap: hide},
		"layer":                  {wrap: layer},
		"TLS":                    {wrap: bare, tls: true},
		"TLS on a hidden socket": {wrap: hide, tls: true},
		"TLS on a layer":         {wrap: layer, tls: true},
		"with timeouts":          {wrap: hide, timeout: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			d := pooly.NewNetDriver("tcp")
			d.SetDialContext(wrapping(v.wrap))
			d.SetReadTimeout(v.timeout)
			address := plain
			if v.tls {
				d.SetTLSConfig(config)
				address = secure
			}
			s := newLivenessService(t, d, address)
			for _, past := range []func(net.Conn) error{
				func(c net.Conn) error { return c.SetDeadline(time.Unix(1, 0)) },
				func(c net.Conn) error { return c.SetReadDeadline(time.Unix(1, 0)) },
				func(c net.Conn) error { return c.SetWriteDeadline(time.Unix(1, 0)) },
			} {
				require.NoError(t, ping(s, "hello"))
				c := get(t, s)
				require.NoError(t, past(c.NetConn()))
				release(t, c)
				require.NoError(t, ping(s, "in time"))
			}
			require.EqualValues(t, 1, s.Stats().Dials, "it is the same connection all the time")
		})
	}
}

// Without a socket, such as over a multiplexer.
func TestDeadlineLeftOnAPipeDoesNotReachTheNextUser(t *testing.T) {
	d := pooly.NewNetDriver("pipe")
	d.SetDialContext(pipes(echo))
	s := newLivenessService(t, d, "a")
	c := get(t, s)
	require.NoError(t, c.NetConn().SetDeadline(time.Unix(1, 0)))
	release(t, c)
	require.NoError(t, ping(s, "in time"))
	require.EqualValues(t, 1, s.Stats().Dials)
}

// A dialer that shakes hands with a proxy may bound that, and forget to take the deadline away.
func TestDeadlineThatADialerLeftDoesNotReachTheFirstUser(t *testing.T) {
	dial := wrapping(func(c net.Conn) net.Conn {
		if err := c.SetDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		return coverConn{c}
	})
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(dial)
	s := newLivenessService(t, d, listen(t, echo))
	require.NoError(t, ping(s, "in time"))
	c, err := s.DialContext(t.Context(), "", "")
	require.NoError(t, err)
	_, err = say(c, "in time")
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// endlessConn has no deadlines, as the channels of package ssh.
type endlessConn struct{ net.Conn }

var errNoDeadlines = errors.New("deadlines are not supported")

func (endlessConn) SetDeadline(time.Time) error      { return errNoDeadlines }
func (endlessConn) SetReadDeadline(time.Time) error  { return errNoDeadlines }
func (endlessConn) SetWriteDeadline(time.Time) error { return errNoDeadlines }

func TestConnectionsWithoutDeadlinesAreUsedAgain(t *testing.T) {
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(wrapping(func(c net.Conn) net.Conn { return endlessConn{c} }))
	s := newLivenessService(t, d, listen(t, echo))
	for range 3 {
		require.NoError(t, ping(s, "again"))
	}
	require.EqualValues(t, 1, s.Stats().Dials)
}

// layered are the dialers beneath whose connections a socket can be found, and their servers.
func layered(t *testing.T, serve func(net.Conn)) map[string]func() (*pooly.NetDriver, string) {
	return map[string]func() (*pooly.NetDriver, string){
		"layer": func() (*pooly.NetDriver, string) {
			d := pooly.NewNetDriver("tcp")
			d.SetDialContext(wrapping(func(c net.Conn) net.Conn { return layerConn{c} }))
			return d, listen(t, serve)
		},
		"TLS on a layer": func() (*pooly.NetDriver, string) {
			address, config := tlsServer(t, serve, "127.0.0.1")
			d := pooly.NewNetDriver("tcp")
			d.SetTLSConfig(config)
			d.SetDialContext(wrapping(func(c net.Conn) net.Conn { return layerConn{c} }))
			return d, address
		},
		"tls.Dialer": func() (*pooly.NetDriver, string) {
			address, config := tlsServer(t, serve, "127.0.0.1")
			config.ClientSessionCache = tls.NewLRUClientSessionCache(0) // so that the server sends tickets
			d := pooly.NewNetDriver("tcp")
			d.SetDialContext((&tls.Dialer{Config: config}).DialContext)
			return d, address
		},
	}
}

func TestConnectionThatDiedBeneathALayerIsNotHandedOut(t *testing.T) {
	conns := make(chan net.Conn, 10)
	for name, driver := range layered(t, func(c net.Conn) { conns <- c; echo(c) }) {
		t.Run(name, func(t *testing.T) {
			d, address := driver()
			s := newLivenessService(t, d, address)
			require.NoError(t, ping(s, "hello"))
			c := get(t, s)
			former := local(c)
			release(t, c)
			require.NoError(t, (<-conns).Close())
			eventually(t, func() bool {
				c := get(t, s)
				defer release(t, c)
				return local(c) != former
			})
			require.NoError(t, ping(s, "hello"))
			require.NoError(t, (<-conns).Close())
		})
	}
}

func TestUnreadReplyBeneathALayerIsNeverHandedToTheNext(t *testing.T) {
	replied := make(chan struct{}, 10)
	for name, driver := range layered(t, func(c net.Conn) {
		buf := make([]byte, 5)
		for {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
			replied <- struct{}{}
		}
	}) {
		t.Run(name, func(t *testing.T) {
			d, address := driver()
			s := newLivenessService(t, d, address)
			for _, read := range []int{0, 1, 4} {
				c := get(t, s)
				former := local(c)
				_, err := io.WriteString(c.NetConn(), "reply")
				require.NoError(t, err)
				<-replied
				_, err = io.ReadFull(c.NetConn(), make([]byte, read))
				require.NoError(t, err)
				release(t, c)               // the user says that all is well
				eventually(t, func() bool { // the reply may take its time
					c := get(t, s)
					defer release(t, c)
					return local(c) != former
				})
				require.NoError(t, ping(s, "hello"))
				<-replied
			}
		})
	}
}

// Session tickets wait unread on a connection that was dialled in advance. They are no one's reply.
func TestConnectionsInAdvanceAreUsedUnderAnyTLS(t *testing.T) {
	drivers := layered(t, echo)
	delete(drivers, "layer")
	for name, driver := range drivers {
		t.Run(name, func(t *testing.T) {
			d, address := driver()
			s := newNetService(t, d, address)
			eventually(t, func() bool { return s.Stats().Idle == 1 })
			for range 10 {
				require.NoError(t, ping(s, "hello"))
			}
			require.EqualValues(t, 1, s.Stats().Dials)
		})
	}
}

// Whoever left a reader behind must not make the next caller wait, or lose a reply to that reader.
func TestReaderThatWasLeftBehindUnderTLSHoldsUpNobody(t *testing.T) {
	address, config := tlsServer(t, echo, "127.0.0.1")
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(config)
	s := newLivenessService(t, d, address)
	require.NoError(t, ping(s, "hello"))
	c := get(t, s)
	nc, former, reader := c.NetConn(), local(c), make(chan struct{})
	go func() {
		defer close(reader)
		for timeout := true; timeout; { // as a check sees to it that comes before the reader
			_, err := nc.Read(make([]byte, 1))
			timeout = os.IsTimeout(err)
		}
	}()
	release(t, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for other := false; !other; { // the reader may not have come to its Read at the first
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
				return
			}
			other = local(c) != former
			_ = c.Release(nil, pooly.HostUp)
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("GetConn waits for the reader")
	}
	_ = nc.Close()
	<-reader
	<-done
	require.NoError(t, ping(s, "hello"))
}

// renegotiating returns the address of an OpenSSL server and the config of clients that trust it.
// The function has the server ask its client for a renegotiation.
func renegotiating(t *testing.T) (address string, config *tls.Config, ask func()) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	cert, config := certificate(t, "127.0.0.1")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "pem")
	require.NoError(t, os.WriteFile(file, append(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), 0o600))
	address = closedPort(t)
	_, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	server := exec.CommandContext(t.Context(), "openssl", "s_server", "-tls1_2",
		"-client_renegotiation", "-accept", port, "-cert", file, "-key", file)
	in, err := server.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	config.Renegotiation = tls.RenegotiateFreelyAsClient
	return address, config, func() {
		_, err := io.WriteString(in, "R\n")
		require.NoError(t, err)
	}
}

// A check that reads from the connection begins the new handshake, which it cannot wait for.
func TestRenegotiationWhileIdleBreaksNoRequest(t *testing.T) {
	for name, driver := range map[string]func(*pooly.NetDriver, *tls.Config){
		"SetTLSConfig": (*pooly.NetDriver).SetTLSConfig,
		"tls.Dialer": func(d *pooly.NetDriver, config *tls.Config) {
			d.SetDialContext((&tls.Dialer{Config: config}).DialContext)
		},
	} {
		t.Run(name, func(t *testing.T) {
			address, config, ask := renegotiating(t)
			d := pooly.NewNetDriver("tcp")
			driver(d, config)
			s := pooly.NewService("tls", &pooly.ServiceConfig{
				PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1, GetAttempts: 1000,
			})
			defer s.Close()
			s.Add(address) // the server may still start
			c := get(t, s)
			former := local(c)
			_, err := io.WriteString(c.NetConn(), "hello\n")
			require.NoError(t, err)
			release(t, c)
			ask()
			tries := 0
			eventually(t, func() bool {
				tries++
				c := get(t, s)
				_, err := io.WriteString(c.NetConn(), "hello\n")
				require.NoError(t, err, "on a connection that was just handed out")
				other := local(c) != former
				if !other {
					release(t, c)
				} else {
					require.NoError(t, c.Release(io.EOF, pooly.HostUp))
				}
				// If the server is fast, the handshake may also succeed within the check.
				return other || tries == 100
			})
		})
	}
}
