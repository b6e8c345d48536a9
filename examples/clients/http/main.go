// Http balances every request over several web servers: each goes to the one that answers soonest, and is sent again
// to another if its connection breaks.
//
// It requests / from what listens there, such as nginx:
//
//	go -C examples/clients run ./http 127.0.0.1:8080 127.0.0.1:8081
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
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

func newService(addresses ...string) *pooly.Service {
	s := pooly.NewService("web", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
		BanditStrategy: pooly.NewLeastLatency(),
	})
	s.SetHosts(addresses...)
	return s
}

// newClient returns a client like any other. Its URLs name the service, and the servers see that as Host.
func newClient(s *pooly.Service) *http.Client {
	return &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: 5 * time.Second}
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

func run(w io.Writer, addresses ...string) error {
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	client := newClient(s)

	for range 1000 {
		if _, err := get(client, "http://web/"); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}
