package pooly_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/3XX0/pooly"
)

// startEcho starts a TCP server that sends back what it gets.
func startEcho() (address string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String(), func() { l.Close() }
}

// A request in full: lease a connection, use it, and let the deferred Release see how it went.
func ExampleService() {
	first, stopFirst := startEcho()
	defer stopFirst()
	second, stopSecond := startEcho()
	defer stopSecond()

	s := pooly.NewService("echo", nil)
	defer s.Close()
	s.Add(first)
	s.Add(second)

	echo := func(message string) (reply string, err error) {
		c, err := s.GetConn()
		if err != nil {
			return "", err
		}
		defer c.Release(&err, pooly.HostUp)

		if _, err = fmt.Fprintln(c.NetConn(), message); err != nil {
			return "", err
		}
		return bufio.NewReader(c.NetConn()).ReadString('\n')
	}
	for _, message := range []string{"hello", "world"} {
		reply, err := echo(message)
		fmt.Printf("%q %v\n", reply, err)
	}
	for _, h := range s.Stats().Hosts {
		fmt.Println(h.Puts, "request, score", h.Score)
	}
	// Output:
	// "hello\n" <nil>
	// "world\n" <nil>
	// 1 request, score 1
	// 1 request, score 1
}

// GetConn fails only if no host can be reached, and then it says why for each.
func ExampleService_GetConn() {
	s := pooly.NewService("orders", nil)
	defer s.Close()
	_, err := s.GetConn()
	fmt.Println(err)

	s.Add("[::1]:port")
	_, err = s.GetConn()
	fmt.Println(errors.Is(err, pooly.ErrNoHostAvailable))

	var failure *pooly.GetConnError
	if errors.As(err, &failure) {
		for _, a := range failure.Attempts {
			fmt.Println(a.Address, "failed")
		}
	}
	// Output:
	// pooly: service orders: no host available: no host is registered
	// true
	// [::1]:port failed
}

// A context bounds the wait for a connection.
func ExampleService_GetConnContext() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("small", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}})
	defer s.Close()
	s.Add(address)

	c, err := s.GetConn()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Release(nil, pooly.HostUp)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = s.GetConnContext(ctx)
	fmt.Println(err)
	// Output: pooly: service small: context deadline exceeded (1 connections of 1 hosts in use, at most 1 each; 0 callers waiting)
}

// lineConn is a client for a line-based protocol: a connection and its buffered reader, which must stay together.
type lineConn struct {
	conn *pooly.Conn // as NetDriver made it
	r    *bufio.Reader
}

var errNotFound = errors.New("not found") // a server's answer that leaves the connection as good as before

// lineDriver makes lineConns. NetDriver does most of it.
type lineDriver struct {
	net *pooly.NetDriver
}

func (d lineDriver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.net.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(&lineConn{c, bufio.NewReader(c.NetConn())}), nil
}

func (d lineDriver) Close(c *pooly.Conn) {
	d.net.Close(c.Interface().(*lineConn).conn)
}

func (d lineDriver) TestOnBorrow(c *pooly.Conn) error {
	lc := c.Interface().(*lineConn)
	if n := lc.r.Buffered(); n > 0 {
		return fmt.Errorf("%d bytes of a reply that nobody read", n)
	}
	return d.net.TestOnBorrow(lc.conn) // is the peer still there?
}

func (d lineDriver) Temporary(err error) bool {
	return errors.Is(err, errNotFound)
}

// A driver of your own wraps whatever your protocol needs per connection.
func ExampleDriver() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("lines", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: lineDriver{pooly.NewNetDriver("tcp")}},
	})
	defer s.Close()
	s.Add(address)

	c, err := s.GetConn()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Release(&err, pooly.HostUp)
	lc := c.Interface().(*lineConn)
	fmt.Fprintln(lc.conn.NetConn(), "get key")
	var reply string
	reply, err = lc.r.ReadString('\n')
	fmt.Print(strings.ToUpper(reply))
	// Output: GET KEY
}

// Preferred is a strategy: it sends everything to the first host with a fair score, in alphabetical order, and
// something to the others when there is none.
type Preferred struct{}

func (Preferred) NewPicker(arms []pooly.Arm) pooly.Picker {
	p := picker{n: len(arms), preferred: -1}
	for i, a := range arms {
		if a.Score >= 0.5 && (p.preferred < 0 || a.Address < arms[p.preferred].Address) {
			p.preferred = i
		}
	}
	return p
}

type picker struct{ n, preferred int }

func (p picker) Pick(rng *rand.Rand) int {
	if p.preferred < 0 {
		return rng.IntN(p.n)
	}
	return p.preferred
}

// A strategy is a plain function of numbers: what is costly goes to NewPicker, which runs when hosts or scores
// change, and Pick runs for every call.
func ExampleBandit() {
	strategy := Preferred{}
	arms := []pooly.Arm{{Address: "c", Score: 1}, {Address: "b", Score: 0.8}, {Address: "a", Score: 0.1}}
	rng := rand.New(rand.NewPCG(1, 2)) // the same picks each time
	fmt.Println(arms[strategy.NewPicker(arms).Pick(rng)].Address)

	s := pooly.NewService("own", &pooly.ServiceConfig{BanditStrategy: strategy})
	defer s.Close()
	// Output: b
}

// Scores by degrees let a strategy tell fast hosts from slow ones.
func ExampleConn_Release() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("rated", &pooly.ServiceConfig{BanditStrategy: pooly.NewSoftMax(0.1)})
	defer s.Close()
	s.Add(address)

	c, err := s.GetConn()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Release(nil, 0.8)) // good, could be faster
	err = c.Release(nil, 0.8)        // a mistake, which touches nothing
	fmt.Println(errors.Is(err, pooly.ErrConnReleased))
	// Output:
	// <nil>
	// true
}

// A pool can be used alone, for one host.
func ExamplePool() {
	address, stop := startEcho()
	defer stop()
	p := pooly.NewPool(address, &pooly.PoolConfig{MaxConns: 10, ConnIdleTimeout: time.Minute})
	defer p.Close()
	for range 3 {
		c, err := p.Get()
		if err != nil {
			fmt.Println(err)
			return
		}
		c.Release(nil, pooly.HostUp)
	}
	fmt.Println(p.Stats().Dials, "dial for", p.Stats().Gets, "leases")
	// Output: 1 dial for 3 leases
}
