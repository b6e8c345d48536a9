package poolyhttp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

func TestATransportWithMaxConnsPerHostServesAfterItsConnectionsAreClosed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", r.Header.Get("X-Want"))
	}))
	t.Cleanup(server.Close)
	address := server.Listener.Addr().String()
	d := poolyhttp.NewDriver("http", &http.Transport{MaxConnsPerHost: 1})
	client, s := webService(t, d, pooly.ServiceConfig{}, address)
	for _, want := range []string{"close", "keep-alive"} {
		req, err := http.NewRequest("GET", "http://web/", nil)
		require.NoError(t, err)
		req.Header.Set("X-Want", want)
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
	}
	server.CloseClientConnections()
	for range 3 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
	}
	require.NoError(t, s.Close())
}

// A server that says nothing of closing the connection, which net/http closes all the same.
func TestConnectionsThatNetHTTPWillNotUseAgainAreNotLeasedAgain(t *testing.T) {
	polite := func(c net.Conn) {
		for r := bufio.NewReader(c); ; {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	early := func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			time.Sleep(100 * time.Millisecond)
		}
	}
	for _, tt := range []struct {
		name      string
		serve     func(net.Conn)
		transport *http.Transport
		close     bool
		size, n   int
	}{
		{"Request.Close", polite, &http.Transport{}, true, 10, 100},
		{"DisableKeepAlives", polite, &http.Transport{DisableKeepAlives: true}, false, 10, 100},
		{"MaxIdleConnsPerHost", polite, &http.Transport{MaxIdleConnsPerHost: -1}, false, 10, 100},
		{"an answer before the body was read", early, &http.Transport{}, false, 8 << 20, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, s := webService(t, poolyhttp.NewDriver("http", tt.transport), pooly.ServiceConfig{}, listen(t, tt.serve))
			for range tt.n {
				req, err := http.NewRequest("POST", "http://web/", strings.NewReader(strings.Repeat("x", tt.size)))
				require.NoError(t, err)
				req.Close = tt.close
				resp, err := client.Do(req)
				require.NoError(t, err)
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, "ok", string(body))
				require.Zero(t, s.Stats().Idle)
				require.NoError(t, resp.Body.Close())
			}
		})
	}
}

// hole is a connection that may forget what is written, and bring nothing.
type hole struct {
	net.Conn
	dead   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (h *hole) Write(b []byte) (int, error) {
	if h.dead.Load() {
		return len(b), nil
	}
	return h.Conn.Write(b)
}

func (h *hole) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if h.dead.Load() {
		<-h.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (h *hole) Close() error {
	h.once.Do(func() { close(h.closed) })
	return h.Conn.Close()
}

// plainServer serves HTTP/1, and HTTP/2 without TLS.
func plainServer(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.Listener.Addr().String()
}

func TestAnHTTP2ConnectionThatDiedSilentlyIsReplacedAfterOneTimeout(t *testing.T) {
	address := plainServer(t, func(http.ResponseWriter, *http.Request) {})
	var mu sync.Mutex
	var sockets []*hole
	transport := plainHTTP2()
	transport.DialContext = func(ctx context.Context, network, a string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, a)
		if err != nil {
			return nil, err
		}
		h := &hole{Conn: c, closed: make(chan struct{})}
		mu.Lock()
		defer mu.Unlock()
		sockets = append(sockets, h)
		return h, nil
	}
	client, s := webService(t, poolyhttp.NewDriver("http", transport), pooly.ServiceConfig{}, address)
	for range 3 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
	}
	require.Len(t, sockets, 1)
	sockets[0].dead.Store(true)
	client.Timeout = 100 * time.Millisecond
	_, _, err := fetch(client, "GET", "http://web/", nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	client.Timeout = 10 * time.Second
	for range 3 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
	}
	require.Len(t, sockets, 2)
	require.NoError(t, s.Close())
}

func TestAProbeOfAnHTTP2HostOpensASocketWhileTheOldOneIsInUse(t *testing.T) {
	var sick atomic.Bool
	leave := make(chan struct{})
	t.Cleanup(func() { close(leave) })
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/stream":
			_ = http.NewResponseController(w).Flush()
			select {
			case <-leave:
			case <-r.Context().Done():
			}
		case sick.Load():
			w.WriteHeader(500)
		}
	}
	bad, d, accepted := http2(t, handler)
	good, _, _ := http2(t, func(http.ResponseWriter, *http.Request) {})
	client, s := webService(t, d, pooly.ServiceConfig{BanditStrategy: inOrder{bad}}, bad, good)
	resp, err := client.Get("https://web/stream")
	require.NoError(t, err)
	sick.Store(true)
	for !hostStats(t, s, bad).Ejected {
		_, _, err := fetch(client, "GET", "https://web/", nil)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, accepted.Load())
	sick.Store(false)
	eventually(t, func() bool { return !hostStats(t, s, bad).Ejected })
	require.EqualValues(t, 2, accepted.Load())
	require.NoError(t, resp.Body.Close())
}

func TestABodyThatBreaksOffOverHTTP2CostsOnlyItsStream(t *testing.T) {
	address, d, accepted := http2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/breaks" {
			_, _ = w.Write([]byte("half"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	client, s := webService(t, d, pooly.ServiceConfig{}, address)
	for range 20 {
		_, body, err := fetch(client, "GET", "https://web/breaks", nil)
		require.Error(t, err)
		require.Equal(t, "half", body)
		_, _, err = fetch(client, "GET", "https://web/", nil)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, accepted.Load())
	require.Zero(t, s.Stats().InUse)
	score, _ := mean(t, s, address)
	require.Less(t, score, 0.6)
}

func TestClientCloseIdleConnectionsClosesThemAndTheDriverForgetsTheHost(t *testing.T) {
	h1 := webServer(t, func(http.ResponseWriter, *http.Request) {})
	h2, d2, _ := http2(t, func(http.ResponseWriter, *http.Request) {})
	for name, tt := range map[string]struct {
		d               *poolyhttp.Driver
		scheme, address string
	}{"HTTP/1": {http1(), "http", h1}, "HTTP/2": {d2, "https", h2}} {
		t.Run(name, func(t *testing.T) {
			client, s := webService(t, tt.d, pooly.ServiceConfig{}, tt.address)
			_, _, err := fetch(client, "GET", tt.scheme+"://web/", nil)
			require.NoError(t, err)
			require.Equal(t, 1, s.Stats().Idle)
			require.Equal(t, 1, tt.d.Known())
			client.CloseIdleConnections()
			require.Zero(t, s.Stats().Idle)
			eventually(t, func() bool { return s.Stats().Open == 0 && tt.d.Known() == 0 })
		})
	}
}

// A connection that is to be closed was shared once more until it was.
func TestNoRequestAfterCloseIdleConnectionsSharesAnOldConnection(t *testing.T) {
	address, d, accepted := http2(t, func(http.ResponseWriter, *http.Request) {})
	client, _ := webService(t, d, pooly.ServiceConfig{}, address)
	for i := range 20 {
		_, _, err := fetch(client, "GET", "https://web/", nil)
		require.NoError(t, err)
		require.EqualValues(t, i+1, accepted.Load())
		client.CloseIdleConnections()
	}
}

func TestTheDriverForgetsHostsThatAreRemovedOrDown(t *testing.T) {
	d := poolyhttp.NewDriver("http", plainHTTP2())
	client, s := webService(t, d, pooly.ServiceConfig{}, plainServer(t, func(http.ResponseWriter, *http.Request) {}))
	_, _, err := fetch(client, "GET", "http://web/", nil)
	require.NoError(t, err)
	s.SetHosts(closedPort(t))
	_, _, err = fetch(client, "GET", "http://web/", nil)
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	s.SetHosts()
	eventually(t, func() bool { return d.Known() == 0 })
}

func TestConnectionsAreClosedAfterTheTransportsIdleConnTimeout(t *testing.T) {
	address := webServer(t, func(http.ResponseWriter, *http.Request) {})
	for _, tt := range []struct {
		timeout time.Duration
		dials   uint64
	}{{50 * time.Millisecond, 2}, {time.Hour, 1}} {
		d := poolyhttp.NewDriver("http", &http.Transport{IdleConnTimeout: tt.timeout})
		client, s := webService(t, d, pooly.ServiceConfig{}, address)
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		_, _, err = fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
		require.Equal(t, tt.dials, s.Stats().Dials)
	}
}

func TestAWebSocketOverHTTPSIsHTTP1AlthoughTheServerSpeaksHTTP2(t *testing.T) {
	address, d, accepted := http2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, r.Proto)
			return
		}
		if r.URL.Path == "/refused" {
			http.Error(w, "no "+r.Proto, http.StatusForbidden)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw)
	})
	client, s := webService(t, d, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 2}}, address)
	_, proto, err := fetch(client, "GET", "https://web/", nil)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", proto)
	upgrade := func(ctx context.Context, path string) *http.Response {
		req, err := http.NewRequestWithContext(ctx, "GET", "https://web"+path, nil)
		require.NoError(t, err)
		req.Header.Set("Connection", "keep-alive, Upgrade")
		req.Header.Set("Upgrade", "websocket")
		resp, err := client.Do(req)
		require.NoError(t, err)
		return resp
	}
	ctx, cancel := context.WithCancel(t.Context())
	resp := upgrade(ctx, "/")
	require.Equal(t, 101, resp.StatusCode)
	cancel() // the connection outlives its request's context
	rw := resp.Body.(io.ReadWriteCloser)
	for range 3 {
		_, err = rw.Write([]byte("ping"))
		require.NoError(t, err)
		got := make([]byte, 4)
		_, err = io.ReadFull(rw, got)
		require.NoError(t, err)
		require.Equal(t, "ping", string(got))
	}
	require.Equal(t, 1, s.Stats().InUse, "it counts in MaxConns")
	require.NoError(t, rw.Close())
	require.Zero(t, s.Stats().InUse)

	resp = upgrade(t.Context(), "/refused")
	require.Equal(t, 403, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "no HTTP/1.1\n", string(body))
	require.NoError(t, resp.Body.Close())
	_, proto, err = fetch(client, "GET", "https://web/", nil)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", proto)
	require.EqualValues(t, 3, accepted.Load(), "one for HTTP/2 and one for each upgrade")
}

func TestHTTP2IsSpokenWhenHTTPTransportWould(t *testing.T) {
	address, _, _ := http2(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Proto) })
	insecure := func() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
	off := map[string]func(string, *tls.Conn) http.RoundTripper{}
	for _, tt := range []struct {
		name      string
		transport *http.Transport
		want      string
	}{
		{"HTTP/2 is forced", &http.Transport{TLSClientConfig: insecure(), ForceAttemptHTTP2: true}, "HTTP/2.0"},
		{"TLSClientConfig turns it off", &http.Transport{TLSClientConfig: insecure()}, "HTTP/1.1"},
		{"TLSNextProto turns it off", &http.Transport{TLSClientConfig: insecure(), TLSNextProto: off, ForceAttemptHTTP2: true}, "HTTP/1.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, _ := webService(t, poolyhttp.NewDriver("https", tt.transport), pooly.ServiceConfig{}, address)
			_, got, err := fetch(client, "GET", "https://web/", nil)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
			std := &http.Client{Transport: tt.transport}
			_, got, err = fetch(std, "GET", "https://"+address, nil)
			require.NoError(t, err)
			require.Equal(t, tt.want, got, "http.Transport")
			std.CloseIdleConnections()
		})
	}
}

// writes counts the writes on a connection, and notes whether it was given a file to copy.
type writes struct {
	net.Conn
	n    *atomic.Int32
	file *atomic.Bool
}

func (c writes) Write(b []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(b)
}

func (c writes) ReadFrom(r io.Reader) (int64, error) {
	c.n.Add(1)
	if l, ok := r.(*io.LimitedReader); ok {
		_, isFile := l.R.(*os.File)
		c.file.Store(isFile)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

func TestASmallBodyTakesOnePacketAndAFileIsCopiedByTheKernel(t *testing.T) {
	address := webServer(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	var n atomic.Int32
	var file atomic.Bool
	d := poolyhttp.NewDriver("http", &http.Transport{
		DialContext: func(ctx context.Context, network, a string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, a)
			return writes{c, &n, &file}, err
		},
	})
	client, _ := webService(t, d, pooly.ServiceConfig{}, address)
	client.Timeout = time.Minute
	for range 10 {
		_, _, err := fetch(client, "POST", "http://web/", strings.NewReader("ten bytes."))
		require.NoError(t, err)
	}
	require.EqualValues(t, 10, n.Load())

	name := filepath.Join(t.TempDir(), "upload")
	require.NoError(t, os.WriteFile(name, make([]byte, 1<<20), 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	req, err := http.NewRequest("POST", "http://web/", f)
	require.NoError(t, err)
	req.ContentLength = 1 << 20
	resp, err := client.Do(req)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.True(t, file.Load())
}

func TestATraceHearsOfConnectionsAsWithHTTPTransport(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) })
	client, _ := webService(t, http1(), pooly.ServiceConfig{}, address)
	std := &http.Client{Transport: &http.Transport{}}
	defer std.CloseIdleConnections()
	for _, c := range []*http.Client{client, std} {
		for i := range 2 {
			var heard []string
			var info httptrace.GotConnInfo
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GetConn:              func(hostPort string) { heard = append(heard, "GetConn "+hostPort) },
				GotConn:              func(i httptrace.GotConnInfo) { info, heard = i, append(heard, "GotConn") },
				GotFirstResponseByte: func() { heard = append(heard, "byte") },
				PutIdleConn:          func(err error) { heard = append(heard, fmt.Sprint("PutIdleConn ", err)) },
			})
			req, err := http.NewRequestWithContext(ctx, "GET", "http://"+address, nil)
			require.NoError(t, err)
			resp, err := c.Do(req)
			require.NoError(t, err)
			_, err = io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, []string{"GetConn " + address, "GotConn", "byte", "PutIdleConn <nil>"}, heard)
			require.Equal(t, address, info.Conn.RemoteAddr().String())
			require.Equal(t, i == 1, info.Reused)
			require.Equal(t, i == 1, info.WasIdle)
			require.Equal(t, i == 1, info.IdleTime > 0)
		}
	}
}

func TestMaxConnsForHTTPIsThatOfADriverOfHTTP(t *testing.T) {
	address := webServer(t, func(http.ResponseWriter, *http.Request) {})
	_, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	require.Equal(t, poolyhttp.DefaultMaxConns, hostStats(t, s, address).MaxConns)
	_, s = webService(t, http1(), pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 3}}, address)
	require.Equal(t, 3, hostStats(t, s, address).MaxConns)
}

func TestDriverChecksAddresses(t *testing.T) {
	own := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }}
	for _, scheme := range []string{"http", "https"} {
		for address, good := range map[string]bool{
			"10.0.0.1:80": true, "x.invalid:": true, "x:https": true, "10.0.0.1": false, "http://x:80": false, "x:0": false,
		} {
			for _, transport := range []*http.Transport{nil, {}} {
				require.Equal(t, good, poolyhttp.NewDriver(scheme, transport).CheckAddress(address) == nil, address)
			}
			require.NoError(t, poolyhttp.NewDriver(scheme, own).CheckAddress(address))
		}
	}
}

func TestATraceHearsOfTheDialThatItsRequestStarts(t *testing.T) {
	address := webServer(t, func(http.ResponseWriter, *http.Request) {})
	client, _ := webService(t, http1(), pooly.ServiceConfig{PrespawnConns: -1}, address)
	for i := range 2 {
		heard := make(chan string, 10)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			ConnectStart: func(_, addr string) { heard <- "ConnectStart " + addr },
			ConnectDone:  func(_, addr string, err error) { heard <- fmt.Sprint("ConnectDone ", addr, " ", err) },
		})
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+address, nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		if i == 0 {
			require.Equal(t, "ConnectStart "+address, <-heard)
			require.Equal(t, "ConnectDone "+address+" <nil>", <-heard)
		}
		require.Empty(t, heard)
	}
}
