// Package docs keeps the code of the guide compiling.
package docs

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/debug"
	"github.com/3XX0/pooly/dns"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// The code of README.md and of the pages here. Code with other libraries is in the modules that need them.

var (
	ask     func(net.Conn, string) (string, error)
	use     func(string)
	request func(net.Conn) error
	fetch   func(context.Context) ([]string, error)
)

func do(ctx context.Context, s *pooly.Service, request string) error {
	err := s.Do(ctx, func(c *pooly.Conn) error {
		reply, err := ask(c.NetConn(), request)
		if err != nil {
			return pooly.Retry(err) // an idempotent request: once more, on another host
		}
		use(reply)
		return nil
	})
	return err
}

func overTLS(pool *x509.CertPool) pooly.Driver {
	d := pooly.NewNetDriver("tcp")
	d.SetTLSConfig(&tls.Config{RootCAs: pool})
	return d
}

func overHTTP() (*http.Response, error) {
	s := pooly.NewService("api", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
	})
	s.SetHosts("10.0.0.1:8080", "10.0.0.2:8080")
	client := &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: time.Second}
	resp, err := client.Get("http://api/path")
	return resp, err
}

func hedged(s *pooly.Service) http.RoundTripper {
	transport := poolyhttp.NewTransport(s, &poolyhttp.Options{Hedge: poolyhttp.HedgeAtP95})
	return transport
}

func page(mux *http.ServeMux, orders, users *pooly.Service) {
	mux.Handle("/debug/pooly", debug.Handler(orders, users)) // not on a public listener
}

func follow(ctx context.Context, s *pooly.Service) error {
	err := s.Follow(ctx, dns.NewSRV("redis", "tcp", "example.com", nil)) // returns with the first answer
	return err
}

func ownResolver() pooly.Resolver {
	lists := pooly.ResolverFunc(func(ctx context.Context) iter.Seq2[[]string, error] {
		return func(yield func([]string, error) bool) {
			for yield(fetch(ctx)) { // the addresses of all hosts, or an error
				select {
				case <-time.After(time.Minute):
				case <-ctx.Done():
					return
				}
			}
		}
	})
	return lists
}

func options() *pooly.NetDriver {
	tcp := pooly.NewNetDriver("tcp")
	dialer := &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) {
			const tcpUserTimeout = 18 // of Linux, in milliseconds
			failed = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, 20_000)
		})
		return errors.Join(err, failed)
	}}
	tcp.SetDialContext(dialer.DialContext)
	return tcp
}

type client struct {
	net.Conn
	r *bufio.Reader // must stay with its socket
}

func (c *client) ask(context.Context, string) (string, error) { return "", nil }

func newDriver() pooly.Driver {
	tcp := pooly.NewNetDriver("tcp")
	return pooly.DriverOf(pooly.DriverFuncs[*client]{
		Dial: func(ctx context.Context, address string) (*client, error) {
			c, err := tcp.Dial(ctx, address)
			if err != nil {
				return nil, err
			}
			return &client{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
		},
		Test: func(c *client) error {
			if n := c.r.Buffered(); n > 0 { // or the next caller would read it
				return fmt.Errorf("%d bytes of a reply that nobody read", n)
			}
			return nil
		},
	})
}

func dial(context.Context, string) (*client, error) { return nil, nil }

func own(ctx context.Context) (string, error) {
	driver := pooly.DriverOf(pooly.DriverFuncs[*client]{Dial: dial})
	s := pooly.NewService("mine", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: driver}})
	reply, err := pooly.CallWith(ctx, s, func(ctx context.Context, c *client) (string, error) {
		return c.ask(ctx, "question")
	})
	return reply, err
}

func configured() *pooly.Service {
	s := pooly.NewService("orders", &pooly.ServiceConfig{
		BanditStrategy: pooly.NewLeastLatency(), // default: round-robin
		StatsdAddr:     "127.0.0.1:8125",        // default: no metrics
		MaxHosts:       20,                      // default: all hosts
		CloseDeadline:  10 * time.Second,        // default: 30 s, how long Close waits for leases
		PoolConfig: pooly.PoolConfig{ // of each host
			Driver:          pooly.NewNetDriver("tcp"), // the default
			MaxConns:        50,                        // default: 30, for HTTP 10,000
			MaxConnLifetime: 10 * time.Minute,          // default: for ever
			WaitTimeout:     time.Second,               // default: as long as the context allows
		},
	})
	return s
}

type zone struct {
	pooly.Bandit
	near func(address string) bool
}

func (z zone) NewPicker(arms []pooly.Arm) pooly.Picker {
	var near []pooly.Arm
	var index []int // of each near host, in arms
	for i, a := range arms {
		if z.near(a.Address) {
			near, index = append(near, a), append(index, i)
		}
	}
	if len(near) < 2 { // the rest could not carry the traffic of all
		return z.Bandit.NewPicker(arms)
	}
	return zonePicker{z.Bandit.NewPicker(near), index}
}

type zonePicker struct {
	pooly.Picker
	index []int
}

func (p zonePicker) Pick(rng *rand.Rand) int { return p.index[p.Picker.Pick(rng)] } // math/rand/v2

var (
	setTenant func(ctx context.Context, c *pooly.Conn, tenant string) error
	tenantOf  func(context.Context) string
)

func tenants() pooly.Hooks {
	hooks := pooly.Hooks{ // of PoolConfig
		PrepareConn: func(ctx context.Context, c *pooly.Conn) (bool, error) {
			return true, setTenant(ctx, c, tenantOf(ctx))
		},
	}
	return hooks
}

type driver struct{ pooly.Driver }

func (d driver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(c), nil
}

func (c *client) ping(context.Context) error  { return nil }
func (c *client) ready(context.Context) error { return nil }

func pinging(dial func(ctx context.Context, address string) (*client, error)) pooly.Driver {
	d := pooly.DriverOf(pooly.DriverFuncs[*client]{
		Dial:  dial,
		Ping:  func(ctx context.Context, c *client) error { return c.ping(ctx) },
		Check: func(ctx context.Context, c *client) error { return c.ready(ctx) },
	})
	return d
}

type best struct{}

func (best) NewPicker(arms []pooly.Arm) pooly.Picker {
	b := 0
	for i, a := range arms {
		if a.Score > arms[b].Score {
			b = i
		}
	}
	return always(b)
}

type always int

func (i always) Pick(*rand.Rand) int { return int(i) }

func afterHostpool(ctx context.Context) error {
	s := pooly.NewService("redis", &pooly.ServiceConfig{BanditStrategy: pooly.NewEpsilonGreedy(0.1)})
	s.SetHosts("a:6379", "b:6379")

	err := s.Do(ctx, func(c *pooly.Conn) error {
		began := time.Now()
		err := request(c.NetConn())
		_ = c.Release(err, pooly.LatencyScore(time.Since(began), 10*time.Millisecond))
		return err
	})
	return err
}

var (
	_ = []any{page, tenants, pinging, do, overTLS, overHTTP, hedged, follow, ownResolver, options, afterHostpool, newDriver, own, configured}
	_ = pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: driver{}}, BanditStrategy: zone{Bandit: best{}}}
)

var goBlock = regexp.MustCompile("(?s)(<!-- not compiled[^\n]*-->\n)?```go\n(.*?)```")

// What the guide shows is what was compiled.
func TestTheGuidesCodeCompiles(t *testing.T) {
	requireCompiled(t, "GUIDE.md", 7, "guide_test.go", "../bench/guide_test.go",
		"../examples/clients/postgres/main.go", "../poolytest/example_test.go")
}

func TestTheCodeOfOtherPagesCompiles(t *testing.T) {
	requireCompiled(t, "METRICS.md", 5, "guide_test.go", "../prometheus/readme_test.go", "../otel/readme_test.go")
	requireCompiled(t, "SQL.md", 1, "../examples/clients/sql/readme_test.go")
	requireCompiled(t, "GRPC.md", 2, "../poolygrpc/readme_test.go")
}

func TestTheReadmesCodeCompiles(t *testing.T) {
	blocks := requireCompiled(t, "../README.md", 6, "guide_test.go",
		"../examples/clients/postgres/main.go", "../examples/clients/goredis/readme_test.go")
	require.Len(t, blocks, 1, "the README has one program")
	directory := t.TempDir()
	main := filepath.Join(directory, "main.go")
	require.NoError(t, os.WriteFile(main, []byte(blocks[0]), 0o600))
	output, err := exec.Command("go", "build", "-o", filepath.Join(directory, "main"), main).CombinedOutput()
	require.NoError(t, err, "%s", output)
}

// requireCompiled checks that the Go code of a page is in the given sources. It returns the programs, which
// need not be.
func requireCompiled(t *testing.T, page string, atLeast int, sources ...string) (programs []string) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	compiled, blocks := "", 0
	for _, file := range sources {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		compiled += flat(string(source))
	}
	for _, block := range goBlock.FindAllStringSubmatch(string(text), -1) {
		if block[1] != "" {
			continue
		}
		blocks++
		if strings.HasPrefix(block[2], "package main") {
			programs = append(programs, block[2])
			continue
		}
		// What empty lines separate may stand apart in the source.
		for _, piece := range strings.Split(block[2], "\n\n") {
			require.Contains(t, compiled, flat(piece), "in none of %v", sources)
		}
	}
	require.GreaterOrEqual(t, blocks, atLeast, "blocks of code were found")
	return programs
}

// flat returns the lines of code without their indentation and without empty ones.
func flat(code string) string {
	var lines []string
	for line := range strings.Lines(code) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
