package poolyhttp_test

//lint:file-ignore SA1019 Request.Cancel is deprecated, but in use.

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// net/http's server answers "Connection: close" over HTTP/2 with GOAWAY, as others do when they restart.
func TestNoPOSTFailsWhenHTTP2ServersCloseTheirConnectionsInGoodOrder(t *testing.T) {
	var served atomic.Int64
	handler := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if served.Add(1)%20 == 0 {
			w.Header().Set("Connection", "close")
		}
	}
	first, d, accepted := http2(t, handler)
	second, _, _ := http2(t, handler)
	client, s := webService(t, d, pooly.ServiceConfig{}, first, second)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if _, _, err := fetch(client, "POST", "https://web/", strings.NewReader("x")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Greater(t, accepted.Load(), int32(3), "connections were closed")
	require.EqualValues(t, 800, served.Load(), "each was served once")
	require.Zero(t, ejections(s))
	for _, h := range s.Stats().Hosts {
		require.InDelta(t, 1, h.Score, 1e-9)
	}
}

func TestARequestThatGOAWAYLeftUntouchedIsSentAgainToTheSameHostIfItIsTheOnlyOne(t *testing.T) {
	var first atomic.Bool
	address := listen(t, serveFrames(func(f *frames, stream uint32) {
		if stream == 3 && !first.Swap(true) {
			f.goAway(1)
			return
		}
		f.answer(stream)
	}))
	client, s := webService(t, poolyhttp.NewDriver("http", plainHTTP2()), pooly.ServiceConfig{}, address)
	for range 5 {
		_, _, err := fetch(client, "POST", "http://web/", strings.NewReader("x"))
		require.NoError(t, err)
	}
	require.True(t, first.Load())
	score, trials := mean(t, s, address)
	require.InDelta(t, 5, trials, 1e-9)
	require.InDelta(t, 1, score, 1e-9)
}

func TestARefusedStreamIsSentAgainWhateverItsMethod(t *testing.T) {
	var refused atomic.Int32
	refuses := listen(t, serveFrames(func(f *frames, stream uint32) {
		refused.Add(1)
		f.reset(stream, 7)
	}))
	serves := listen(t, serveFrames(func(f *frames, stream uint32) { f.answer(stream) }))
	config := pooly.ServiceConfig{BaseEjectionTime: time.Hour}
	client, s := webService(t, poolyhttp.NewDriver("http", plainHTTP2()), config, refuses, serves)
	for range 30 {
		_, _, err := fetch(client, "POST", "http://web/", strings.NewReader("x"))
		require.NoError(t, err)
	}
	require.EqualValues(t, 5, refused.Load(), "ejected after ConsecutiveFailures")
	require.True(t, hostStats(t, s, refuses).Ejected)

	_, _, err := fetch(client, "POST", "http://web/", io.MultiReader(strings.NewReader("x")))
	require.NoError(t, err, "the other host serves what cannot be sent again")
}

func TestAnHTTP2GETThatTheServerResetsIsSentOnce(t *testing.T) {
	var seen, accepted atomic.Int32
	handler := serveFrames(func(f *frames, stream uint32) {
		seen.Add(1)
		f.reset(stream, 2) // INTERNAL_ERROR
	})
	address := listen(t, func(c net.Conn) {
		accepted.Add(1)
		handler(c)
	})
	client, _ := webService(t, poolyhttp.NewDriver("http", plainHTTP2()), pooly.ServiceConfig{}, address)
	for range 3 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.ErrorContains(t, err, "INTERNAL_ERROR")
	}
	require.EqualValues(t, 3, seen.Load())
	require.EqualValues(t, 1, accepted.Load(), "it cost only its stream")
}

func TestAGETWhoseAnswerHasBegunIsSentOnce(t *testing.T) {
	var seen atomic.Int32
	begins := listen(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			seen.Add(1)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le")
		}
	})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, begins, webServer(t, func(http.ResponseWriter, *http.Request) {}))
	failed := 0
	for range 2 {
		if _, _, err := fetch(client, "GET", "http://web/", nil); err != nil {
			failed++
		}
	}
	require.EqualValues(t, 1, seen.Load())
	require.Equal(t, 1, failed)
	score, _ := mean(t, s, begins)
	require.Zero(t, score)
}

// once is a connection that takes nothing more once an answer has come.
type once struct {
	net.Conn
	answered atomic.Bool
}

func (c *once) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.answered.Store(true)
	}
	return n, err
}

func (c *once) Write(b []byte) (int, error) {
	if c.answered.Load() {
		return 0, errors.New("nothing written")
	}
	return c.Conn.Write(b)
}

func TestAPOSTOfWhichNothingWasWrittenIsSentAgain(t *testing.T) {
	address := webServer(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	d := poolyhttp.NewDriver("http", &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &once{Conn: c}, nil
		},
	})
	client, s := webService(t, d, pooly.ServiceConfig{}, address)
	for range 20 {
		_, body, err := fetch(client, "POST", "http://web/", strings.NewReader("body"))
		require.NoError(t, err)
		require.Equal(t, "body", body)
	}
	score, trials := mean(t, s, address)
	require.InDelta(t, 20, trials, 1e-9, "a connection that was closed while idle says nothing about the host")
	require.InDelta(t, 1, score, 1e-9)
	_, _, err := fetch(client, "POST", "http://web/", io.MultiReader(strings.NewReader("body")))
	require.ErrorContains(t, err, "nothing written", "this body cannot be had again")
}

// http.Client.Timeout sets a deadline and closes Request.Cancel, and either may be noticed first.
func TestTimedOutAndCancelledRequestsAreSentOnce(t *testing.T) {
	var timeouts, cancels atomic.Int32
	slow := func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/cancel" {
			cancels.Add(1)
		} else {
			timeouts.Add(1)
		}
		<-r.Context().Done()
	}
	h2, d2, _ := http2(t, slow)
	for name, tt := range map[string]struct {
		d         *poolyhttp.Driver
		scheme    string
		addresses []string
	}{
		"HTTP/1": {http1(), "http", []string{webServer(t, slow), webServer(t, slow)}},
		"HTTP/2": {d2, "https", []string{h2}},
	} {
		t.Run(name, func(t *testing.T) {
			client, _ := webService(t, tt.d, pooly.ServiceConfig{ConsecutiveFailures: -1}, tt.addresses...)
			timeouts.Store(0)
			client.Timeout = 10 * time.Millisecond
			for range 50 {
				_, _, err := fetch(client, "GET", tt.scheme+"://web/", nil)
				var timeout net.Error
				require.ErrorAs(t, err, &timeout)
				require.True(t, timeout.Timeout(), err)
			}
			require.LessOrEqual(t, timeouts.Load(), int32(50))

			cancels.Store(0)
			client, s := webService(t, tt.d, pooly.ServiceConfig{}, tt.addresses...)
			for range 20 {
				req, err := http.NewRequest("GET", tt.scheme+"://web/cancel", nil)
				require.NoError(t, err)
				cancel := make(chan struct{})
				req.Cancel = cancel
				time.AfterFunc(5*time.Millisecond, func() { close(cancel) })
				_, err = client.Transport.RoundTrip(req)
				require.ErrorContains(t, err, "net/http: request canceled")
			}
			require.LessOrEqual(t, cancels.Load(), int32(20))
			_, trials := mean(t, s, tt.addresses[0])
			require.Zero(t, trials, "cancelled requests rate nobody")
		})
	}
}

// Sending it again to the only host could go on forever, if the host dislikes the request.
func TestAGETThatBreaksANewConnectionIsSentOnceIfThereIsNoOtherHost(t *testing.T) {
	var died atomic.Int32
	client, s := webService(t, http1(), pooly.ServiceConfig{}, listen(t, dying(&died)))
	for range 3 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.ErrorIs(t, err, io.EOF)
	}
	require.EqualValues(t, 3, died.Load())
	require.Zero(t, s.Stats().InUse)
}

func TestARequestWhoseContextHasEndedTakesNoConnection(t *testing.T) {
	client, s := webService(t, http1(), pooly.ServiceConfig{}, closedPort(t))
	cause := errors.New("the user left")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	req, err := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
	require.NoError(t, err)
	_, err = client.Transport.RoundTrip(req)
	require.Same(t, cause, err)
	require.Zero(t, s.Stats().Dials)
}

func TestReplaysDoNotMultiplyTheLoadOfHostsThatAllFail(t *testing.T) {
	var died atomic.Int32
	serve := dying(&died)
	client, s := webService(t, http1(), pooly.ServiceConfig{}, listen(t, serve), listen(t, serve), listen(t, serve))
	began := time.Now()
	for range 300 {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.ErrorIs(t, err, io.EOF)
	}
	most := 300 + 300/5 + 10 + int(10*(time.Since(began)+time.Second).Seconds())
	require.Less(t, int(died.Load()), most)
	require.Positive(t, s.Stats().RetriesRefused)
}

func TestARequestThatGetsNoSecondConnectionTellsBothErrors(t *testing.T) {
	var died atomic.Int32
	dies := listen(t, dying(&died))
	client, s := webService(t, http1(), pooly.ServiceConfig{
		BanditStrategy: inOrder{dies},
		PoolConfig:     pooly.PoolConfig{MaxConns: 1, WaitTimeout: 50 * time.Millisecond},
	}, dies, webServer(t, func(http.ResponseWriter, *http.Request) {}))
	other, err := s.Lease(t.Context(), pooly.LeaseOptions{Avoid: []string{dies}})
	require.NoError(t, err)
	_, _, err = fetch(client, "GET", "http://web/", nil)
	require.ErrorIs(t, err, pooly.ErrOpTimeout)
	require.ErrorIs(t, err, io.EOF)
	require.ErrorContains(t, err, ", after EOF")
	require.True(t, err.(net.Error).Timeout())
	require.NoError(t, other.End())
}
