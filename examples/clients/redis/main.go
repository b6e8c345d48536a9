// Redis reads from a Redis server and its replicas, over connections in pooly's own pools: each read goes to the
// server that answers soonest, and one that is down costs nothing but a repetition.
//
//	redis-server --port 6379 & redis-server --port 6380 --replicaof 127.0.0.1 6379 &
//	redis-cli set greeting hello
//	go -C examples/clients run ./redis 127.0.0.1:6379 127.0.0.1:6380
//
// All hosts of a service must be able to answer, so this is for reads. For writes, make a second service that has only
// the primary.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/3XX0/pooly"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go run main.go host:port...")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// newService returns a service of Redis servers.
func newService(addresses ...string) *pooly.Service {
	s := pooly.NewService("redis", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: newDriver()},
		BanditStrategy: pooly.NewLeastLatency(),
	})
	s.SetHosts(addresses...)
	return s
}

// read runs a command that changes nothing, so that it may be repeated on another server.
func read(ctx context.Context, s *pooly.Service, args ...string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return pooly.CallWith(ctx, s, func(_ context.Context, c *conn) (any, error) {
		reply, err := c.do(args...)
		var answer replyError
		switch {
		case !errors.As(err, &answer):
			return reply, pooly.Retry(err) // nil, or an I/O error
		case answer.unfit():
			return nil, pooly.Retry(pooly.Answered(err)) // another server can serve now
		default:
			return nil, pooly.Answered(err) // another server would say the same
		}
	})
}

var errNoGreeting = errors.New("no greeting: set one with redis-cli, and give the replica some seconds to copy it")

func run(w io.Writer, addresses ...string) error {
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	for range 1000 {
		if _, err := read(context.Background(), s, "GET", "greeting"); err != nil {
			return err
		}
	}
	greeting, err := read(context.Background(), s, "GET", "greeting")
	if err != nil {
		return err
	}
	if greeting == nil {
		return errNoGreeting
	}
	_, _ = fmt.Fprintf(w, "greeting is %q\n", greeting)
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}

// conn is one Redis connection: a socket and its buffered reader, which must stay together.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// newDriver returns a driver whose connections are of type *conn. A server that says nothing for half a second is left
// for another.
func newDriver() pooly.Driver {
	tcp := pooly.NewNetDriver("tcp")
	tcp.SetReadTimeout(500 * time.Millisecond)
	return pooly.DriverOf(pooly.DriverFuncs[*conn]{
		Dial: func(ctx context.Context, address string) (*conn, error) {
			c, err := tcp.Dial(ctx, address)
			if err != nil {
				return nil, err
			}
			return &conn{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
		},
		Test: func(c *conn) error {
			if n := c.r.Buffered(); n > 0 { // or the next caller would read it
				return fmt.Errorf("%d bytes of a reply that nobody read", n)
			}
			return nil
		},
	})
}

// replyError is an answer of the server, which leaves the connection as good as before.
type replyError string

func (e replyError) Error() string { return string(e) }

// unfit reports whether the server cannot serve now: it loads its data, has lost its primary, is one, or runs a script.
func (e replyError) unfit() bool {
	kind, _, _ := strings.Cut(string(e), " ")
	return kind == "LOADING" || kind == "MASTERDOWN" || kind == "READONLY" || kind == "BUSY"
}

// do sends a command and reads its reply: a string, an int64, a []any, or nil.
func (c *conn) do(args ...string) (any, error) {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	return c.reply()
}

// reply reads a reply (https://redis.io/docs/latest/develop/reference/protocol-spec, RESP2).
func (c *conn) reply() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("malformed reply %q", line)
	}
	kind, text := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return text, nil
	case '-':
		return nil, replyError(text)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("malformed reply %q", line)
	case kind == ':':
		return n, nil
	case kind == '$' && n < 0, kind == '*' && n < 0:
		return nil, nil
	case kind == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, err
		}
		return string(b[:n]), nil
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			if list[i], err = c.reply(); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("reply of unknown kind %q", line)
}
