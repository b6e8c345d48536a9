package poolyhttp_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// apart calls f in a goroutine of its own, which f may end or have panic.
func apart(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = recover() }()
		f()
	})
	wg.Wait()
}

func TestAFunctionOfTheUsersThatEndsItsGoroutineKeepsNoConnection(t *testing.T) {
	exit := func() { runtime.Goexit() }
	panics := func() { panic("by the test") }
	for name, of := range map[string]struct {
		path  string
		score func()
		trace httptrace.ClientTrace
	}{
		"Score of an answer": {"/", exit, httptrace.ClientTrace{}},
		"Score of an error":  {"/abort", exit, httptrace.ClientTrace{}},
		"GotConn exits":      {"/", nil, httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { exit() }}},
		"GotConn panics":     {"/", nil, httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { panics() }}},
		"GetConn panics":     {"/", nil, httptrace.ClientTrace{GetConn: func(string) { panics() }}},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				options := poolyhttp.Options{}
				if of.score != nil {
					options.Score = func(poolyhttp.Exchange) float64 { of.score(); return 1 }
				}
				inPipes(t, h2, pooly.ServiceConfig{}, options, map[string]http.HandlerFunc{
					"a": func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/abort" {
							panic(http.ErrAbortHandler)
						}
						_, _ = io.WriteString(w, "answer")
					},
				}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
					ctx := httptrace.WithClientTrace(t.Context(), &of.trace)
					apart(func() {
						req, err := http.NewRequestWithContext(ctx, "POST", "http://web"+of.path, nil)
						if err != nil {
							return
						}
						if resp, err := client.Do(req); err == nil {
							_, _ = io.Copy(io.Discard, resp.Body)
							_ = resp.Body.Close()
						}
					})
					synctest.Wait()
					require.Zero(t, s.Stats().InUse)
				})
			})
		}
	}
}

// Bodies of requests come from elsewhere, such as another client's upload, and may stall.
func TestABodyThatStallsUntilTheDeadlineIsNotTheHostsFault(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		inPipes(t, h2, pooly.ServiceConfig{ConsecutiveFailures: 1}, poolyhttp.Options{}, map[string]http.HandlerFunc{
			"a": func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if r.URL.Path == "/hang" {
					<-r.Context().Done()
				}
			},
			"b": after(0, 200, "b", nil),
		}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
			send := func(path string, body io.Reader) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, "POST", "http://web"+path, body)
				require.NoError(t, err)
				_, err = client.Do(req)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				synctest.Wait()
			}
			upload, uploader := io.Pipe()
			go func() {
				_, _ = uploader.Write([]byte("the beginning"))
				time.Sleep(2 * time.Second)
				_, _ = uploader.Write([]byte("the rest"))
				_ = uploader.Close()
			}()
			send("/", upload)
			stats := s.Stats()
			require.Equal(t, stats.MaxConns, stats.Limit, "the limit does not fall")
			require.Zero(t, ejections(s))
			require.Zero(t, stats.InUse)
			time.Sleep(time.Second)
			require.Zero(t, hostStats(t, s, "a:80").Trials)

			send("/hang", http.NoBody)
			stats = s.Stats()
			require.Less(t, stats.Limit, stats.MaxConns, "a host that hangs is at fault")
		})
	}
}

// cancelling is a connection that ends a context while it reads, once armed.
type cancelling struct {
	net.Conn
	cancel func()
	armed  bool
}

func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.armed {
		c.armed = false
		c.cancel()
		time.Sleep(ms)
	}
	return n, err
}

// The request's context ends while Read is about to return bytes. Nobody reads on or closes the body.
func TestAContextThatEndsDuringReadGivesTheConnectionBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ours, theirs := net.Pipe()
		defer theirs.Close()
		next := make(chan struct{})
		go func() {
			_, _ = theirs.Read(make([]byte, 4096))
			_, _ = io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
			<-next
			_, _ = io.WriteString(theirs, "some")
		}()
		c := &cancelling{Conn: ours, cancel: cancel}
		d := poolyhttp.NewDriver("http", &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil },
		})
		s := pooly.NewService("web", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1,
		})
		defer func() { _ = s.Close() }()
		s.Add("a:80")
		req, err := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
		require.NoError(t, err)
		resp, err := poolyhttp.NewTransport(s, nil).RoundTrip(req)
		require.NoError(t, err)
		c.armed = true
		close(next)
		n, err := resp.Body.Read(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 4, n)
		synctest.Wait()
		require.Zero(t, s.Stats().InUse)
	})
}

// An upgrade goes over a connection of its own, so its timeout says nothing of the HTTP/2 connection.
func TestAnUpgradeThatTimesOutCostsNoHTTP2Connection(t *testing.T) {
	address, d, accepted := http2(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			<-r.Context().Done()
		}
	})
	client, _ := webService(t, d, pooly.ServiceConfig{}, address)
	_, _, err := fetch(client, "GET", "https://web/", nil)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*ms)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "https://web/", nil)
	require.NoError(t, err)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	_, err = client.Do(req)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, _, err = fetch(client, "GET", "https://web/", nil)
	require.NoError(t, err)
	require.EqualValues(t, 2, accepted.Load(), "one each")
}
