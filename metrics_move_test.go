package pooly_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// nameServer answers every question for an IPv4 address with the one it has, or that there is none.
type nameServer struct {
	mu      sync.Mutex
	address net.IP
	asked   int
}

// startNameServer puts a name server in the place of the system's until the test ends.
func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	n := new(nameServer)
	was := net.DefaultResolver
	dialer := net.Dialer{Resolver: was} // or a look-up that outlives its test would read the default while the next sets it
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
	var serving sync.WaitGroup
	serving.Go(func() {
		question := make([]byte, 1500)
		for {
			size, from, err := socket.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = socket.WriteTo(n.answer(question[:size]), from)
		}
	})
	t.Cleanup(func() {
		net.DefaultResolver = was
		_ = socket.Close()
		serving.Wait()
	})
	return n
}

func (n *nameServer) move(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.address = net.ParseIP(address).To4()
}

// answer is of RFC 1035, section 4.1.
func (n *nameServer) answer(question []byte) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	end := 12 // of the question: labels, a zero, type and class
	for question[end] != 0 {
		end += 1 + int(question[end])
	}
	end += 5
	answer := append([]byte(nil), question[:end]...)
	copy(answer[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // a reply, with one question and nothing else
	if n.address == nil {
		answer[3] |= 3 // no such name
	} else if question[end-3] == 1 { // type A
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		answer = append(answer, n.address...)
	}
	return answer
}

func TestMetricsFollowAServerThatMoves(t *testing.T) {
	old := startStatsd(t, "127.0.0.1:0")
	port := old.address()[strings.LastIndex(old.address(), ":"):]
	if probe, err := net.ListenPacket("udp", "127.0.0.2"+port); err != nil {
		t.Skip("this system has no second loopback address: ", err)
	} else {
		require.NoError(t, probe.Close())
	}
	t.Cleanup(pooly.SetLookupPeriod(10 * time.Millisecond)) // looked at once a second
	names := startNameServer(t)
	names.move("127.0.0.1")
	s := pooly.NewService("moving", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: newFakeDriver()},
		StatsdAddr: "statsd.test." + port,
	})
	t.Cleanup(func() { _ = s.Close() })
	s.Add("a")
	const gets = "service.moving.conns.get.count"
	for range 100 {
		release(t, get(t, s))
	}
	eventually(t, func() bool { return old.sum(gets) == 100 })

	require.NoError(t, old.socket.Close()) // the server dies
	for range 100 {
		release(t, get(t, s))
	}
	next := startStatsd(t, "127.0.0.2"+port)
	names.move("127.0.0.2")
	eventually(t, func() bool { return len(next.get("service.moving.hosts.count")) > 0 })
	before := next.sum(gets) // what was sent while there was no server is lost, and nothing else
	require.LessOrEqual(t, before, 100.0)
	for range 100 {
		release(t, get(t, s))
	}
	eventually(t, func() bool { return next.sum(gets) == before+100 })
	require.NoError(t, s.Close())
}

// A name server that comes up later than the program costs no count.
func TestMetricsCountersWaitForTheServersName(t *testing.T) {
	statsd := startStatsd(t, "127.0.0.1:0")
	names := startNameServer(t)
	s := pooly.NewService("early", &pooly.ServiceConfig{
		PoolConfig:        pooly.PoolConfig{Driver: newFakeDriver()},
		StatsdAddr:        "statsd.test." + statsd.address()[strings.LastIndex(statsd.address(), ":"):],
		StatsdHostMetrics: pooly.HostMetricsNamed,
	})
	t.Cleanup(func() { _ = s.Close() })
	s.Add("a")
	for range 100 {
		release(t, get(t, s))
	}
	eventually(t, func() bool {
		names.mu.Lock()
		defer names.mu.Unlock()
		return names.asked >= 4 // for IPv4 and IPv6, at the start and a second later
	})
	names.move("127.0.0.1")
	eventually(t, func() bool { return statsd.sum("service.early.conns.get.count") == 100 })
	eventually(t, func() bool { return statsd.sum("service.early.host.a.conns.get.count") == 100 })
	require.NoError(t, s.Close())
}

// A server that is too slow to read loses packets to the kernel; no call waits for it.
func TestMetricsServerThatDoesNotReadHoldsUpNothing(t *testing.T) {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer server.Close()
	require.NoError(t, server.SetReadBuffer(1)) // the least there is
	s := pooly.NewService("ignored", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: newFakeDriver()},
		StatsdAddr: server.LocalAddr().String(),
	})
	s.Add("a")
	began := time.Now()
	for range 50_000 { // 4,000 packets and more
		release(t, get(t, s))
	}
	require.NoError(t, s.Close())
	require.Less(t, time.Since(began), 10*time.Second) // half a second, with the race detector one
}
