// Reverseproxy is a load balancer: httputil.ReverseProxy over poolyhttp. Each request goes to a backend that answers
// soon, and backends that fail are left out.
//
// Without arguments it starts three backends in the process, and stops one of them halfway:
//
//	go -C examples/clients run ./reverseproxy
//
// With -listen it serves, for the backends at the given addresses:
//
//	go -C examples/clients run ./reverseproxy -listen 127.0.0.1:8000 127.0.0.1:8080 127.0.0.1:8081
package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/3XX0/pooly/poolyhttp"
)

// newBalancer returns the load balancer, and the service to close after it.
func newBalancer(backends ...string) (http.Handler, *pooly.Service) {
	s := pooly.NewService("backends", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
		BanditStrategy: pooly.NewHotCold(5, 0.84),
	})
	s.SetHosts(backends...)
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "backends"}) // the service, which chooses
			r.Out.Host = r.In.Host
			r.SetXForwarded()
		},
		Transport: poolyhttp.NewTransport(s, nil),
	}, s
}

func main() {
	listen := flag.String("listen", "", "serve at this address, until killed")
	flag.Parse()
	var err error
	if *listen != "" {
		balancer, s := newBalancer(flag.Args()...)
		defer s.Close()
		err = http.ListenAndServe(*listen, balancer)
	} else {
		err = run(os.Stdout, flag.Args()...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run sends requests through the balancer, and reports what each backend got.
func run(w io.Writer, addresses ...string) error {
	servers, addresses := standin.Start(addresses, standin.HTTP)
	defer servers.StopAll()
	balancer, s := newBalancer(addresses...)
	defer s.Close()
	front := httptest.NewServer(balancer)
	defer front.Close()

	err := demo.Load(3000, servers.StopOne, func() error {
		_, err := get(front.Client(), front.URL)
		return err
	})
	demo.Report(w, s)
	return err
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
