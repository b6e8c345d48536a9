package poolyhttp_test

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var errFatal = errors.New("fatal")

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

// listen serves connections until the test ends, and returns the address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// closedPort returns an address that refuses connections.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func get(t *testing.T, s *pooly.Service) *pooly.Conn {
	t.Helper()
	c, err := s.GetConn()
	require.NoError(t, err)
	return c
}

// hostStats returns one host's figures.
func hostStats(t *testing.T, s *pooly.Service, address string) pooly.HostStats {
	t.Helper()
	for _, h := range s.Stats().Hosts {
		if h.Address == address {
			return h
		}
	}
	require.Failf(t, "no such host", "%s in %s", address, s.Name())
	return pooly.HostStats{}
}

func mean(t *testing.T, s *pooly.Service, address string) (score, trials float64) {
	t.Helper()
	h := hostStats(t, s, address)
	return h.Score, h.Trials
}

// inOrder is a strategy that picks the first of its hosts that is up.
type inOrder []string

func (b inOrder) NewPicker(arms []pooly.Arm) pooly.Picker {
	for _, address := range b {
		for i, a := range arms {
			if a.Address == address {
				return always(i)
			}
		}
	}
	return always(0)
}

// always picks one arm.
type always int

func (i always) Pick(*rand.Rand) int { return int(i) }

// stubborn is a strategy that picks the first host.
type stubborn struct{}

func (stubborn) NewPicker([]pooly.Arm) pooly.Picker { return always(0) }

// plainHTTP2 returns a transport that speaks HTTP/2 without TLS.
func plainHTTP2() *http.Transport {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: p}
}

// frames is the server's end of an HTTP/2 connection without TLS, frame by frame (RFC 9113).
type frames struct {
	net.Conn
	mu sync.Mutex // guards writes
}

const (
	frameData, frameHeaders, frameReset, frameSettings, framePing, frameGoAway = 0, 1, 3, 4, 6, 7

	endStream, ack, endHeaders = 1, 1, 4
)

// serveFrames returns a function for listen that calls request with the stream of each request.
func serveFrames(request func(f *frames, stream uint32)) func(net.Conn) {
	return func(c net.Conn) {
		f := &frames{Conn: c}
		if _, err := io.ReadFull(c, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
			return
		}
		f.write(frameSettings, 0, 0, nil)
		for {
			var header [9]byte
			if _, err := io.ReadFull(c, header[:]); err != nil {
				return
			}
			payload := make([]byte, int(header[0])<<16|int(header[1])<<8|int(header[2]))
			if _, err := io.ReadFull(c, payload); err != nil {
				return
			}
			switch kind, flags := header[3], header[4]; {
			case kind == frameHeaders:
				request(f, binary.BigEndian.Uint32(header[5:]))
			case (kind == frameSettings || kind == framePing) && flags&ack == 0:
				if kind == frameSettings {
					payload = nil
				}
				f.write(kind, ack, 0, payload)
			}
		}
	}
}

func (f *frames) write(kind, flags byte, stream uint32, payload []byte) {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.Write(append(binary.BigEndian.AppendUint32(b, stream), payload...))
}

// answer sends status 200, which is entry 8 of HPACK's static table, and no body.
func (f *frames) answer(stream uint32) {
	f.write(frameHeaders, endHeaders|endStream, stream, []byte{0x88})
}

func (f *frames) reset(stream uint32, code byte) {
	f.write(frameReset, 0, stream, []byte{0, 0, 0, code})
}

func (f *frames) goAway(last uint32) {
	f.write(frameGoAway, 0, 0, append(binary.BigEndian.AppendUint32(nil, last), 0, 0, 0, 0))
}

// ejections returns how often the service's hosts were ejected.
func ejections(s *pooly.Service) (n uint64) {
	for _, h := range s.Stats().Hosts {
		n += h.Ejections
	}
	return n
}
