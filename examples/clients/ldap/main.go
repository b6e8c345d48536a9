// Ldap searches in any of several LDAP servers. The connections of go-ldap serve many callers at once, so there is one
// per server, which all callers share: pooly.NewSharedDriver.
//
//	go -C examples/clients run ./ldap 127.0.0.1:389 127.0.0.1:390
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/3XX0/pooly"
	"github.com/go-ldap/ldap/v3"
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

// newService returns a service whose connections are of type *ldap.Conn. MaxConns is how many searches a server gets at
// once.
func newService(addresses ...string) *pooly.Service {
	tcp := pooly.NewNetDriver("tcp")
	driver := pooly.NewSharedDriver(pooly.DriverFuncs[*ldap.Conn]{
		Dial: func(ctx context.Context, address string) (*ldap.Conn, error) {
			c, err := tcp.Dial(ctx, address)
			if err != nil {
				return nil, err
			}
			client := ldap.NewConn(c.NetConn(), false)
			client.SetTimeout(2 * time.Second) // go-ldap knows no context
			client.Start()
			if err := client.UnauthenticatedBind(""); err != nil {
				_ = client.Close()
				return nil, err
			}
			return client, nil
		},
		Test: func(c *ldap.Conn) error {
			if c.IsClosing() {
				return errors.New("the connection is closed")
			}
			return nil
		},
		Temporary: func(err error) bool { // an answer of the server, such as "no such object"
			var e *ldap.Error
			return errors.As(err, &e) && e.ResultCode < ldap.ErrorNetwork
		},
	})
	s := pooly.NewService("ldap", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: driver, MaxConns: 100}})
	s.SetHosts(addresses...)
	return s
}

// search may be repeated on another server, since it changes nothing.
func search(ctx context.Context, s *pooly.Service, base, filter string) (*ldap.SearchResult, error) {
	return pooly.CallWith(ctx, s, func(_ context.Context, c *ldap.Conn) (*ldap.SearchResult, error) {
		result, err := c.Search(ldap.NewSearchRequest(base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases,
			0, 0, false, filter, nil, nil))
		var e *ldap.Error
		switch {
		case err == nil:
			return result, nil
		case !errors.As(err, &e) || e.ResultCode >= ldap.ErrorNetwork:
			return nil, pooly.Retry(err)
		case e.ResultCode == ldap.LDAPResultBusy, e.ResultCode == ldap.LDAPResultUnavailable:
			return nil, pooly.Retry(pooly.Answered(err))
		default:
			return nil, pooly.Answered(err)
		}
	})
}

func run(w io.Writer, addresses ...string) error {
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	for range 1000 {
		if _, err := search(context.Background(), s, "dc=example", "(objectClass=*)"); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}
