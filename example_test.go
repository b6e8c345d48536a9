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
				defer func() { _ = c.Close() }()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String(), func() { _ = l.Close() }
}

// A request in full: lease a connection, use it, and let the deferred Release see how it went.
func ExampleService() {
	first, stopFirst := startEcho()
	defer stopFirst()
	second, stopSecond := startEcho()
	defer stopSecond()

	s := pooly.NewService("echo", nil)
	defer func() { _ = s.Close() }()
	s.Add(first)
	s.Add(second)

	echo := func(message string) (reply string, err error) {
		c, err := s.GetConn()
		if err != nil {
			return "", err
		}
		defer func() { _ = c.Release(&err, pooly.HostUp) }()

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
	defer func() { _ = s.Close() }()
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
	defer func() { _ = s.Close() }()
	s.Add(address)

	c, err := s.GetConn()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = c.Release(nil, pooly.HostUp) }()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = s.GetConnContext(ctx)
	fmt.Println(err)
	// Output: pooly: service small: context deadline exceeded (1 connections of 1 hosts in use, at most 1 each; 0 callers waiting)
}

// lineConn is a client for a line-based protocol: a socket and its buffered reader, which must stay
// together.
type lineConn struct {
	net.Conn
	r *bufio.Reader
}

var errNotFound = errors.New("not found") // a server's answer that leaves the connection as good as before

func (c *lineConn) ask(question string) (answer string, err error) {
	if _, err := fmt.Fprintln(c, question); err != nil {
		return "", err
	}
	answer, err = c.r.ReadString('\n')
	if err == nil && answer == "get nothing\n" {
		return "", errNotFound
	}
	return answer, err
}

// A driver of your own wraps whatever your protocol needs per connection.
func ExampleDriverOf() {
	address, stop := startEcho()
	defer stop()
	tcp := pooly.NewNetDriver("tcp")
	driver := pooly.DriverOf(pooly.DriverFuncs[*lineConn]{
		Dial: func(ctx context.Context, address string) (*lineConn, error) {
			c, err := tcp.Dial(ctx, address)
			if err != nil {
				return nil, err
			}
			return &lineConn{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
		},
		Test: func(c *lineConn) error {
			if n := c.r.Buffered(); n > 0 {
				return fmt.Errorf("%d bytes of a reply that nobody read", n)
			}
			return nil
		},
		Temporary: func(err error) bool { return errors.Is(err, errNotFound) },
	})
	s := pooly.NewService("lines", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: driver}})
	defer func() { _ = s.Close() }()
	s.Add(address)

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	reply, err := pooly.CallWith(ctx, s, func(_ context.Context, c *lineConn) (string, error) {
		return c.ask("get key")
	})
	fmt.Print(strings.ToUpper(reply), err)
	// Output:
	// GET KEY
	// <nil>
}

// An error that is the server's answer is no fault of the host, so it says so.
func ExampleAnswered() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("users", nil)
	defer func() { _ = s.Close() }()
	s.Add(address)

	err := s.Do(context.Background(), func(c *pooly.Conn) error {
		lc := &lineConn{c.NetConn(), bufio.NewReader(c.NetConn())}
		_, err := lc.ask("get nothing")
		if errors.Is(err, errNotFound) {
			return pooly.Answered(err)
		}
		return err
	})
	fmt.Println(err, s.Stats().Open)
	// Output: not found 1
}

// Preferred is a strategy: it sends everything to the first host with a fair score, in alphabetical
// order, and something to the others when there is none.
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

// A strategy is a plain function of numbers: what is costly goes to NewPicker, which runs when
// hosts or scores change, and Pick runs for every call.
func ExampleBandit() {
	strategy := Preferred{}
	arms := []pooly.Arm{{Address: "c", Score: 1}, {Address: "b", Score: 0.8}, {Address: "a", Score: 0.1}}
	rng := rand.New(rand.NewPCG(1, 2)) // the same picks each time
	fmt.Println(arms[strategy.NewPicker(arms).Pick(rng)].Address)

	s := pooly.NewService("own", &pooly.ServiceConfig{BanditStrategy: strategy})
	defer func() { _ = s.Close() }()
	// Output: b
}

// Scores by degrees let a strategy tell fast hosts from slow ones.
func ExampleConn_Release() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("rated", &pooly.ServiceConfig{BanditStrategy: pooly.NewSoftMax(0.1)})
	defer func() { _ = s.Close() }()
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
	defer func() { _ = p.Close() }()
	for range 3 {
		c, err := p.Get()
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = c.Release(nil, pooly.HostUp)
	}
	fmt.Println(p.Stats().Dials, "dial for", p.Stats().Gets, "leases")
	// Output: 1 dial for 3 leases
}

// An Observer hears of what happens. Here it tells of the calls that waited.
func ExampleObserver() {
	address, stop := startEcho()
	defer stop()
	s := pooly.NewService("echo", &pooly.ServiceConfig{
		PrespawnConns: -1,
		Observer: &pooly.Observer{
			Waited: func(e pooly.WaitEvent) {
				fmt.Println("a call of", e.Service, "waited, error:", e.Err)
			},
		},
	})
	defer func() { _ = s.Close() }()
	s.Add(address)
	for range 2 { // the first call waits for a dial
		c, err := s.GetConn()
		if err != nil {
			fmt.Println(err)
			return
		}
		_ = c.Release(nil, pooly.HostUp)
	}
	// Output: a call of echo waited, error: <nil>
}
