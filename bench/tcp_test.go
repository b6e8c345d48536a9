package bench

import (
	"context"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/bench/peers"
)

// BenchmarkTCP is the round trip of one byte to an echo server over the loopback: through a bare
// connection, and through pools that lease it for each round trip. Of these only pooly looks at the
// socket before it hands it out.
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

// BenchmarkTCPOverhead takes turns between a bare connection; one that is looked at before each
// round trip, with a single system call, which is the least that a look can cost; puddle with the
// same look, which is the least that a pool with one can cost; and pooly. So all see the same
// noise. It reports the median of each.
func BenchmarkTCPOverhead(b *testing.B) {
	address := echoServer(b)
	s := netService(b, address)
	dial := func(context.Context) (net.Conn, error) { return net.Dial("tcp", address) }
	bare, looked := dialed(b, dial), dialed(b, dial)
	puddle := peers.NewPuddle(1, func(context.Context) (net.Conn, error) { return looked, nil })
	socket := descriptor(b, looked)
	look := func() {
		if _, _, err := syscall.Recvfrom(socket, oneByte[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT); err != syscall.EAGAIN {
			b.Fatal("something to read: ", err)
		}
	}
	use := func(c net.Conn) { roundTrip(b, c) }
	lookAndUse := func(c net.Conn) { look(); roundTrip(b, c) }
	pair := func(p peers.Peer, use func(net.Conn)) {
		if err := p.Pair(use); err != nil {
			b.Fatal(err)
		}
	}
	turns := []struct {
		name string
		take func()
		ns   []float64
	}{
		{name: "bare", take: func() { roundTrip(b, bare) }},
		{name: "looked", take: func() { lookAndUse(looked) }},
		{name: "puddle", take: func() { pair(puddle, lookAndUse) }},
		{name: "pooly", take: func() { pair(s, use) }},
	}
	for b.Loop() {
		for i := range turns {
			began := time.Now()
			turns[i].take()
			turns[i].ns = append(turns[i].ns, float64(time.Since(began)))
		}
	}
	medians := make(map[string]float64)
	for _, turn := range turns {
		slices.Sort(turn.ns)
		medians[turn.name] = turn.ns[len(turn.ns)/2]
		b.ReportMetric(medians[turn.name], turn.name+"-ns")
	}
	b.ReportMetric(medians["pooly"]/medians["bare"], "pooly/bare")
	b.ReportMetric(medians["pooly"]/medians["puddle"], "pooly/puddle")
}

func descriptor(b *testing.B, c net.Conn) (socket int) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { socket = int(fd) }); err != nil {
		b.Fatal(err)
	}
	return socket
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
