package bench

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

// BenchmarkMetrics is a pair with metrics off, and on with a statsd server that listens.
func BenchmarkMetrics(b *testing.B) {
	address := statsdServer(b)
	for _, m := range []struct {
		name   string
		config pooly.ServiceConfig
	}{
		{"off", pooly.ServiceConfig{}},
		{"0.01", pooly.ServiceConfig{StatsdAddr: address, StatsdSampleRate: 0.01}},
		{"1", pooly.ServiceConfig{StatsdAddr: address}},
	} {
		b.Run("rate="+m.name, func(b *testing.B) {
			s := peers.NewService(3, &m.config)
			defer s.Close()
			sequential(b, s)
		})
	}
}

func statsdServer(b *testing.B) (address string) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	go func() {
		var packet [65536]byte
		for {
			if _, _, err := c.ReadFromUDPAddrPort(packet[:]); err != nil {
				return
			}
		}
	}()
	return c.LocalAddr().String()
}

// BenchmarkChurn is a pair, parallel, while a host is added and another removed a thousand times a second. The
// peers' sets of hosts cannot change.
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
