package http_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A server restarts as a deployment does it: the new one accepts connections of the same socket, and the old one
// serves what has begun.
type server struct {
	protocol protocol
	cert     tls.Certificate
	listener *net.TCPListener
	seen     *sync.Map // the IDs of POSTs
	twice    *sync.Map // those that came more than once

	current *http.Server
	done    chan struct{} // closed when current serves no more
}

func newServer(t *testing.T, p protocol, cert tls.Certificate, seen, twice *sync.Map) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &server{protocol: p, cert: cert, listener: l.(*net.TCPListener), seen: seen, twice: twice}
	s.start(t)
	t.Cleanup(func() {
		s.stop(t)
		_ = s.listener.Close()
	})
	return s
}

func (s *server) address() string { return s.listener.Addr().String() }

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		id, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if _, again := s.seen.LoadOrStore(string(id), true); again {
			s.twice.Store(string(id), true)
		}
	}
	time.Sleep(time.Millisecond)
	_, _ = io.WriteString(w, strings.Repeat("x", 100))
}

// start has a new server accept connections of a duplicate of the socket, so that the end of an old one resets none
// that waits to be accepted.
func (s *server) start(t *testing.T) {
	t.Helper()
	f, err := s.listener.File()
	require.NoError(t, err)
	defer f.Close()
	l, err := net.FileListener(f)
	require.NoError(t, err)
	s.serve(l)
}

func (s *server) serve(l net.Listener) {
	web := &http.Server{
		Handler:   s,
		Protocols: s.protocol.protocols(),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}},
	}
	done := make(chan struct{})
	s.current, s.done = web, done
	go func() {
		defer close(done)
		if s.protocol.tls {
			_ = web.ServeTLS(l, "", "")
		} else {
			_ = web.Serve(l)
		}
	}()
}

func (s *server) stop(t *testing.T) { stop(t, s.current, s.done) }

func stop(t *testing.T, web *http.Server, done chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	require.NoError(t, web.Shutdown(ctx))
	<-done
}

func (s *server) restart(t *testing.T) {
	t.Helper()
	old, done := s.current, s.done
	s.start(t)
	stop(t, old, done)
}

const restarts = 10

// Graceful restarts cost no request where they cost http.Transport none, and eject no host. No POST arrives twice.
func TestGracefulRestartsFailNoRequest(t *testing.T) {
	for _, p := range []protocol{h2c, http2s} {
		for _, hosts := range []int{1, 2} {
			t.Run(p.name+"/"+[]string{"", "OneHost", "TwoHosts"}[hosts], func(t *testing.T) {
				cert, roots := certificate(t)
				var seen, twice sync.Map
				var servers []*server
				var addresses []string
				for range hosts {
					s := newServer(t, p, cert, &seen, &twice)
					servers = append(servers, s)
					addresses = append(addresses, s.address())
				}
				d := newDuel(t, p, roots, addresses...)
				stop := d.load()
				for i := range restarts {
					d.answered(t, 200)
					servers[i%hosts].restart(t)
				}
				d.answered(t, 200)
				stop()
				d.report(t)
				require.Zero(t, d.pooly.failed.Load(), d.pooly.err)
				require.Zero(t, d.ejections())
				twice.Range(func(id, _ any) bool {
					if strings.HasPrefix(id.(string), "pooly") {
						t.Errorf("POST %v arrived twice", id)
					}
					return true
				})
			})
		}
	}
}

// A restart that leaves its port closed for a moment costs http.Transport requests. Over two hosts it costs poolyhttp
// none, and the other host is not ejected.
func TestRestartsThatCloseThePortFailNoRequest(t *testing.T) {
	for _, p := range []protocol{h2c, http2s} {
		t.Run(p.name, func(t *testing.T) {
			cert, roots := certificate(t)
			var seen, twice sync.Map
			stays, restarts := newServer(t, p, cert, &seen, &twice), newServer(t, p, cert, &seen, &twice)
			d := newDuel(t, p, roots, stays.address(), restarts.address())
			stop := d.load()
			for range 10 {
				d.answered(t, 200)
				restarts.closeAndRestart(t)
			}
			d.answered(t, 200)
			stop()
			d.report(t)
			require.Zero(t, d.pooly.failed.Load(), d.pooly.err)
			for _, h := range d.service.Stats().Hosts {
				if h.Address == stays.address() {
					require.Zero(t, h.Ejections)
				}
			}
		})
	}
}

func (s *server) closeAndRestart(t *testing.T) {
	t.Helper()
	require.NoError(t, s.listener.Close())
	s.stop(t)
	time.Sleep(20 * time.Millisecond) // as a program takes to start
	l, err := net.Listen("tcp", s.listener.Addr().String())
	require.NoError(t, err)
	s.listener = l.(*net.TCPListener)
	s.start(t)
}
