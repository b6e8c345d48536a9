package poolytest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolytest"
)

// line is a client of a protocol of lines, as an example of your own driver.
type line struct {
	net.Conn
	r *bufio.Reader
}

// ask sends a line, and returns the line that comes back.
func (l *line) ask(question string) (string, error) {
	if _, err := io.WriteString(l, question+"\n"); err != nil {
		return "", err
	}
	answer, err := l.r.ReadString('\n')
	return answer[:max(0, len(answer)-1)], err
}

// newLineDriver is the driver under test. It takes its dial function as an argument, so that a test
// can give it a network in memory.
func newLineDriver(
	dial func(ctx context.Context, network, address string) (net.Conn, error),
) pooly.Driver {
	return pooly.DriverOf(pooly.DriverFuncs[*line]{
		Dial: func(ctx context.Context, address string) (*line, error) {
			c, err := dial(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			return &line{c, bufio.NewReader(c)}, nil
		},
	})
}

// serveLines answers each line with the name of the server.
func serveLines(name string) func(net.Conn) {
	return func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if _, err := fmt.Fprintln(c, name); err != nil {
				return
			}
		}
	}
}

// who asks a host for its name.
func who(ctx context.Context, s *pooly.Service) (string, error) {
	return pooly.CallWith(ctx, s, func(_ context.Context, l *line) (string, error) {
		answer, err := l.ask("who?")
		return answer, pooly.Retry(err)
	})
}

// This test is in docs/GUIDE.md.
func TestRequestsFailOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		t.Cleanup(n.Close)
		n.Serve("a:1", serveLines("a"))
		n.Serve("b:1", serveLines("b"))
		s := pooly.NewService("lines", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: newLineDriver(n.DialContext)},
		})
		t.Cleanup(func() { _ = s.Close() })
		s.SetHosts("a:1", "b:1")
		n.Hang("a:1") // a black hole
		for range 600 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if name, err := who(ctx, s); name != "b" {
				t.Errorf("%q, %v", name, err)
			}
			cancel()
			time.Sleep(time.Second)
		}
		poolytest.NoLeases(t, s)
	})
}

// My driver fails over in milliseconds of real time, and in minutes of virtual time: a black hole
// swallows host a for ten minutes.
func TestMyDriverFailsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		t.Cleanup(n.Close)
		n.Serve("a:1", serveLines("a"))
		n.Serve("b:1", serveLines("b"))
		s := pooly.NewService("lines", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: newLineDriver(n.DialContext)},
		})
		t.Cleanup(func() { _ = s.Close() })
		s.SetHosts("a:1", "b:1")

		answers := func(period time.Duration) map[string]int {
			count := make(map[string]int)
			for end := time.Now().Add(period); time.Now().Before(end); time.Sleep(time.Second) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				name, err := who(ctx, s)
				cancel()
				if err != nil {
					name = "failed"
				}
				count[name]++
			}
			return count
		}
		if got := answers(time.Minute); got["a"] < 20 || got["b"] < 20 || got["failed"] > 0 {
			t.Errorf("both are up: %v", got)
		}
		n.Hang("a:1")
		if got := answers(10 * time.Minute); got["failed"] > 5 {
			t.Errorf("a hangs: %v", got)
		}
		n.Heal("a:1")
		answers(time.Minute)
		if got := answers(time.Minute); got["a"] < 20 || got["failed"] > 0 {
			t.Errorf("a is back: %v", got)
		}
		poolytest.NoLeases(t, s)
		_ = s.Close()
		poolytest.NoConns(t, n)
	})
}

// A host refuses connections, and the call goes to the other one.
func Example() {
	n := poolytest.NewNet()
	s := pooly.NewService("echo", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: n.Driver()},
	})
	defer s.Close()
	n.Refuse("10.0.0.1:7")
	s.SetHosts("10.0.0.1:7", "10.0.0.2:7")

	err := s.Do(context.Background(), func(c *pooly.Conn) error {
		fmt.Println("leased", c.Address())
		_, err := io.WriteString(c.NetConn(), "hello\n")
		if err != nil {
			return err
		}
		answer, err := bufio.NewReader(c.NetConn()).ReadString('\n')
		fmt.Print("answer ", answer)
		return err
	})
	fmt.Println(err, n.Dials("10.0.0.2:7"))
	// Output:
	// leased 10.0.0.2:7
	// answer hello
	// <nil> 1
}

// The network is given to a driver as its dial function.
func ExampleNet_DialContext() {
	n := poolytest.NewNet()
	tcp := pooly.NewNetDriver("tcp")
	tcp.SetDialContext(n.DialContext)

	n.Refuse("a:1")
	_, err := tcp.Dial(context.Background(), "a:1")
	fmt.Println(err)
	// Output: dial tcp a:1: connect: connection refused
}

// A server reads requests, and answers them.
func ExampleNet_Serve() {
	n := poolytest.NewNet()
	defer n.Close()
	n.Serve("time:1", func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			fmt.Fprintln(c, "high", lines.Text())
		}
	})
	c, _ := n.DialContext(context.Background(), "tcp", "time:1")
	fmt.Fprintln(c, "noon")
	answer, _ := bufio.NewReader(c).ReadString('\n')
	fmt.Print(answer)
	_ = c.Close()
	// Output: high noon
}

// A server that accepts connections, and never answers.
func ExampleNet_Serve_silent() {
	n := poolytest.NewNet()
	n.Serve("a:1", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	c, _ := n.DialContext(context.Background(), "tcp", "a:1")
	_ = c.SetDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	fmt.Println(err.(net.Error).Timeout())
	_ = c.Close()
	// Output: true
}

// A script decides which host serves.
func ExampleScript() {
	strategy := poolytest.Script("b", "b", "a")
	s := pooly.NewService("scripted", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolytest.NewNet().Driver()},
		BanditStrategy: strategy,
	})
	defer s.Close()
	s.SetHosts("a", "b")
	for range 4 {
		c, _ := s.GetConn()
		_ = c.Release(nil, pooly.HostUp)
	}
	fmt.Println(strategy.Picks())
	// Output: [b b a b]
}

// A test finds out how a strategy of one's own divides the traffic.
func ExampleRecord() {
	strategy := poolytest.Record(pooly.NewWeightedRoundRobin())
	s := pooly.NewService("recorded", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolytest.NewNet().Driver()},
		BanditStrategy: strategy,
	})
	defer s.Close()
	s.SetHosts("a", "b")
	for range 100 {
		c, _ := s.GetConn()
		_ = c.Release(nil, pooly.HostUp)
	}
	fmt.Println(len(strategy.Picks()), "picks among", len(strategy.Arms()), "hosts")
	// Output: 100 picks among 2 hosts
}
