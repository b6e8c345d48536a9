// Package docs keeps the code of the guide compiling.
package docs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/dns"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// The code of GUIDE.md. That with go-hostpool is in bench/guide_test.go, a module that needs it.

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

type driver struct{ pooly.Driver }

func (d driver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(c), nil
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
		c.Release(err, pooly.LatencyScore(time.Since(began), 10*time.Millisecond))
		return err
	})
	return err
}

var (
	_ = []any{do, overTLS, overHTTP, hedged, follow, ownResolver, options, afterHostpool}
	_ = pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: driver{}}, BanditStrategy: best{}}
)

var goBlock = regexp.MustCompile("(?s)(<!-- not compiled[^\n]*-->\n)?```go\n(.*?)```")

// What the guide shows is what was compiled.
func TestTheGuidesCodeCompiles(t *testing.T) {
	guide, err := os.ReadFile("GUIDE.md")
	require.NoError(t, err)
	compiled, blocks := "", 0
	for _, file := range []string{
		"guide_test.go", "../bench/guide_test.go", "../examples/clients/postgres/main.go",
	} {
		source, err := os.ReadFile(file)
		require.NoError(t, err)
		compiled += flat(string(source))
	}
	for _, block := range goBlock.FindAllStringSubmatch(string(guide), -1) {
		if block[1] != "" {
			continue
		}
		blocks++
		// Declarations may stand apart in the source, each in one piece.
		for _, piece := range strings.Split(block[2], "\n}\n\n") {
			require.Contains(t, compiled, flat(piece), "neither in guide_test.go nor in bench/guide_test.go")
		}
	}
	require.GreaterOrEqual(t, blocks, 7, "blocks of code were found")
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
