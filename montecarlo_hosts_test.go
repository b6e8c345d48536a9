//go:build montecarlo_simulation

package pooly_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A hostsDescription says what hosts that fill up are like, and what their clients do. Requests come
// at random times (Poisson). A host works on some of them at once, and the others wait in line
// there. It takes a log-normal time for one, divided by the host's strength.
//
// It is read from JSON, in which a field that is absent has its default.
type hostsDescription struct {
	Hosts        int       `json:"hosts"`
	Strengths    []float64 `json:"strengths"`    // of the hosts in turn; 1 is the mean strength
	FailureRates []float64 `json:"failureRates"` // share of requests that fail at once, of the hosts in turn
	Workers      int       `json:"workers"`      // requests that a host works on at once

	// How long a host of strength 1 works on a request.
	P50 milliseconds `json:"p50"`
	P99 milliseconds `json:"p99"`

	// So many hosts share their machines with an antagonist. It takes a share of their strength,
	// and comes and goes: it is away twice as long as it stays.
	Antagonists     int          `json:"antagonists"`
	AntagonistsTake float64      `json:"antagonistsTake"`
	AntagonistsStay milliseconds `json:"antagonistsStay"`
	Clients         int          `json:"clients"`  // processes with a Service each
	Loads           []float64    `json:"loads"`    // share of what the hosts can do, by all clients together
	Deadline        milliseconds `json:"deadline"` // of a request
	MaxConns        int          `json:"maxConns"` // 0: pooly's default
}

// milliseconds are written as a number.
type milliseconds float64

func (m milliseconds) duration() time.Duration {
	return time.Duration(float64(m) * float64(time.Millisecond))
}

// theHosts are those of the docs: 20 unequal hosts, eight with antagonists.
func theHosts() hostsDescription {
	return hostsDescription{
		Hosts:           20,
		Strengths:       []float64{0.5, 0.75, 1, 1.25, 1.5},
		FailureRates:    []float64{0},
		Workers:         4,
		P50:             14.5,
		P99:             93.4, // 20 ms in the mean
		Antagonists:     8,
		AntagonistsTake: 0.6,
		AntagonistsStay: 2000,
		Clients:         1,
		Loads:           []float64{0.70, 0.85, 0.95},
		Deadline:        2000,
	}
}

// sigma is that of the log-normal distribution of work.
func (d *hostsDescription) sigma() float64 {
	const quantile99 = 2.3263
	return math.Log(float64(d.P99/d.P50)) / quantile99
}

// work returns how long a host of strength 1 works on a request in the mean.
func (d *hostsDescription) work() time.Duration {
	return time.Duration(float64(d.P50.duration()) * math.Exp(d.sigma()*d.sigma()/2))
}

func (d *hostsDescription) strength(host int) float64 {
	return d.Strengths[host%len(d.Strengths)]
}

func (d *hostsDescription) failureRate(host int) float64 {
	return d.FailureRates[host%len(d.FailureRates)]
}

// capacity returns how many requests the hosts can do in a second in the mean.
func (d *hostsDescription) capacity() float64 {
	strength := 0.0
	for host := range d.Hosts {
		s := d.strength(host)
		if host < d.Antagonists {
			s *= 1 - d.AntagonistsTake/3
		}
		strength += s
	}
	return strength * float64(d.Workers) / d.work().Seconds()
}

// readHosts reads a description. Its errors name the field.
func readHosts(path string) (d hostsDescription, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return d, err
	}
	d = theHosts()
	d.Antagonists = 0
	in := json.NewDecoder(bytes.NewReader(data))
	in.DisallowUnknownFields()
	if err := in.Decode(&d); err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return d, fmt.Errorf("%s: something follows the description", path)
	}
	if err := d.check(); err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func (d *hostsDescription) check() error {
	for _, field := range []struct {
		name      string
		low, high float64
		values    []float64
	}{
		{"hosts", 1, 10_000, []float64{float64(d.Hosts)}},
		{"strengths", 0.001, 1000, d.Strengths},
		{"failureRates", 0, 1, d.FailureRates},
		{"workers", 1, 10_000, []float64{float64(d.Workers)}},
		{"p50", 0.001, 1e6, []float64{float64(d.P50)}},
		{"p99", float64(d.P50), 1e6, []float64{float64(d.P99)}},
		{"antagonists", 0, float64(d.Hosts), []float64{float64(d.Antagonists)}},
		{"antagonistsTake", 0, 0.99, []float64{d.AntagonistsTake}},
		{"antagonistsStay", 1, 1e6, []float64{float64(d.AntagonistsStay)}},
		{"clients", 1, 10_000, []float64{float64(d.Clients)}},
		{"loads", 0.01, 2, d.Loads},
		{"clients × hosts", 1, 100_000, []float64{float64(d.Clients * d.Hosts)}},
		{"deadline", float64(d.P50), 1e6, []float64{float64(d.Deadline)}},
		{"maxConns", 0, 1 << 20, []float64{float64(d.MaxConns)}},
	} {
		if len(field.values) == 0 {
			return fmt.Errorf("%s is empty", field.name)
		}
		for _, v := range field.values {
			if !(v >= field.low && v <= field.high) {
				return fmt.Errorf("%s: %v is not within %v and %v", field.name, v, field.low, field.high)
			}
		}
	}
	return nil
}

// A trace is what happens to the hosts in one run, whoever dispatches the requests.
type trace struct {
	requests []arrival
	changes  []change
}

// An arrival is a request.
type arrival struct {
	at     time.Duration
	work   time.Duration // on a host of strength 1
	luck   float64       // in [0, 1): it fails where the failure rate is above
	client int
}

// A change is an antagonist that comes or goes.
type change struct {
	at   time.Duration
	host int
}

// trace draws what happens from 0 to length.
func (d *hostsDescription) trace(load float64, clients int, length time.Duration, seed uint64) *trace {
	w := new(trace)
	rng := rand.New(rand.NewPCG(seed, 2))
	sigma, gap := d.sigma(), float64(time.Second)/(load*d.capacity())
	for at := 0.0; ; {
		at += rng.ExpFloat64() * gap
		if at >= float64(length) {
			break
		}
		w.requests = append(w.requests, arrival{
			at:     time.Duration(at),
			work:   time.Duration(float64(d.P50.duration()) * math.Exp(sigma*rng.NormFloat64())),
			luck:   rng.Float64(),
			client: int(rng.Float64() * float64(clients)),
		})
	}
	rng = rand.New(rand.NewPCG(seed, 3)) // so that load and clients change nothing of the antagonists
	for host := range d.Antagonists {
		stay, present := float64(d.AntagonistsStay.duration()), rng.IntN(3) == 0
		if present {
			w.changes = append(w.changes, change{0, host})
		}
		for at := 0.0; ; present = !present {
			mean := 2 * stay
			if present {
				mean = stay
			}
			at += rng.ExpFloat64() * mean
			if at >= float64(length) {
				break
			}
			w.changes = append(w.changes, change{time.Duration(at), host})
		}
	}
	sortChanges(w.changes)
	return w
}

// TestMonteCarloHosts prints the table of the docs for the hosts that -hosts describes, and what to
// choose for them.
func TestMonteCarloHosts(t *testing.T) {
	if *hosts == "" {
		t.Skip("without -hosts")
	}
	d, err := readHosts(*hosts)
	require.NoError(t, err)
	for _, load := range d.Loads {
		report("\n%s: %d hosts at %.0f %% load (%.0f requests a second), %d clients", *hosts,
			d.Hosts, 100*load, load*d.capacity(), d.Clients)
		c := compare(t, d, load, contenders, references)
		c.print(contenders, references)
		report("  choose %s: the cheapest within 5 %% of the best, in so many of 1,000 resamplings of %d runs",
			c.advice(contenders), *runs)
	}
}

// TestMonteCarloHostsDescription says what is wrong with a file, and reads the one of the docs.
func TestMonteCarloHostsDescription(t *testing.T) {
	d, err := readHosts("docs/simulations/hosts.json")
	require.NoError(t, err)
	want := theHosts()
	want.Clients, want.Loads, want.MaxConns = 10, []float64{0.85}, pooly.DefaultMaxConns
	require.Equal(t, want, d)
	for text, message := range map[string]string{
		`{"host": 3}`:            `unknown field "host"`,
		`{"hosts": 0}`:           "hosts: 0 is not within 1 and 10000",
		`{"p50": 10, "p99": 5}`:  "p99: 5 is not within 10",
		`{"loads": []}`:          "loads is empty",
		`{"failureRates": [2]}`:  "failureRates: 2 is not within 0 and 1",
		`{"clients": 1} trailer`: "something follows",
		`{"hosts": "three"}`:     "cannot unmarshal string",
	} {
		path := filepath.Join(t.TempDir(), "hosts.json")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := readHosts(path)
		require.ErrorContains(t, err, message)
		require.ErrorContains(t, err, path)
	}
}
