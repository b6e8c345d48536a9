package poolyhttp_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// webServer serves until the test ends, and returns its address.
func webServer(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// webService returns a client whose requests go to the given hosts. The service is closed when the test ends, before
// the servers are.
func webService(t *testing.T, d *poolyhttp.Driver, config pooly.ServiceConfig, addresses ...string) (*http.Client, *pooly.Service) {
	t.Helper()
	config.Driver = d
	if config.PrespawnConns == 0 {
		config.PrespawnConns = -1
	}
	config.DecayDuration = 100 * time.Hour // so that a test ends in the slot in which it began
	s := pooly.NewService("web", &config)
	t.Cleanup(func() { _ = s.Close() })
	s.SetHosts(addresses...)
	return &http.Client{Transport: poolyhttp.NewTransport(s, &poolyhttp.Options{Hosts: []string{"x", "api.internal", "web.internal"}})}, s
}

func http1() *poolyhttp.Driver { return poolyhttp.NewDriver("http", nil) }

// http2 returns the address of a server that speaks HTTP/2, and a driver for it.
func http2(t *testing.T, handler http.HandlerFunc) (address string, d *poolyhttp.Driver, accepted *atomic.Int32) {
	t.Helper()
	accepted = new(atomic.Int32)
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			accepted.Add(1)
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	return server.Listener.Addr().String(), poolyhttp.NewDriver("https", &http.Transport{
		ForceAttemptHTTP2: true,
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "example.com"},
	}), accepted
}

// fetch makes a request and returns the status and the body.
func fetch(client *http.Client, method, url string, body io.Reader) (int, string, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestHTTPBalancesEachRequestOverKeptConnections(t *testing.T) {
	var mu sync.Mutex
	conns, requests := map[string]bool{}, map[string]int{}
	handler := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		conns[r.RemoteAddr] = true
		requests[r.Context().Value(http.LocalAddrContextKey).(net.Addr).String()]++
		mu.Unlock()
		fmt.Fprintf(w, "%s %s", r.Host, r.URL.Path)
	}
	client, s := webService(t, http1(), pooly.ServiceConfig{}, webServer(t, handler), webServer(t, handler))
	for range 20 {
		status, body, err := fetch(client, "GET", "http://api.internal/path", nil)
		require.NoError(t, err)
		require.Equal(t, 200, status)
		require.Equal(t, "api.internal /path", body)
	}
	require.Len(t, conns, 2, "kept alive")
	for _, n := range requests {
		require.Equal(t, 10, n, "round-robin")
	}
	require.Zero(t, s.Stats().InUse)
	require.Equal(t, 2, s.Stats().Idle)
}

func TestHTTPConnectionReturnsWhenTheBodyIsReadOrClosed(t *testing.T) {
	h1 := webServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	h2, d2, _ := http2(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) })
	for _, tt := range []struct {
		name, scheme, address string
		driver                *poolyhttp.Driver
		end                   func(io.ReadCloser)
		kept                  int
	}{
		{"read", "http", h1, http1(), func(b io.ReadCloser) { _, _ = io.Copy(io.Discard, b) }, 1},
		{"read by single bytes", "http", h1, http1(),
			func(b io.ReadCloser) { _, _ = io.Copy(io.Discard, iotest.OneByteReader(bufio.NewReader(b))) }, 1},
		{"closed", "http", h1, http1(), func(b io.ReadCloser) { _ = b.Close() }, 0},
		{"read over HTTP/2", "https", h2, d2, func(b io.ReadCloser) { _, _ = io.Copy(io.Discard, b) }, 1},
		{"closed over HTTP/2", "https", h2, d2, func(b io.ReadCloser) { _ = b.Close() }, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, s := webService(t, tt.driver, pooly.ServiceConfig{}, tt.address)
			resp, err := client.Get(tt.scheme + "://x/")
			require.NoError(t, err)
			_, err = io.ReadFull(resp.Body, make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 1, s.Stats().InUse)
			tt.end(resp.Body)
			require.Zero(t, s.Stats().InUse)
			eventually(t, func() bool { return s.Stats().Open == tt.kept })
			require.NoError(t, resp.Body.Close())
			require.NoError(t, resp.Body.Close())
			require.EqualValues(t, 1, s.Stats().Puts)
			_, trials := mean(t, s, tt.address)
			require.LessOrEqual(t, trials, 1.0)
			require.NoError(t, s.Close())
		})
	}
}

func TestHTTPRatesTheHostByItsAnswers(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/500":
			w.WriteHeader(500)
		case "/404":
			w.WriteHeader(404)
		case "/429":
			w.WriteHeader(429)
		case "/hangs":
			<-r.Context().Done()
		case "/breaks":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("half"))
		case "/dies":
			panic(http.ErrAbortHandler)
		}
	})
	noRead := func() io.Reader { return iotest.ErrReader(errFatal) }
	for _, tt := range []struct {
		name          string
		do            func(client *http.Client) error
		fails         bool
		score, trials float64
	}{
		{"ok", func(c *http.Client) error { _, _, err := fetch(c, "GET", "http://x/", nil); return err }, false, 1, 1},
		{"a client's error", func(c *http.Client) error { _, _, err := fetch(c, "GET", "http://x/404", nil); return err }, false, 0.5, 1},
		{"a host that has too much to do", func(c *http.Client) error { _, _, err := fetch(c, "GET", "http://x/429", nil); return err }, false, 0, 1},
		{"a server's error", func(c *http.Client) error { _, _, err := fetch(c, "GET", "http://x/500", nil); return err }, false, 0, 1},
		{"no answer in time", func(c *http.Client) error {
			c.Timeout = 20 * time.Millisecond
			_, _, err := fetch(c, "GET", "http://x/hangs", nil)
			return err
		}, true, 0, 1},
		{"a client that cancels", func(c *http.Client) error {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(20*time.Millisecond, cancel)
			req, _ := http.NewRequestWithContext(ctx, "GET", "http://x/hangs", nil)
			_, err := c.Do(req)
			return err
		}, true, 0.5, 0},
		{"an answer that breaks off", func(c *http.Client) error { _, _, err := fetch(c, "GET", "http://x/breaks", nil); return err }, true, 0, 1},
		{"a connection that dies", func(c *http.Client) error { _, _, err := fetch(c, "POST", "http://x/dies", nil); return err }, true, 0, 1},
		{"a request that cannot be read", func(c *http.Client) error { _, _, err := fetch(c, "POST", "http://x/", noRead()); return err }, true, 0.5, 0},
		{"a malformed request", func(c *http.Client) error {
			req, _ := http.NewRequest("GET", "http://x/", nil)
			req.Header["bad header"] = []string{"\n"}
			_, err := c.Transport.RoundTrip(req)
			return err
		}, true, 0.5, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
			err := tt.do(client)
			require.Equal(t, tt.fails, err != nil, "%v", err)
			require.Zero(t, s.Stats().InUse)
			score, trials := mean(t, s, address)
			require.InDelta(t, tt.trials, trials, 1e-9)
			require.InDelta(t, tt.score, score, 1e-9)
			require.NoError(t, s.Close())
		})
	}
}

func TestHTTPRuleIsReplaceable(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(418) })
	_, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	var seen poolyhttp.Exchange
	rule := func(e poolyhttp.Exchange) float64 { seen = e; return 0.3 }
	client := &http.Client{Transport: poolyhttp.NewTransport(s, &poolyhttp.Options{Score: rule, Hosts: []string{"x"}})}
	_, _, err := fetch(client, "GET", "http://x/", nil)
	require.NoError(t, err)
	require.Equal(t, 418, seen.Response.StatusCode)
	require.Equal(t, "/", seen.Request.URL.Path)
	require.Positive(t, seen.Elapsed)
	score, _ := mean(t, s, address)
	require.InDelta(t, 0.3, score, 1e-9)
	rule = func(poolyhttp.Exchange) float64 { panic("no") }
	client = &http.Client{Transport: poolyhttp.NewTransport(s, &poolyhttp.Options{Score: rule, Hosts: []string{"x"}})}
	_, _, err = fetch(client, "GET", "http://x/", nil)
	require.NoError(t, err)
	require.Zero(t, s.Stats().InUse)

	rule = poolyhttp.Score(10 * time.Millisecond)
	fast := poolyhttp.Exchange{Response: &http.Response{StatusCode: 200}, Elapsed: time.Millisecond}
	slow := fast
	slow.Elapsed = time.Second
	require.Greater(t, rule(fast), rule(slow))
	require.Equal(t, pooly.LatencyScore(time.Second, 10*time.Millisecond), rule(slow))
	require.Zero(t, rule(poolyhttp.Exchange{Err: errFatal}))
}

// dying accepts connections, reads a request and hangs up.
func dying(requests *atomic.Int32) func(net.Conn) {
	return func(c net.Conn) {
		if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.Copy(io.Discard, req.Body)
			requests.Add(1)
		}
	}
}

func TestHTTPSendsAgainToAnotherHostIfThatIsSafe(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		body         func() io.Reader
		key          bool
		again        bool
	}{
		{"GET", "GET", nil, false, true},
		{"HEAD", "HEAD", nil, false, true},
		{"POST", "POST", func() io.Reader { return strings.NewReader("body") }, false, false},
		{"POST with a key", "POST", func() io.Reader { return strings.NewReader("body") }, true, true},
		{"a body that cannot be had again", "POST", func() io.Reader { return iotest.HalfReader(strings.NewReader("body")) }, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var died, served atomic.Int32
			bad := listen(t, dying(&died))
			good := webServer(t, func(w http.ResponseWriter, r *http.Request) {
				served.Add(1)
				body, _ := io.ReadAll(r.Body)
				_, _ = w.Write(body)
			})
			client, s := webService(t, http1(), pooly.ServiceConfig{BanditStrategy: stubborn{}}, bad, good)
			var body io.Reader
			want := ""
			if tt.body != nil {
				body, want = tt.body(), "body"
			}
			req, err := http.NewRequest(tt.method, "http://x/", body)
			require.NoError(t, err)
			if tt.key {
				req.Header.Set("Idempotency-Key", "1")
			}
			resp, err := client.Do(req)
			require.EqualValues(t, 1, died.Load())
			if !tt.again {
				require.Error(t, err)
				require.Zero(t, served.Load())
				require.Zero(t, s.Stats().InUse)
				return
			}
			require.NoError(t, err)
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
			require.EqualValues(t, 1, served.Load())
			require.Same(t, req, resp.Request)
		})
	}
}

func TestHTTPSendsAgainOnlyOnce(t *testing.T) {
	var died atomic.Int32
	serve := dying(&died)
	client, s := webService(t, http1(), pooly.ServiceConfig{}, listen(t, serve), listen(t, serve), listen(t, serve))
	_, _, err := fetch(client, "GET", "http://x/", nil)
	require.Error(t, err)
	require.EqualValues(t, 2, died.Load())
	require.Zero(t, s.Stats().InUse)
}

func TestHTTPBodiesStreamBothWays(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.WriteHeader(200)
		_ = rc.Flush()
		buf := make([]byte, 32<<10)
		for {
			n, err := r.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = rc.Flush()
			if err != nil {
				return
			}
		}
	})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	for name, reader := range map[string]io.Reader{
		"whole":    bytes.NewReader(content),
		"halves":   iotest.HalfReader(bytes.NewReader(content)),
		"bytes":    iotest.OneByteReader(bytes.NewReader(content[:1<<10])),
		"data+err": iotest.DataErrReader(bytes.NewReader(content)),
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := client.Post("http://x/", "", reader)
			require.NoError(t, err)
			want := content
			if name == "bytes" {
				want = content[:1<<10]
			}
			require.NoError(t, iotest.TestReader(resp.Body, want))
			require.NoError(t, resp.Body.Close())
			require.Zero(t, s.Stats().InUse)
		})
	}
}

func TestHTTP2SharesOneConnection(t *testing.T) {
	block := make(chan struct{})
	var inFlight atomic.Int32
	address, d, accepted := http2(t, func(w http.ResponseWriter, r *http.Request) {
		inFlight.Add(1)
		defer inFlight.Add(-1)
		select {
		case <-block:
		case <-r.Context().Done():
		}
		fmt.Fprint(w, r.Proto)
	})
	client, s := webService(t, d, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 20}}, address)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, body, err := fetch(client, "GET", "https://x/", nil)
			if err != nil || body != "HTTP/2.0" {
				t.Errorf("%q %v", body, err)
			}
		})
	}
	eventually(t, func() bool { return inFlight.Load() == 20 })
	require.EqualValues(t, 1, accepted.Load())
	require.Equal(t, 20, s.Stats().InUse)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://x/", nil)
	require.NoError(t, err)
	_, err = client.Do(req)
	require.ErrorIs(t, err, context.DeadlineExceeded, "MaxConns bounds the requests in flight")
	close(block)
	wg.Wait()
	require.Zero(t, s.Stats().InUse)
	require.NoError(t, s.Close())
}

func TestHTTP2CancelledRequestLeavesTheOthersAlone(t *testing.T) {
	address, d, accepted := http2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hangs" {
			<-r.Context().Done()
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	client, s := webService(t, d, pooly.ServiceConfig{}, address)
	for range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", "https://x/hangs", nil)
		require.NoError(t, err)
		time.AfterFunc(5*time.Millisecond, cancel)
		_, err = client.Do(req)
		require.ErrorIs(t, err, context.Canceled)
		_, body, err := fetch(client, "POST", "https://x/", strings.NewReader("works"))
		require.NoError(t, err)
		require.Equal(t, "works", body)
	}
	require.EqualValues(t, 1, accepted.Load())
	require.Zero(t, s.Stats().InUse)
	score, _ := mean(t, s, address)
	require.InDelta(t, 1, score, 1e-9)
}

func TestHTTPUpgradedConnectionIsTheClients(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	req, err := http.NewRequest("GET", "http://x/", nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "echo")
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.Equal(t, 101, resp.StatusCode)
	rw := resp.Body.(io.ReadWriteCloser)
	require.Implements(t, (*interface{ CloseWrite() error })(nil), rw, "httputil.ReverseProxy uses it")
	_, err = rw.Write([]byte("ping"))
	require.NoError(t, err)
	got := make([]byte, 4)
	_, err = io.ReadFull(rw, got)
	require.NoError(t, err)
	require.Equal(t, "ping", string(got))
	require.Equal(t, 1, s.Stats().InUse)
	require.NoError(t, rw.Close())
	eventually(t, func() bool { return s.Stats().Open == 0 })
}

func TestHTTPErrorsAreThoseOfGetConn(t *testing.T) {
	client, _ := webService(t, http1(), pooly.ServiceConfig{GetAttempts: 1}, closedPort(t))
	closed := new(closeSpy)
	_, _, err := fetch(client, "POST", "http://x/", closed)
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.True(t, closed.closed, "the request's body")

	s := pooly.NewService("net", nil)
	t.Cleanup(func() { _ = s.Close() })
	s.Add(listen(t, func(net.Conn) {}))
	require.PanicsWithError(t, `pooly: invalid argument: NewTransport: service net has a *pooly.NetDriver, not a driver of NewDriver`,
		func() { poolyhttp.NewTransport(s, nil) })
	require.Panics(t, func() { poolyhttp.NewDriver("ftp", nil) })
}

// Code that was written for http.Transport compares the error of a url.Error with the context's.
func TestARequestWhoseContextHasEndedGetsThePlainError(t *testing.T) {
	client, s := webService(t, http1(), pooly.ServiceConfig{}, closedPort(t))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	cause := errors.New("the user left")
	told, tell := context.WithCancelCause(t.Context())
	tell(cause)
	for _, tt := range []struct {
		ctx  context.Context
		want error
	}{{cancelled, context.Canceled}, {late, context.DeadlineExceeded}, {told, cause}} {
		body := new(closeSpy)
		req, err := http.NewRequestWithContext(tt.ctx, "POST", "http://x/", body)
		require.NoError(t, err)
		_, err = client.Do(req)
		var failed *url.Error
		require.ErrorAs(t, err, &failed)
		require.True(t, failed.Err == tt.want, "%v", failed.Err)
		require.Equal(t, tt.want == context.DeadlineExceeded, failed.Timeout())
		require.True(t, body.closed)
	}
	require.Zero(t, s.Stats().Dials)
}

func TestAnHTTPSClientIsToldThatTheServerSpeaksHTTP(t *testing.T) {
	address := webServer(t, func(http.ResponseWriter, *http.Request) {})
	client, _ := webService(t, poolyhttp.NewDriver("https", nil), pooly.ServiceConfig{GetAttempts: 1}, address)
	_, _, err := fetch(client, "GET", "https://x/", nil)
	require.ErrorIs(t, err, http.ErrSchemeMismatch)
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
}

type closeSpy struct{ closed bool }

func (*closeSpy) Read([]byte) (int, error) { return 0, io.EOF }
func (c *closeSpy) Close() error           { c.closed = true; return nil }

func TestHTTPUnderLoadWithServersThatDie(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	stays := webServer(t, handler)
	client, s := webService(t, http1(), pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 8}}, stays)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := fetch(client, "GET", "http://x/", nil); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 5 {
		dies := httptest.NewServer(handler)
		s.SetHosts(stays, dies.Listener.Addr().String())
		before := s.Stats().Gets
		eventually(t, func() bool { return s.Stats().Gets > before+500 })
		dies.CloseClientConnections()
		dies.Close()
	}
	cancel()
	wg.Wait()
	require.Zero(t, s.Stats().InUse)
}

// nginx runs a real server with a configuration of its own, and returns its address and its process.
func nginx(t *testing.T, listen, locations string) (address string, process *os.Process) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed: apt-get install nginx-light")
	}
	dir := t.TempDir()
	address = closedPort(t)
	config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 1;
events { worker_connections 128; }
http {
  access_log off; client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  server { listen %[2]s %[3]s; %[4]s }
}`, dir, address, listen, locations)
	file := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	cmd := exec.Command(path, "-p", dir, "-c", file, "-e", filepath.Join(dir, "error.log"))
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return address, cmd.Process
}

func TestHTTPOverRealNginx(t *testing.T) {
	const locations = `location / { return 200 "hello from $host over $connection"; }
location /sick { return 503; }
location /close { keepalive_timeout 0; return 200 "closed"; }`
	first, process := nginx(t, "", locations+" keepalive_requests 7;")
	second, _ := nginx(t, "", locations)
	client, s := webService(t, http1(), pooly.ServiceConfig{}, first, second)
	get := func(path string) (int, string) {
		t.Helper()
		status, body, err := fetch(client, "GET", "http://web.internal"+path, nil)
		require.NoError(t, err)
		return status, body
	}
	for range 50 { // over the end of a connection after seven requests
		status, body := get("/")
		require.Equal(t, 200, status)
		require.Contains(t, body, "hello from web.internal over ")
	}
	require.Less(t, s.Stats().Dials, uint64(20), "kept alive, as far as nginx wants")
	for range 4 {
		get("/close")
	}
	status, _ := get("/sick")
	require.Equal(t, 503, status)
	eventually(t, func() bool { // the score is computed
		worse := 0
		for _, h := range s.Stats().Hosts {
			if h.Score < 1 {
				worse++
			}
		}
		return worse == 1
	})
	require.NoError(t, process.Kill())
	for range 50 {
		status, _ := get("/")
		require.Equal(t, 200, status, "no request fails when a server dies")
	}
}

func TestHTTP2OverRealNginx(t *testing.T) {
	address, _ := nginx(t, "http2", `location / { return 200 "$server_protocol $connection"; }`)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	d := poolyhttp.NewDriver("http", &http.Transport{Protocols: protocols})
	client, s := webService(t, d, pooly.ServiceConfig{}, address)
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for range 10 {
				_, body, err := fetch(client, "GET", "http://x/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[body] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 1, "one connection for all")
	for body := range seen {
		require.True(t, strings.HasPrefix(body, "HTTP/2.0 "), body)
	}
	require.Zero(t, s.Stats().InUse)
}

func ExampleNewTransport() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello")
	}))
	defer server.Close()
	s := pooly.NewService("web", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
	})
	defer s.Close()
	s.SetHosts(server.Listener.Addr().String())

	client := &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: time.Second}
	resp, err := client.Get("http://web/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode, string(body))
	// Output: 200 hello
}

func TestHTTPEjectsAHostWhoseConnectionsDieWhateverIsCancelledMeanwhile(t *testing.T) {
	var died atomic.Int32
	hangs := func(c net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(c))
		if err == nil && req.URL.Path == "/hangs" {
			_, _ = io.Copy(io.Discard, c)
		}
		died.Add(1)
	}
	bad, good := listen(t, hangs), webServer(t, func(http.ResponseWriter, *http.Request) {})
	client, s := webService(t, http1(), pooly.ServiceConfig{ConsecutiveFailures: 3, BanditStrategy: inOrder{bad}}, bad, good)
	for range 3 {
		_, _, err := fetch(client, "GET", "http://x/", nil)
		require.NoError(t, err, "from the other host")
		if hostStats(t, s, bad).Ejected {
			break
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		req, err := http.NewRequestWithContext(ctx, "GET", "http://x/hangs", nil)
		require.NoError(t, err)
		_, err = client.Do(req)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.True(t, hostStats(t, s, bad).Ejected)
}
