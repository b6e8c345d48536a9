// Reverseproxy is a load balancer: httputil.ReverseProxy over poolyhttp. Each request goes to a backend that answers
// soon, and backends that fail are left out.
//
// It serves at the address of -listen, until it is killed, for the backends at the other addresses:
//
//	go -C examples/clients run ./reverseproxy -listen 127.0.0.1:8000 127.0.0.1:8080 127.0.0.1:8081
package main

import (
	"flag"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
)

// newBalancer returns the load balancer, and the service to close after it.
func newBalancer(backends ...string) (http.Handler, *pooly.Service) {
	s := pooly.NewService("backends", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
		BanditStrategy: pooly.NewLeastLatency(),
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
	listen := flag.String("listen", "127.0.0.1:8000", "serve at this `address`")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: go run main.go [-listen address] host:port...")
		os.Exit(2)
	}
	balancer, s := newBalancer(flag.Args()...)
	defer func() { _ = s.Close() }()
	if err := http.ListenAndServe(*listen, balancer); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
