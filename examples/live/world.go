package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
)

// mood is what a host is like.
type mood int

const (
	healthy mood = iota
	slow         // it takes slowdown times as long
	broken       // it refuses connections
)

func (m mood) String() string { return [...]string{"healthy", "slow", "broken"}[m] }

const (
	capacity = 4 // requests that a host serves at once; others wait in line
	slowdown = 8
	patience = time.Second // after which a request has failed
	target   = 25 * time.Millisecond
	maxRate  = 1200
)

// hostTimes are the mean times in which each host serves a request, if it is healthy. Together the hosts can serve
// about 2,000 requests each second.
var hostTimes = []time.Duration{
	7 * time.Millisecond, 9 * time.Millisecond, 11 * time.Millisecond, 14 * time.Millisecond, 18 * time.Millisecond,
}

// strategies are those to switch between. The first is what docs/STRATEGIES.md recommends for such hosts.
func strategies() []pooly.Bandit {
	return []pooly.Bandit{
		pooly.NewLeastLatency(), pooly.NewHotCold(5, 0.84), pooly.NewPeakEWMA(5), pooly.NewSoftMax(0.1), pooly.NewPowerOfTwo(),
		pooly.NewWeightedRoundRobin(), pooly.NewRoundRobin(), pooly.NewEpsilonGreedy(0.1), pooly.NewUCB(0.5),
	}
}

// world is TCP servers, a service over them, and load.
type world struct {
	servers  []*server
	service  *pooly.Service
	strategy *switchable
	events   events
	rate     atomic.Int64 // requests each second
	stop     context.CancelFunc
	running  sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	served []int      // requests since the last sample, by host
	failed int
	took   []time.Duration
}

func newWorld(rate int) (*world, error) {
	w := &world{strategy: newSwitchable(strategies()), served: make([]int, len(hostTimes))}
	w.rate.Store(int64(rate))
	w.events.hostOf = w.hostOf
	for _, mean := range hostTimes {
		s := &server{mean: mean, slots: make(chan struct{}, capacity)}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.close()
			return nil, err
		}
		s.address = l.Addr().String()
		s.accept(l)
		w.servers = append(w.servers, s)
	}
	w.service = pooly.NewService("live", &pooly.ServiceConfig{
		BanditStrategy: w.strategy,
		DecayDuration:  10 * time.Second, // a demonstration has no patience
		Logger:         slog.New(&w.events),
		PoolConfig:     pooly.PoolConfig{WaitTimeout: patience},
		CloseDeadline:  2 * patience,
	})
	for _, s := range w.servers {
		w.service.Add(s.address)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	w.running.Go(func() { w.work(ctx) })
	return w, nil
}

func (w *world) close() {
	if w.stop != nil {
		w.stop()
		w.running.Wait()
		_ = w.service.Close()
	}
	for _, s := range w.servers {
		s.refuse()
		s.serving.Wait()
	}
}

// hostOf returns the number by which the screen calls a host.
func (w *world) hostOf(address string) string {
	return strconv.Itoa(1 + slices.IndexFunc(w.servers, func(s *server) bool { return s.address == address }))
}

// work sends requests at the rate, whether or not those before were answered: so do users.
func (w *world) work(ctx context.Context) {
	const beat = 10 * time.Millisecond
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	last, due := time.Now(), 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			due += min(now.Sub(last), 10*beat).Seconds() * float64(w.rate.Load())
			last = now
			for ; due >= 1; due-- {
				w.running.Go(w.request)
			}
		}
	}
}

func (w *world) request() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	began := time.Now()
	var host string
	err := w.service.Do(ctx, func(c *pooly.Conn) error {
		sent := time.Now()
		_, err := io.WriteString(c.NetConn(), "ping\n")
		if err == nil {
			_, err = bufio.NewReader(c.NetConn()).ReadString('\n')
		}
		if err != nil {
			return pooly.Retry(err)
		}
		host = c.Address()
		return c.Release(nil, pooly.LatencyScore(time.Since(sent), target))
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took = append(w.took, time.Since(began))
	if err != nil {
		w.failed++
		return
	}
	for i, s := range w.servers {
		if s.address == host {
			w.served[i]++
		}
	}
}

// sample is what happened since the last, and how things are.
type sample struct {
	hosts    []hostSample
	failed   int
	took     []time.Duration
	strategy string
	rate     int
	events   []string // the newest last
}

type hostSample struct {
	served int
	mood   mood
	mean   time.Duration // how long it takes for a request, when it is not busy
	stats  pooly.HostStats
}

func (w *world) sample() sample {
	stats := w.service.Stats()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := sample{failed: w.failed, took: w.took, strategy: w.strategy.String(), rate: int(w.rate.Load()), events: w.events.recent()}
	for i, server := range w.servers {
		h := hostSample{served: w.served[i], mood: server.mood(), mean: server.meanNow()}
		if at := slices.IndexFunc(stats.Hosts, func(h pooly.HostStats) bool { return h.Address == server.address }); at >= 0 {
			h.stats = stats.Hosts[at]
		}
		s.hosts = append(s.hosts, h)
	}
	w.failed, w.took, w.served = 0, nil, make([]int, len(w.servers))
	return s
}

func (w *world) set(host int, m mood)  { w.servers[host].set(m) }
func (w *world) nextStrategy(step int) { w.strategy.next(step) }

func (w *world) changeRate(by int) {
	w.rate.Store(max(100, min(maxRate, w.rate.Load()+int64(by))))
}

// switchable is a strategy that can be exchanged for another, which then has the same scores.
type switchable struct {
	all []pooly.Bandit
	now atomic.Int64
}

func newSwitchable(all []pooly.Bandit) *switchable { return &switchable{all: all} }

func (s *switchable) current() pooly.Bandit                   { return s.all[s.now.Load()] }
func (s *switchable) NewPicker(arms []pooly.Arm) pooly.Picker { return s.current().NewPicker(arms) }
func (s *switchable) String() string                          { return fmt.Sprint(s.current()) }

func (s *switchable) next(step int) {
	n := int64(len(s.all))
	s.now.Store((s.now.Load() + int64(step) + n) % n)
}

// server is a host: it answers each line, after a while.
type server struct {
	address string        // immutable
	mean    time.Duration // immutable
	slots   chan struct{} // holds one for each request that is served
	serving sync.WaitGroup

	mu       sync.Mutex // guards the fields below
	is       mood
	listener net.Listener
	conns    map[net.Conn]struct{}
}

func (s *server) accept(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener, s.conns = l, make(map[net.Conn]struct{})
	s.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.listener != l {
				s.mu.Unlock()
				_ = c.Close()
				return
			}
			s.conns[c] = struct{}{}
			s.serving.Go(func() { s.serve(c) })
			s.mu.Unlock()
		}
	})
}

func (s *server) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener != nil {
		_ = s.listener.Close()
		s.listener = nil
	}
	for c := range s.conns {
		_ = c.Close()
	}
}

func (s *server) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	for r := bufio.NewReader(c); ; {
		if _, err := r.ReadString('\n'); err != nil {
			return
		}
		s.slots <- struct{}{}
		time.Sleep(time.Duration(rand.ExpFloat64() * float64(s.meanNow())))
		<-s.slots
		if _, err := io.WriteString(c, "pong\n"); err != nil {
			return
		}
	}
}

func (s *server) mood() mood {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.is
}

// meanNow returns the mean time in which the server serves a request in its present mood.
func (s *server) meanNow() time.Duration {
	if s.mood() == slow {
		return s.mean * slowdown
	}
	return s.mean
}

func (s *server) set(m mood) {
	s.mu.Lock()
	was := s.is
	s.is = m
	s.mu.Unlock()
	switch {
	case m == broken:
		s.refuse()
	case was == broken:
		l, err := net.Listen("tcp", s.address)
		if err != nil { // someone took the port
			s.mu.Lock()
			s.is = broken
			s.mu.Unlock()
			return
		}
		s.accept(l)
	}
}

// events is the service's log, of which it keeps the last lines. They have to fit a narrow screen.
type events struct {
	hostOf func(address string) string // what the screen calls the host; immutable

	mu    sync.Mutex // guards the fields below
	lines []string
}

const eventsKept = 3

func (e *events) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (e *events) WithAttrs([]slog.Attr) slog.Handler               { return e }
func (e *events) WithGroup(string) slog.Handler                    { return e }

func (e *events) Handle(_ context.Context, r slog.Record) error {
	line := r.Time.Format("15:04:05 ") + strings.TrimPrefix(r.Message, "pooly: ")
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "service": // there is only one
		case "address":
			line += " " + e.hostOf(a.Value.String())
		case "cause":
			line += fmt.Sprintf(": %v", a.Value)
		default:
			line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
		return true
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lines = append(e.lines[max(0, len(e.lines)-eventsKept+1):len(e.lines):len(e.lines)], line)
	return nil
}

func (e *events) recent() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lines
}
