// Http balances every request over several web servers: each goes to the one that answers soonest, and is sent again
// to another if its connection breaks.
//
// Without arguments it starts three servers in the process, and stops one of them halfway:
//
//	go -C examples/clients run ./http
//
// Given addresses, it requests / from what listens there, such as nginx:
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
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
)

func main() {
	if err := run(os.Stdout, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func newService(addresses ...string) *pooly.Service {
	s := pooly.NewService("web", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: pooly.NewHTTPDriver("http", nil)},
		BanditStrategy: pooly.NewLeastLatency(),
	})
	s.SetHosts(addresses...)
	return s
}

// newClient returns a client like any other. The host of its URLs is what the servers see.
func newClient(s *pooly.Service) *http.Client {
	return &http.Client{Transport: pooly.NewHTTPTransport(s), Timeout: 5 * time.Second}
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

func run(w io.Writer, addresses ...string) error {
	servers, addresses := standin.Start(addresses, standin.HTTP)
	defer servers.StopAll()
	s := newService(addresses...)
	defer s.Close()
	client := newClient(s)

	err := demo.Load(5000, servers.StopOne, func() error {
		_, err := get(client, "http://web.internal/")
		return err
	})
	demo.Report(w, s)
	return err
}
