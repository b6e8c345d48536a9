//go:build soak

package faults_test

import (
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// spoiler is a proxy that spoils what it carries. It is for the soak test, which adds and takes away faults for minutes:
// of toxiproxy's, some hang for good if they are taken away from a connection that is being closed.
type spoiler struct {
	t        testing.TB
	address  string
	upstream string
	spoil    atomic.Pointer[spoil] // never nil

	mu       sync.Mutex // guards the fields below
	listener net.Listener
	conns    map[net.Conn]struct{}
	stopped  bool
	running  sync.WaitGroup
}

// spoil is what is wrong with a proxy.
type spoil struct {
	name         string
	delay        time.Duration // before each piece, up to this
	slice        int           // pieces have at most so many bytes, and come one after the other
	loses        [2]bool       // requests, replies: they vanish
	resets       bool          // connections are reset when something comes
	ends         int           // they end after so many bytes
	closesSlowly time.Duration
}

var spoils = []*spoil{
	{name: "delays", delay: 40 * time.Millisecond},
	{name: "delays beyond the timeout", delay: 250 * time.Millisecond},
	{name: "slices", slice: 3, delay: 100 * time.Microsecond},
	{name: "loses requests", loses: [2]bool{true, false}},
	{name: "loses replies", loses: [2]bool{false, true}},
	{name: "resets", resets: true},
	{name: "ends inside replies", ends: 500},
	{name: "closes slowly", closesSlowly: 300 * time.Millisecond},
}

func startSpoiler(t testing.TB, upstream string) *spoiler {
	t.Helper()
	s := &spoiler{t: t, address: "127.0.0.1:0", upstream: upstream, conns: make(map[net.Conn]struct{})}
	s.spoil.Store(&spoil{})
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *spoiler) start() {
	l, err := net.Listen("tcp", s.address)
	require.NoError(s.t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address, s.listener, s.stopped = l.Addr().String(), l, false
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { s.carry(c) })
		}
	})
}

// stop closes the listener and all connections.
func (s *spoiler) stop() {
	s.mu.Lock()
	s.stopped = true
	_ = s.listener.Close()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// keep has stop close a connection; the function that it returns closes it now.
func (s *spoiler) keep(c net.Conn) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
	if s.stopped {
		_ = c.Close()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
		_ = c.Close()
	}
}

func (s *spoiler) carry(client net.Conn) {
	defer s.keep(client)()
	server, err := net.Dial("tcp", s.upstream)
	if err != nil {
		return
	}
	defer s.keep(server)()
	var both sync.WaitGroup
	for i, way := range [2][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			s.pipe(i, way[0], way[1])
			time.Sleep(s.spoil.Load().closesSlowly)
			_, _ = client.Close(), server.Close()
		})
	}
	both.Wait()
}

func (s *spoiler) pipe(way int, from, to net.Conn) {
	b := make([]byte, 4096)
	carried := 0
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		sp := s.spoil.Load()
		switch {
		case sp.resets:
			_, _ = from.(*net.TCPConn).SetLinger(0), to.(*net.TCPConn).SetLinger(0)
			return
		case sp.loses[way]:
			continue
		}
		for piece := b[:n]; len(piece) > 0; {
			size := len(piece)
			if sp.slice > 0 {
				size = min(size, sp.slice)
			}
			if sp.delay > 0 {
				time.Sleep(rand.N(sp.delay))
			}
			if _, err := to.Write(piece[:size]); err != nil {
				return
			}
			if carried += size; sp.ends > 0 && carried > sp.ends {
				return
			}
			piece = piece[size:]
		}
	}
}
