package poolyhttp_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// reporter is an HTTP server that says what a test has it say of its load.
func reporter(t *testing.T, header string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("endpoint-load-metrics", header)
		_, _ = io.WriteString(w, "answer")
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func reported(t *testing.T, options *poolyhttp.Options, address string) int {
	t.Helper()
	s := pooly.NewService("test", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
	})
	defer func() { require.NoError(t, s.Close()) }()
	s.Add(address)
	client := http.Client{Transport: poolyhttp.NewTransport(s, options), Timeout: 10 * time.Second}
	resp, err := client.Get("http://test/")
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return s.Stats().Hosts[0].OtherRequests
}

func TestTransportReadsTheLoadOfAHost(t *testing.T) {
	for header, want := range map[string]int{
		"TEXT named_metrics.in_flight=7":                      6, // without the one that is answered
		"TEXT cpu_utilization=0.5, named_metrics.in_flight=2": 1,
		`JSON {"named_metrics": {"in_flight": 9.0, "q": 1}}`:  8,
		"TEXT named_metrics.in_flight=1":                      0,
		"TEXT named_metrics.in_flight=-7":                     0,
		"TEXT named_metrics.in_flight=NaN":                    0,
		"TEXT named_metrics.in_flight=1e99":                   0,
		"TEXT in_flight=7":                                    0,
		"TEXT named_metrics.other=7":                          0,
		`JSON {"named_metrics": {"in_flight": "9"}}`:          0,
		"BIN CgA=": 0,
		"":         0,
	} {
		t.Run(header, func(t *testing.T) {
			options := &poolyhttp.Options{LoadMetric: poolyhttp.InFlightMetric}
			require.Equal(t, want, reported(t, options, reporter(t, header)))
			require.Zero(t, reported(t, nil, reporter(t, header)), "without the option")
		})
	}
}

// Three requests are in flight, of another client. The fourth answer says so, however it is written.
func TestReportLoadCountsWhatAServerHandles(t *testing.T) {
	entered, leave := make(chan struct{}, 3), make(chan struct{})
	s := httptest.NewServer(poolyhttp.ReportLoad(http.HandlerFunc(
		func(w http.ResponseWriter, req *http.Request) {
			switch req.URL.Path {
			case "/wait":
				entered <- struct{}{}
				<-leave
			case "/write":
				_, _ = io.WriteString(w, "answer")
			case "/status":
				w.WriteHeader(http.StatusAccepted)
			case "/flush":
				require.NoError(t, http.NewResponseController(w).Flush())
			case "/nothing":
			}
		})))
	defer s.Close()
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 3 {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/wait", nil)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		})
	}
	for range 3 {
		<-entered
	}
	end := sync.OnceFunc(func() { close(leave) })
	defer end()
	for _, path := range []string{"/write", "/status", "/flush", "/nothing"} {
		resp, err := http.Get(s.URL + path)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, resp.Body) // its end comes after the handler
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, fmt.Sprintf("TEXT named_metrics.%s=4", poolyhttp.InFlightMetric),
			resp.Header.Get("endpoint-load-metrics"), path)
	}
	options := &poolyhttp.Options{LoadMetric: poolyhttp.InFlightMetric}
	require.Equal(t, 3, reported(t, options, s.Listener.Addr().String()))
	end()
	wg.Wait()
	http.DefaultClient.CloseIdleConnections()
}

// WebSocket packages ask a server's writer for http.Hijacker.
func TestReportLoadLetsHandlersHijack(t *testing.T) {
	s := httptest.NewServer(poolyhttp.ReportLoad(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		hijacker, ok := w.(http.Hijacker)
		if !ok {
			return
		}
		if c, rw, err := hijacker.Hijack(); err == nil {
			_, _ = rw.WriteString("HTTP/1.1 418 OK\r\nContent-Length: 0\r\n\r\n")
			_ = rw.Flush()
			_ = c.Close()
		}
	})))
	defer s.Close()
	resp, err := http.Get(s.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 418, resp.StatusCode)
	http.DefaultClient.CloseIdleConnections()

	poolyhttp.ReportLoad(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _, err := w.(http.Hijacker).Hijack()
		require.ErrorIs(t, err, http.ErrNotSupported)
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
}
