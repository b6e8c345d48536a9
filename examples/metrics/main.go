// Metrics keeps a service of five unequal hosts under steady load and reports it to statsd, so that there is something
// to see on the dashboard:
//
//	./stack.sh go run . -duration 2m            # a stack of its own, without docker
//	docker compose up -d && go run .            # or the one of compose.yaml, with Grafana on http://localhost:3000
//
// Two hosts are quick, one is slow, one is down for three seconds out of ten, and one dies halfway. In the third
// quarter the load is five times as high, which is more than the pools have connections for.
//
// With -debug it serves the page of package debug. With -png it draws the panels of the dashboard when it is done:
//
//	./stack.sh go run . -png ../../docs/metrics
package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/debug"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.DurationVar(&o.duration, "duration", 2*time.Minute, "how long to run")
	flag.StringVar(&o.statsd, "statsd", cmp.Or(os.Getenv("STATSD_ADDR"), "127.0.0.1:8125"), "where statsd listens")
	flag.StringVar(&o.graphite, "graphite", cmp.Or(os.Getenv("GRAPHITE_URL"), "http://127.0.0.1:8080"), "where graphite-web is, for -png")
	flag.StringVar(&o.png, "png", "", "folder for pictures of the dashboard's panels; empty: none")
	flag.StringVar(&o.debug, "debug", "", "address of the debug page, such as localhost:6060; empty: none")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	duration              time.Duration
	statsd, graphite, png string
	debug                 string
}

func run(ctx context.Context, o options) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.duration)
	defer cancel()
	hosts, err := startHosts(ctx, o.duration)
	if err != nil {
		return err
	}
	s := pooly.NewService("orders", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{
			Driver:   hosts.driver(),
			MaxConns: 6,
		},
		BanditStrategy:    pooly.NewSoftMax(0.2),
		StatsdAddr:        o.statsd,
		StatsdHostMetrics: pooly.HostMetricsNamed,
	})
	for address := range hosts {
		s.Add(address)
	}
	if o.debug != "" {
		page, err := net.Listen("tcp", o.debug)
		if err != nil {
			return err
		}
		defer func() { _ = page.Close() }()
		fmt.Printf("debug page on http://%s/\n", page.Addr())
		go func() { _ = http.Serve(page, debug.Handler(s)) }() // until the page is closed
	}
	fmt.Printf("service orders reports to %s for %v\n", o.statsd, o.duration)
	load(ctx, s, o.duration)
	ended := time.Now()
	report(s.Stats())
	err = s.Close()
	if o.png != "" {
		time.Sleep(2 * time.Second) // until statsd has flushed, and carbon has what it sent
		err = errors.Join(err, drawPanels(o.graphite, "orders", began.Add(2*time.Second), ended, o.png))
	}
	return err
}

// load makes requests until ctx ends: a steady stream, and a rush in the third quarter.
func load(ctx context.Context, s *pooly.Service, duration time.Duration) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 12 {
		wg.Go(func() { client(ctx, s) })
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(duration / 2):
	}
	rush, cancel := context.WithTimeout(ctx, duration/4)
	defer cancel()
	for range 48 {
		wg.Go(func() { client(rush, s) })
	}
	<-rush.Done()
}

func client(ctx context.Context, s *pooly.Service) {
	for ctx.Err() == nil {
		_ = request(ctx, s) // the metrics tell how many failed
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(15*time.Millisecond)))
	}
}

// request is what a user of pooly writes: get a connection, use it, release it with how well that went.
func request(ctx context.Context, s *pooly.Service) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := s.GetConnContext(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	defer func() { _ = c.Release(err, pooly.LatencyScore(time.Since(began), 20*time.Millisecond)) }()

	if _, err = c.NetConn().Write([]byte("ping\n")); err != nil {
		return err
	}
	_, err = bufio.NewReader(c.NetConn()).ReadString('\n')
	return err
}

func report(stats pooly.ServiceStats) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "host\tleases\tscore\tejected\tdials\tfailed")
	for _, h := range stats.Hosts {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%.2f\t%v\t%d\t%d\n", h.Address, h.Gets, h.Score, h.Ejected, h.Dials, h.Failures)
	}
	_ = w.Flush()
	fmt.Printf("%d leases, %d calls failed, waited %d times for %v in all\n",
		stats.Gets, stats.GetFailures, stats.Waits, stats.WaitDuration.Round(time.Millisecond))
}

// hosts are servers on the loopback, by the names that the service knows them by.
type hosts map[string]*host

// host answers each line with one, after a while.
type host struct {
	delay time.Duration // how long an answer takes on average

	mu       sync.Mutex
	address  string // of the listener; guarded by mu, and so is what follows
	listener net.Listener
	conns    map[net.Conn]struct{}
}

func startHosts(ctx context.Context, duration time.Duration) (hosts, error) {
	hs := hosts{
		"quick-1:7000":  {delay: 4 * time.Millisecond},
		"quick-2:7000":  {delay: 5 * time.Millisecond},
		"slow:7000":     {delay: 40 * time.Millisecond},
		"flapping:7000": {delay: 5 * time.Millisecond},
		"dying:7000":    {delay: 4 * time.Millisecond},
	}
	for _, h := range hs {
		h.conns = make(map[net.Conn]struct{})
		h.address = "127.0.0.1:0"
		if err := h.start(); err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, h.stop)
	}
	time.AfterFunc(duration/2, hs["dying:7000"].stop)
	go hs["flapping:7000"].flap(ctx)
	return hs, nil
}

// driver connects to the hosts by their names.
func (hs hosts) driver() pooly.Driver {
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(func(ctx context.Context, network, name string) (net.Conn, error) {
		h := hs[name]
		h.mu.Lock()
		address := h.address
		h.mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, address)
	})
	return d
}

func (h *host) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, err := net.Listen("tcp", h.address)
	if err != nil {
		return err
	}
	h.listener, h.address = l, l.Addr().String()
	go h.accept(l)
	return nil
}

// stop closes the port and every connection, as the death of a process does.
func (h *host) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.listener.Close()
	for c := range h.conns {
		_ = c.Close()
	}
	clear(h.conns)
}

func (h *host) flap(ctx context.Context) {
	for pause := 7 * time.Second; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if pause == 7*time.Second {
			h.stop()
			pause = 3 * time.Second
		} else if err := h.start(); err == nil { // else another has the port; again in three seconds
			pause = 7 * time.Second
		}
	}
}

func (h *host) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		h.conns[c] = struct{}{}
		h.mu.Unlock()
		go h.serve(c)
	}
}

func (h *host) serve(c net.Conn) {
	defer func() {
		h.mu.Lock()
		delete(h.conns, c)
		h.mu.Unlock()
		_ = c.Close()
	}()
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		time.Sleep(time.Duration((0.5 + rand.ExpFloat64()/2) * float64(h.delay)))
		if _, err := c.Write([]byte(line)); err != nil {
			return
		}
	}
}
