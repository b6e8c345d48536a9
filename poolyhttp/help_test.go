package poolyhttp_test

import (
	"errors"
	"math/rand/v2"
	"net"
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

func release(t *testing.T, c *pooly.Conn) {
	t.Helper()
	require.NoError(t, c.Release(nil, pooly.HostUp))
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
