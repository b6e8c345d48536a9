package bench

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

// BenchmarkTCP is the round trip of one byte to an echo server over the loopback: through a bare connection,
// and through pools that lease it for each round trip. Of these only pooly looks at the socket before it hands
// it out.
func BenchmarkTCP(b *testing.B) {
	address := echoServer(b)
	dial := func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	b.Run("peer=bare", func(b *testing.B) {
		c := dialed(b, dial)
		for b.Loop() {
			roundTrip(b, c)
		}
	})
	for _, p := range peers.Pools {
		b.Run("peer="+p.Name+"-without-peek", func(b *testing.B) {
			pool := p.New(1, dial)
			defer pool.Close()
			leased(b, pool)
		})
	}
	b.Run("peer=pooly", func(b *testing.B) {
		s := netService(b, address)
		leased(b, s)
	})
}

// BenchmarkTCPOverhead takes turns between a bare connection and pooly, round trip by round trip, so that both
// see the same noise, and reports each and the ratio.
func BenchmarkTCPOverhead(b *testing.B) {
	address := echoServer(b)
	s := netService(b, address)
	bare := dialed(b, func(context.Context) (net.Conn, error) { return net.Dial("tcp", address) })
	use := func(c net.Conn) { roundTrip(b, c) }
	var bareTime, poolyTime time.Duration
	n := 0
	for b.Loop() {
		began := time.Now()
		roundTrip(b, bare)
		middle := time.Now()
		if err := s.Pair(use); err != nil {
			b.Fatal(err)
		}
		bareTime += middle.Sub(began)
		poolyTime += time.Since(middle)
		n++
	}
	b.ReportMetric(float64(bareTime.Nanoseconds())/float64(n), "bare-ns")
	b.ReportMetric(float64(poolyTime.Nanoseconds())/float64(n), "pooly-ns")
	b.ReportMetric(float64(poolyTime)/float64(bareTime), "pooly/bare")
}

// BenchmarkPeek is NetDriver's look at an idle socket, and what the rest of its TestOnBorrow costs.
func BenchmarkPeek(b *testing.B) {
	address := echoServer(b)
	driver := pooly.NewNetDriver("tcp")
	c, err := driver.Dial(context.Background(), address)
	if err != nil {
		b.Fatal(err)
	}
	defer driver.Close(c)
	b.ReportAllocs()
	for b.Loop() {
		if err := driver.TestOnBorrow(c); err != nil {
			b.Fatal(err)
		}
	}
}

func leased(b *testing.B, p peers.Peer) {
	use := func(c net.Conn) { roundTrip(b, c) }
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Pair(use); err != nil {
			b.Fatal(err)
		}
	}
}

var oneByte [1]byte

func roundTrip(b *testing.B, c net.Conn) {
	if _, err := c.Write(oneByte[:]); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Read(oneByte[:]); err != nil {
		b.Fatal(err)
	}
}

func netService(b *testing.B, address string) peers.Service {
	s := pooly.NewService("tcp", nil)
	s.Add(address)
	b.Cleanup(func() { _ = s.Close() })
	return peers.Service{Service: s}
}

func dialed(b *testing.B, dial peers.Dial) net.Conn {
	c, err := dial(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func echoServer(b *testing.B) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) // without splice
			}()
		}
	}()
	return l.Addr().String()
}
