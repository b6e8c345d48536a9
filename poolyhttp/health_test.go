package poolyhttp_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

func TestAHostThatAnswers500ToEverythingIsEjected(t *testing.T) {
	bad := webServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	config := pooly.ServiceConfig{BaseEjectionTime: time.Hour}
	client, s := webService(t, http1(), config, bad, webServer(t, func(http.ResponseWriter, *http.Request) {}))
	failed := 0
	for range 50 {
		status, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
		if status == 500 {
			failed++
		}
	}
	require.Equal(t, pooly.DefaultConsecutiveFailures, failed)
	h := hostStats(t, s, bad)
	require.True(t, h.Ejected)
	require.EqualError(t, h.Cause, "poolyhttp: answered 500 Internal Server Error")
	require.EqualValues(t, 1, h.Dials, "its connection was kept")
}

func TestHostsThatAllAnswer500StayUp(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bug" {
			w.WriteHeader(500)
		}
	}
	client, s := webService(t, http1(), pooly.ServiceConfig{}, webServer(t, handler), webServer(t, handler), webServer(t, handler))
	for range 600 {
		status, _, err := fetch(client, "GET", "http://web/bug", nil)
		require.NoError(t, err)
		require.Equal(t, 500, status)
	}
	require.Zero(t, ejections(s))
	require.True(t, s.Stats().Panic)
}

func TestTheUserSaysWhichAnswersCountAgainstAHost(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	_, s := webService(t, http1(), pooly.ServiceConfig{}, address, webServer(t, func(http.ResponseWriter, *http.Request) {}))
	client := &http.Client{Transport: poolyhttp.NewTransport(s, &poolyhttp.Options{
		Score: func(e poolyhttp.Exchange) float64 {
			if e.Err == nil && e.Response.StatusCode == 500 {
				return 0.01
			}
			return 1
		},
	})}
	for range 50 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
	}
	require.Zero(t, ejections(s))
}

func TestAHostThatBreaksOffEveryBodyIsEjected(t *testing.T) {
	breaks := func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nok")
		}
	}
	bad := listen(t, breaks)
	config := pooly.ServiceConfig{BaseEjectionTime: time.Hour}
	client, s := webService(t, http1(), config, bad, webServer(t, func(http.ResponseWriter, *http.Request) {}))
	failed := 0
	for range 50 {
		if _, _, err := fetch(client, "GET", "http://web/", nil); err != nil {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			failed++
		}
	}
	require.Equal(t, pooly.DefaultConsecutiveFailures, failed)
	h := hostStats(t, s, bad)
	require.True(t, h.Ejected)
	require.ErrorContains(t, h.Cause, "the answer's body broke off")
}

func TestMalformedRequestsEjectNobody(t *testing.T) {
	handler := func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }
	h2a, d2, _ := http2(t, handler)
	h2b, _, _ := http2(t, handler)
	closed, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	post := func(body io.Reader, length int64) func() *http.Request {
		return func() *http.Request {
			req, _ := http.NewRequest("POST", "http://web/", body)
			req.ContentLength = length
			return req
		}
	}
	get := func(spoil func(*http.Request)) func() *http.Request {
		return func() *http.Request {
			req, _ := http.NewRequest("GET", "http://web/", nil)
			spoil(req)
			return req
		}
	}
	for name, malformed := range map[string]func() *http.Request{
		"a body that is too short": func() *http.Request { return post(strings.NewReader("abc"), 10)() },
		"a body that is too long":  func() *http.Request { return post(strings.NewReader("abcdefghij"), 3)() },
		"a stream that is too short": func() *http.Request {
			return post(iotest.HalfReader(strings.NewReader("abc")), 10)()
		},
		"a stream that is too long": func() *http.Request {
			return post(iotest.HalfReader(strings.NewReader("abcdefghij")), 3)()
		},
		"a body that cannot be read": post(iotest.ErrReader(errors.New("my disk")), -1),
		"a file that is closed":      post(closed, 10),
		"no body":                    get(func(r *http.Request) { r.ContentLength = 10 }),
		"a header's name":            get(func(r *http.Request) { r.Header["a b"] = []string{"c"} }),
		"a header's value":           get(func(r *http.Request) { r.Header["A"] = []string{"c\n"} }),
		"a trailer": func() *http.Request {
			req := post(iotest.HalfReader(strings.NewReader("abc")), -1)()
			req.Trailer = http.Header{"Content-Length": nil}
			return req
		},
		"a method":        get(func(r *http.Request) { r.Method = "A B" }),
		"Host":            get(func(r *http.Request) { r.Host = "a\nb" }),
		"the URL's query": get(func(r *http.Request) { r.URL.RawQuery = "a\nb" }),
		"the URL's path":  get(func(r *http.Request) { r.URL.Opaque = "a b" }),
		"an upgrade":      get(func(r *http.Request) { r.Header["Upgrade"] = []string{"h2c"} }),
	} {
		t.Run(name, func(t *testing.T) {
			for scheme, client := range map[string]func() (*http.Client, *pooly.Service){
				"http": func() (*http.Client, *pooly.Service) {
					return webService(t, http1(), pooly.ServiceConfig{}, webServer(t, handler), webServer(t, handler))
				},
				"https": func() (*http.Client, *pooly.Service) {
					return webService(t, d2, pooly.ServiceConfig{}, h2a, h2b)
				},
			} {
				client, s := client()
				var err error
				for range 15 {
					req := malformed()
					req.URL.Scheme = scheme
					var resp *http.Response
					if resp, err = client.Transport.RoundTrip(req); err == nil {
						require.NoError(t, resp.Body.Close())
					}
				}
				t.Logf("%s: %v", scheme, err)
				require.Zero(t, ejections(s), scheme)
				require.Zero(t, s.Stats().InUse, scheme)
				for _, h := range s.Stats().Hosts {
					require.GreaterOrEqual(t, h.Score, 0.5, scheme)
				}
				require.NoError(t, s.Close())
			}
		})
	}
}

func TestADeadlineThatPassesWhileWaitingIsATimeout(t *testing.T) {
	address := webServer(t, func(http.ResponseWriter, *http.Request) {})
	client, s := webService(t, http1(), pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, address)
	held := get(t, s)
	client.Timeout = 20 * time.Millisecond
	_, err := client.Get("http://web/")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, os.IsTimeout(err))
	require.True(t, err.(net.Error).Timeout())

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
	require.NoError(t, err)
	_, err = client.Transport.RoundTrip(req)
	require.True(t, os.IsTimeout(err))
	var failure *pooly.GetConnError
	require.ErrorAs(t, err, &failure)
	require.NoError(t, held.End())
}

func TestABodyThatNobodyReadsFreesItsPlaceWhenItsContextEnds(t *testing.T) {
	handler := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }
	h2, d2, _ := http2(t, handler)
	for name, tt := range map[string]struct {
		d               *poolyhttp.Driver
		scheme, address string
	}{"HTTP/1": {http1(), "http", webServer(t, handler)}, "HTTP/2": {d2, "https", h2}} {
		t.Run(name, func(t *testing.T) {
			client, s := webService(t, tt.d, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, tt.address)
			for range 10 {
				ctx, cancel := context.WithCancel(t.Context())
				req, err := http.NewRequestWithContext(ctx, "GET", tt.scheme+"://web/", nil)
				require.NoError(t, err)
				resp, err := client.Do(req)
				require.NoError(t, err)
				require.Equal(t, 200, resp.StatusCode)
				require.Positive(t, s.Stats().InUse)
				cancel()
			}
			eventually(t, func() bool { return s.Stats().InUse == 0 })
			eventually(t, func() bool {
				score, trials := mean(t, s, tt.address)
				return trials == 10 && score == 1
			})
			require.NoError(t, s.Close())
		})
	}
}

func TestEmptyAnswersFreeTheirPlaceAlthoughNobodyClosesThem(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/204" {
			w.WriteHeader(204)
		}
	}
	h2, d2, _ := http2(t, handler)
	for name, tt := range map[string]struct {
		d               *poolyhttp.Driver
		scheme, address string
	}{"HTTP/1": {http1(), "http", webServer(t, handler)}, "HTTP/2": {d2, "https", h2}} {
		t.Run(name, func(t *testing.T) {
			client, s := webService(t, tt.d, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, tt.address)
			for range 5 {
				for _, path := range []string{"/", "/204"} {
					_, err := client.Get(tt.scheme + "://web" + path)
					require.NoError(t, err)
				}
				_, err := client.Head(tt.scheme + "://web/")
				require.NoError(t, err)
			}
			require.Zero(t, s.Stats().InUse)
			require.EqualValues(t, 1, s.Stats().Dials)
			client.CloseIdleConnections()
		})
	}
}

func TestAStreamRatesItsHostWhileItGoesOn(t *testing.T) {
	tick := make(chan struct{})
	address := webServer(t, func(w http.ResponseWriter, _ *http.Request) {
		for range tick {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
		}
	})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	go func() { tick <- struct{}{} }()
	resp, err := client.Get("http://web/")
	require.NoError(t, err)
	_, err = resp.Body.Read(make([]byte, 1))
	require.NoError(t, err)
	_, trials := mean(t, s, address)
	require.Zero(t, trials, "what becomes of a short answer is seen at its end")
	time.AfterFunc(1100*time.Millisecond, func() { tick <- struct{}{} })
	_, err = resp.Body.Read(make([]byte, 1))
	require.NoError(t, err)
	_, trials = mean(t, s, address)
	require.InDelta(t, 1, trials, 1e-9)
	close(tick)
	_, err = io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	time.Sleep(2 * pooly.DefaultMemoizeScoreDuration)
	_, trials = mean(t, s, address)
	require.InDelta(t, 1, trials, 1e-9, "once")
}

// closings counts how often a body is closed.
type closings struct {
	io.Reader
	n atomic.Int32
}

func (c *closings) Close() error {
	c.n.Add(1)
	return nil
}

func TestARequestsBodyIsClosedOnceWhateverHappens(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/early":
			w.WriteHeader(413)
		case "/hang":
			time.Sleep(400 * time.Millisecond) // HTTP/1 servers do not notice that the client is gone
		case "/abort":
			panic(http.ErrAbortHandler)
		default:
			_, _ = io.Copy(io.Discard, r.Body)
		}
	}
	h2, d2, _ := http2(t, handler)
	for name, tt := range map[string]struct {
		d               *poolyhttp.Driver
		scheme, address string
	}{
		"HTTP/1":  {http1(), "http", webServer(t, handler)},
		"HTTP/2":  {d2, "https", h2},
		"no host": {http1(), "http", closedPort(t)},
	} {
		client, s := webService(t, tt.d, pooly.ServiceConfig{}, tt.address)
		for _, path := range []string{"/", "/early", "/hang", "/abort", "/fails", "/malformed", "/cancelled", "/foreign"} {
			t.Run(name+path, func(t *testing.T) {
				b := &closings{Reader: strings.NewReader(strings.Repeat("x", 256<<10))}
				if path == "/fails" {
					b.Reader = iotest.ErrReader(errors.New("my disk"))
				}
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				if path == "/cancelled" {
					cancel()
				}
				req, err := http.NewRequestWithContext(ctx, "POST", tt.scheme+"://web"+path, b)
				require.NoError(t, err)
				switch path {
				case "/malformed":
					req.Header["a b"] = nil
				case "/foreign":
					req.URL.Host = "foreign"
				}
				if resp, err := client.Transport.RoundTrip(req); err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					require.NoError(t, resp.Body.Close())
				}
				eventually(t, func() bool { return b.n.Load() > 0 })
				require.EqualValues(t, 1, b.n.Load())
			})
		}
		require.Zero(t, s.Stats().InUse)
		require.NoError(t, s.Close())
	}
}

// A crowd that comes at once must not queue for connections while hosts could serve it.
func TestACrowdIsServedAtOnceAsByHTTPTransport(t *testing.T) {
	const crowd = 400
	var wg sync.WaitGroup
	wg.Add(crowd)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		wg.Done()
		wg.Wait() // until all are here
	}))
	t.Cleanup(server.Close)
	client, _ := webService(t, http1(), pooly.ServiceConfig{}, server.Listener.Addr().String())
	client.Timeout = 30 * time.Second
	var callers sync.WaitGroup
	for range crowd {
		callers.Go(func() {
			if _, _, err := fetch(client, "GET", "http://web/", nil); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		})
	}
	callers.Wait()
}

func TestACompressedAnswerKeepsItsConnection(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(bytes.Repeat([]byte("compressed"), 10_000))
		_ = z.Close()
	})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	for range 5 {
		_, body, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
		require.Len(t, body, 100_000)
	}
	require.EqualValues(t, 1, s.Stats().Dials)
}

// A request that lasts keeps its connection, and later requests get a new one.
func TestOldHTTP2ConnectionsAreReplacedWhileRequestsShareThem(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			time.Sleep(time.Hour)
		}
	}
	config := pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{MaxConnLifetime: 10 * time.Minute, ConnIdleTimeout: time.Second},
	}
	inPipes(t, true, config, poolyhttp.Options{}, map[string]http.HandlerFunc{"a": handler},
		func(t *testing.T, p *pipes, client *http.Client, s *pooly.Service) {
			long := make(chan error, 1)
			ask := func(path string) error {
				_, _, err := fetch(client, "GET", "http://web"+path, nil)
				return err
			}
			go func() { long <- ask("/long") }()
			synctest.Wait()
			for range 530 { // less than nine minutes, the shortest lifetime
				time.Sleep(time.Second)
				require.NoError(t, ask("/"))
			}
			require.EqualValues(t, 1, p.hosts["a"].dials.Load())
			time.Sleep(71 * time.Second)
			require.NoError(t, ask("/"))
			require.EqualValues(t, 2, p.hosts["a"].dials.Load())
			require.NoError(t, <-long, "the old connection was closed under a request")
			require.Zero(t, s.Stats().InUse)
		})
}

func TestOldHTTP2ConnectionsAreReplacedOverTLSAndSockets(t *testing.T) {
	begun, ends := make(chan struct{}), make(chan struct{})
	address, d, accepted := http2(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			close(begun)
			<-ends
		}
	})
	client, _ := webService(t, d, pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{MaxConnLifetime: 300 * ms},
	}, address)
	long := make(chan error, 1)
	go func() {
		_, _, err := fetch(client, "GET", "https://web/long", nil)
		long <- err
	}()
	<-begun
	for accepted.Load() < 3 {
		_, _, err := fetch(client, "GET", "https://web/", nil)
		require.NoError(t, err)
	}
	close(ends)
	require.NoError(t, <-long, "the old connection was closed under a request")
}
