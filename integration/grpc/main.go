// Command grpc compares poolygrpc with gRPC-Go's own policies, over real servers on loopback:
//
//	go -C integration/grpc run .
//
// It has two experiments. In "mixed", one of five servers is slow, one fails fast for a while, and
// one is killed and started again. In "brownout", all five become eight times as slow for a while.
// It prints a table of each for docs/GRPC.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/3XX0/pooly/poolygrpc"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/leastrequest"
	_ "google.golang.org/grpc/balancer/weightedroundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds" // registers outlier_detection_experimental
)

// policies are compared, each with its configuration.
var policies = []struct{ name, config string }{
	{"round_robin", `{"round_robin":{}}`},
	{"weighted_round_robin",
		`{"weighted_round_robin":{"blackoutPeriod":"1s","weightUpdatePeriod":"0.1s"}}`},
	{"least_request", `{"least_request_experimental":{}}`},
	{"outlier_detection of round_robin", outliers("10s", "30s", `{"round_robin":{}}`)},
	{"outlier_detection of least_request",
		outliers("10s", "30s", `{"least_request_experimental":{}}`)},
	{"the same, each second", outliers("1s", "5s", `{"least_request_experimental":{}}`)},
	{"**pooly**, round_robin", `{"pooly":{"strategy":"round_robin"}}`},
	{"**pooly**, power_of_two", `{"pooly":{"strategy":"power_of_two"}}`},
	{"**pooly**, hot_cold", `{"pooly":{"strategy":"hot_cold"}}`},
	{"**pooly**, peak_ewma", `{"pooly":{"strategy":"peak_ewma"}}`},
	{"**pooly**, least_latency, the default", `{"pooly":{}}`},
}

// outliers is a configuration of outlier_detection with both of its rules, as gRFC A50 recommends
// them, but with a volume that this experiment has.
func outliers(interval, ejection, child string) string {
	return fmt.Sprintf(`{"outlier_detection_experimental":{"interval":%q,"baseEjectionTime":%q,
		"maxEjectionPercent":50,"successRateEjection":{"minimumHosts":3,"requestVolume":10},
		"failurePercentageEjection":{"minimumHosts":3,"requestVolume":10},"childPolicy":[%s]}}`,
		interval, ejection, child)
}

func main() {
	only := flag.String("run", "", "only the experiment of this name")
	match := flag.String("policy", "", "only policies whose names contain this")
	rounds := flag.Int("rounds", 1, "how often each policy has its turn")
	scale := flag.Float64("scale", 1, "stretches the time of the experiments")
	retries := flag.Bool("retries", false, "with gRPC's retry policy for UNAVAILABLE")
	flag.Parse()
	for _, e := range []experiment{mixed, brownout} {
		if *only != "" && e.name != *only {
			continue
		}
		fmt.Printf("\n%s\n\n%s\n", e.name, e.head)
		results := make([]result, len(policies))
		for round := range *rounds {
			for i, p := range policies {
				if !strings.Contains(p.name, *match) {
					continue
				}
				if err := e.run(&results[i], p.config, *scale, *retries); err != nil {
					fmt.Fprintln(os.Stderr, p.name, err)
					os.Exit(1)
				}
				if round == *rounds-1 {
					fmt.Printf("| %s | %s |\n", p.name, e.row(&results[i], float64(*rounds)))
				}
			}
		}
	}
}

// experiment is a course of events, and what is shown of it.
type experiment struct {
	name     string
	head     string
	rate     float64 // calls a second, a Poisson process
	deadline time.Duration
	servers  func() []*server
	events   []event
	length   time.Duration
	row      func(r *result, rounds float64) string
}

type event struct {
	at time.Duration
	do func([]*server) error
}

// mixed: five servers with eight workers, which take 5 ms a call on average. Server 0 takes 50 ms,
// server 1 fails at once from 3 to 23 s, server 2 is killed at 25 s and back at 26 s.
var mixed = experiment{
	name: "mixed",
	head: "| policy | p50 | p99 | calls failed | while one server fails fast | while one restarts | " +
		"slow server's share | failing server's share |\n" +
		"| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
	rate:     500,
	deadline: time.Second,
	servers: func() (all []*server) {
		for i := range 5 {
			s := newServer(8, 5*time.Millisecond)
			if i == 0 {
				s.mean.Store(int64(50 * time.Millisecond))
			}
			all = append(all, s)
		}
		return all
	},
	events: []event{
		{3 * time.Second, func(s []*server) error { s[1].failing.Store(true); return nil }},
		{23 * time.Second, func(s []*server) error { s[1].failing.Store(false); return nil }},
		{25 * time.Second, func(s []*server) error { s[2].stop(); return nil }},
		{26 * time.Second, func(s []*server) error { return s[2].start() }},
	},
	length: 28 * time.Second,
	row: func(r *result, _ float64) string {
		all := r.between(0, time.Hour)
		fast := r.between(3*time.Second, 23*time.Second)
		restart := r.between(24900*time.Millisecond, time.Hour)
		return fmt.Sprintf("%v | %v | %.2f %% | %d | %d | %.1f %% | %.1f %%",
			all.quantile(0.5), all.quantile(0.99), 100*all.failing(), fast.failed(), restart.failed(),
			100*all.share(0), 100*fast.share(1))
	},
}

// brownout: five servers with two workers, which take 10 ms a call on average, and from 3 to 7 s
// 80 ms.
var brownout = experiment{
	name: "brownout",
	head: "| policy | succeed before | during | of what the servers can do | " +
		"two seconds later | p99 then |\n" +
		"| --- | ---: | ---: | ---: | ---: | ---: |",
	rate:     700,
	deadline: 300 * time.Millisecond,
	servers: func() (all []*server) {
		for range 5 {
			all = append(all, newServer(2, 10*time.Millisecond))
		}
		return all
	},
	events: []event{
		{3 * time.Second, func(s []*server) error { return slow(s, 80*time.Millisecond) }},
		{7 * time.Second, func(s []*server) error { return slow(s, 10*time.Millisecond) }},
	},
	length: 12 * time.Second,
	row: func(r *result, rounds float64) string {
		before := r.between(time.Second, 3*time.Second)
		during := r.between(3*time.Second, 7*time.Second)
		after := r.between(9*time.Second, time.Hour)
		possible := rounds * 5 * 2 * 4 / 0.08 // servers, workers, seconds, seconds a call
		ok := float64(len(during) - during.failed())
		return fmt.Sprintf("%.1f %% | %.1f %% | %.0f %% | %.1f %% | %v",
			100-100*before.failing(), 100-100*during.failing(), 100*ok/possible,
			100-100*after.failing(), after.quantile(0.99))
	},
}

func slow(servers []*server, mean time.Duration) error {
	for _, s := range servers {
		s.mean.Store(int64(mean))
	}
	return nil
}

// run runs the experiment once over a policy.
func (e experiment) run(r *result, config string, scale float64, retries bool) error {
	servers := e.servers()
	scheme := manual.NewBuilderWithScheme("compare")
	var state resolver.State
	for i, s := range servers {
		s.index = i
		if err := s.start(); err != nil {
			return err
		}
		defer s.stop()
		state.Endpoints = append(state.Endpoints,
			resolver.Endpoint{Addresses: []resolver.Address{{Addr: s.address}}})
	}
	scheme.InitialState(state)
	method := ""
	if retries {
		method = `, "methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.005s",
			"maxBackoff":"0.05s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]`
	}
	conn, err := grpc.NewClient("compare:///servers", grpc.WithResolvers(scheme),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[`+config+`]`+method+`}`))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := grpc_testing.NewTestServiceClient(conn)
	for range 50 { // until all are connected
		_, err := client.UnaryCall(context.Background(), &grpc_testing.SimpleRequest{},
			grpc.WaitForReady(true))
		if err != nil {
			return err
		}
	}
	began := time.Now()
	var events sync.WaitGroup
	var failure atomic.Pointer[error]
	events.Go(func() {
		for _, event := range e.events {
			time.Sleep(time.Until(began.Add(time.Duration(scale * float64(event.at)))))
			if err := event.do(servers); err != nil {
				failure.Store(&err)
			}
		}
	})
	var calls sync.WaitGroup
	length := time.Duration(scale * float64(e.length))
	for next := time.Duration(0); next < length; {
		time.Sleep(time.Until(began.Add(next)))
		calls.Go(func() { r.add(call(client, began, next, e.deadline, scale)) })
		next += time.Duration(rand.ExpFloat64() / e.rate * float64(time.Second))
	}
	calls.Wait()
	events.Wait()
	if err := failure.Load(); err != nil {
		return *err
	}
	return nil
}

// call makes one call. Its latency is counted from when it was due.
func call(
	client grpc_testing.TestServiceClient, began time.Time, due, deadline time.Duration, scale float64,
) sample {
	ctx, cancel := context.WithDeadline(context.Background(), began.Add(due+deadline))
	defer cancel()
	var by serverID
	_, err := client.UnaryCall(ctx, &grpc_testing.SimpleRequest{},
		grpc.Header(&by.header), grpc.Trailer(&by.trailer))
	return sample{
		at:     time.Duration(float64(due) / scale),
		took:   time.Since(began) - due,
		code:   status.Code(err),
		server: by.index(),
	}
}

// sample is one call.
type sample struct {
	at, took time.Duration
	code     codes.Code
	server   int // that answered; -1: none did
}

type samples []sample

type result struct {
	mu  sync.Mutex
	all samples
}

func (r *result) add(s sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, s)
}

// between returns the calls that were due in a time.
func (r *result) between(from, to time.Duration) (some samples) {
	for _, s := range r.all {
		if s.at >= from && s.at < to {
			some = append(some, s)
		}
	}
	return some
}

func (s samples) failed() (n int) {
	for _, one := range s {
		if one.code != codes.OK {
			n++
		}
	}
	return n
}

func (s samples) failing() float64 {
	return float64(s.failed()) / float64(max(1, len(s)))
}

// share returns the part of the calls that a server answered.
func (s samples) share(server int) float64 {
	n := 0
	for _, one := range s {
		if one.server == server {
			n++
		}
	}
	return float64(n) / float64(max(1, len(s)))
}

// quantile is of the calls that succeeded.
func (s samples) quantile(q float64) time.Duration {
	var took []time.Duration
	for _, one := range s {
		if one.code == codes.OK {
			took = append(took, one.took)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	d := took[int(q*float64(len(took)-1))]
	if d < 100*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
