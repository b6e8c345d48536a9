package bench

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
	"github.com/cactus/go-statsd-client/v5/statsd"
)

// BenchmarkMetrics is a pair with metrics off, and on with a statsd server that listens: that of
// STATSD_ADDR, as set by examples/metrics/stack.sh, else one that only counts packets. unbuffered
// is a pair with metrics off, and the three timings that metrics take sent at once, each as a
// packet of its own.
func BenchmarkMetrics(b *testing.B) {
	server := startStatsd(b)
	for _, m := range []struct {
		name   string
		config pooly.ServiceConfig
	}{
		{"rate=off", pooly.ServiceConfig{}},
		{"rate=0.01", pooly.ServiceConfig{StatsdAddr: server.address, StatsdSampleRate: 0.01}},
		{"rate=0.1", pooly.ServiceConfig{StatsdAddr: server.address, StatsdSampleRate: 0.1}},
		{"rate=1", pooly.ServiceConfig{StatsdAddr: server.address}},
		{"rate=1,server=down", pooly.ServiceConfig{StatsdAddr: deaf(b, true)}},
		{"rate=1,server=slow", pooly.ServiceConfig{StatsdAddr: deaf(b, false)}},
		{"rate=1,hosts", pooly.ServiceConfig{StatsdAddr: server.address, StatsdHostMetrics: pooly.HostMetricsNamed}},
	} {
		b.Run(m.name, func(b *testing.B) {
			s := peers.NewService(3, &m.config)
			server.begin()
			sequential(b, s)
			s.Close()
			server.report(b)
		})
	}
	b.Run("unbuffered", func(b *testing.B) {
		s := peers.NewService(3, &pooly.ServiceConfig{})
		defer s.Close()
		sender, err := statsd.NewSimpleSender(server.address)
		if err != nil {
			b.Fatal(err)
		}
		client, err := statsd.NewClientWithSender(sender, "service.bench", 0)
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		server.begin()
		sequential(b, timed{s, client})
		server.report(b)
	})
}

// timed is a peer that sends three timings for each pair.
type timed struct {
	peers.Peer
	client statsd.Statter
}

func (t timed) Pair(use func(net.Conn)) error {
	began := time.Now()
	err := t.Peer.Pair(use)
	_ = t.client.TimingDuration("conns.get.delay", time.Since(began), 1)
	_ = t.client.Timing("hosts.score", 50, 1)
	_ = t.client.TimingDuration("conns.active.period", time.Since(began), 1)
	return err
}

// statsdServer counts what it gets, unless it is a real one.
type statsdServer struct {
	address        string
	real           bool
	packets, lines atomic.Int64
}

func startStatsd(b *testing.B) *statsdServer {
	if address := os.Getenv("STATSD_ADDR"); address != "" {
		return &statsdServer{address: address, real: true}
	}
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	s := &statsdServer{address: c.LocalAddr().String()}
	go func() {
		var packet [65536]byte
		for {
			n, _, err := c.ReadFromUDPAddrPort(packet[:])
			if err != nil {
				return
			}
			s.packets.Add(1)
			s.lines.Add(int64(bytes.Count(packet[:n], []byte("\n")) + 1))
		}
	}()
	return s
}

// deaf returns the address of a server that does not read, or of one that is down.
func deaf(b *testing.B, down bool) (address string) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	if down {
		_ = c.Close()
	} else {
		b.Cleanup(func() { _ = c.Close() })
	}
	return c.LocalAddr().String()
}

func (s *statsdServer) begin() {
	s.packets.Store(0)
	s.lines.Store(0)
}

// report has the benchmark tell how many packets came, a second and a pair. Those that the kernel
// dropped are missing.
func (s *statsdServer) report(b *testing.B) {
	if packets := float64(s.packets.Load()); packets > 0 && !s.real {
		b.ReportMetric(packets/b.Elapsed().Seconds(), "packets/s")
		b.ReportMetric(float64(s.lines.Load())/packets, "lines/packet")
	}
}

// BenchmarkChurn is a pair, parallel, while a host is added and another removed a thousand times a
// second. The peers' sets of hosts cannot change.
func BenchmarkChurn(b *testing.B) {
	for _, hosts := range []int{3, 100, 10_000} {
		b.Run(fmt.Sprintf("hosts=%d", hosts), func(b *testing.B) {
			s := peers.NewService(hosts, &pooly.ServiceConfig{})
			defer s.Close()
			b.Run("changes=0", func(b *testing.B) { parallel(b, s) })
			b.Run("changes=1000", func(b *testing.B) {
				quit, done := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(done)
					churn(s.Service, quit)
				}()
				parallel(b, s)
				close(quit)
				<-done
			})
		})
	}
}

// churn adds and removes hosts until quit is closed.
func churn(s *pooly.Service, quit chan struct{}) {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticker.C:
			s.Add(fmt.Sprintf("churn-%d", i))
			s.Remove(fmt.Sprintf("churn-%d", i-1))
		case <-quit:
			s.Remove(fmt.Sprintf("churn-%d", i-1))
			return
		}
	}
}
