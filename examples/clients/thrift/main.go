// Thrift calls a Thrift service, with the library of apache/thrift, over connections in pooly's own pools: each call
// goes to the server that answers soonest.
//
//	go -C examples/clients run ./thrift 127.0.0.1:9090 127.0.0.1:9091
//
// The servers have this service. In your program, the Thrift compiler makes what is below "generated".
//
//	service Greeter { string greet(1: string name) }
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/3XX0/pooly"
	"github.com/apache/thrift/lib/go/thrift"
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

// conn is a Thrift connection: the socket, the transport on it, and a client that keeps the sequence of calls.
type conn struct {
	net.Conn
	transport thrift.TTransport
	greeter   *GreeterClient
}

func newService(addresses ...string) *pooly.Service {
	tcp := pooly.NewNetDriver("tcp")
	config := &thrift.TConfiguration{}
	driver := pooly.DriverOf(pooly.DriverFuncs[*conn]{
		Dial: func(ctx context.Context, address string) (*conn, error) {
			c, err := tcp.Dial(ctx, address)
			if err != nil {
				return nil, err
			}
			// The transport and the protocol must be those of the servers.
			transport := thrift.NewTFramedTransportConf(thrift.NewTSocketFromConnConf(c.NetConn(), config), config)
			protocol := thrift.NewTBinaryProtocolConf(transport, config)
			greeter := NewGreeterClient(thrift.NewTStandardClient(protocol, protocol))
			return &conn{c.NetConn(), transport, greeter}, nil
		},
		Close: func(c *conn) error { return c.transport.Close() },
	})
	s := pooly.NewService("greeter", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: driver},
		BanditStrategy: pooly.NewHotCold(5, 0.84),
	})
	s.SetHosts(addresses...)
	return s
}

// greet may be repeated, since it changes nothing. For a call that must not run twice, return err without Retry.
func greet(ctx context.Context, s *pooly.Service, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return pooly.CallWith(ctx, s, func(ctx context.Context, c *conn) (string, error) {
		greeting, err := c.greeter.Greet(ctx, name)
		var broken thrift.TTransportException
		var garbled thrift.TProtocolException
		if errors.As(err, &broken) || errors.As(err, &garbled) || ctx.Err() != nil {
			return "", pooly.Retry(err)
		}
		return greeting, pooly.Answered(err) // an exception of the service, or nil
	})
}

func run(w io.Writer, addresses ...string) error {
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	for range 1000 {
		if _, err := greet(context.Background(), s, "you"); err != nil {
			return err
		}
	}
	greeting, err := greet(context.Background(), s, "you")
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(w, greeting)
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}

// What follows is what the Thrift compiler would have generated, in short.

type GreeterClient struct{ c thrift.TClient }

func NewGreeterClient(c thrift.TClient) *GreeterClient { return &GreeterClient{c} }

func (g *GreeterClient) Greet(ctx context.Context, name string) (string, error) {
	args, result := &text{field: 1, value: name}, &text{field: 0}
	_, err := g.c.Call(ctx, "greet", args, result)
	return result.value, err
}

// text is a struct with one string.
type text struct {
	field int16
	value string
}

func (t *text) Write(ctx context.Context, p thrift.TProtocol) error {
	return errors.Join(
		p.WriteStructBegin(ctx, "text"),
		p.WriteFieldBegin(ctx, "value", thrift.STRING, t.field),
		p.WriteString(ctx, t.value),
		p.WriteFieldEnd(ctx),
		p.WriteFieldStop(ctx),
		p.WriteStructEnd(ctx))
}

func (t *text) Read(ctx context.Context, p thrift.TProtocol) error {
	if _, err := p.ReadStructBegin(ctx); err != nil {
		return err
	}
	for {
		_, kind, id, err := p.ReadFieldBegin(ctx)
		if err != nil {
			return err
		}
		switch {
		case kind == thrift.STOP:
			return p.ReadStructEnd(ctx)
		case id == t.field && kind == thrift.STRING:
			t.value, err = p.ReadString(ctx)
		default:
			err = p.Skip(ctx, kind)
		}
		if err != nil {
			return err
		}
	}
}
