package poolyhttp_test

//lint:file-ignore SA1019 Request.Cancel is deprecated, but in use.

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

// refuses answers with a status and, if it is not empty, Retry-After.
func refuses(status int, retryAfter, body string, requests *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestStatusesThatTheUserNamesAreTriedElsewhere(t *testing.T) {
	date := time.Date(2000, 1, 1, 0, 0, 2, 0, time.UTC).Format(http.TimeFormat) // synctest begins at 2000
	long := strings.Repeat("x", 64<<10+1)
	for name, of := range map[string]struct {
		method     string
		body       io.Reader
		status     int
		retryAfter string
		answer     string
		timeout    time.Duration
		want       int
		wait       time.Duration
	}{
		"at once":                    {"GET", nil, 503, "", "busy", 0, 200, 0},
		"after Retry-After":          {"GET", nil, 429, "2", "busy", 0, 200, 2 * time.Second},
		"after Retry-After's date":   {"GET", nil, 429, date, "busy", 0, 200, 2 * time.Second},
		"Retry-After is nonsense":    {"GET", nil, 429, "soon", "busy", 0, 200, 0},
		"Retry-After is long":        {"GET", nil, 429, "4", "busy", 0, 429, 0},
		"the deadline is before":     {"GET", nil, 429, "2", "busy", time.Second, 429, 0},
		"another status":             {"GET", nil, 500, "", "busy", 0, 500, 0},
		"the answer is too long":     {"GET", nil, 503, "", long, 0, 503, 0},
		"not replayable":             {"POST", strings.NewReader("x"), 503, "", "busy", 0, 503, 0},
		"the body cannot be resent":  {"OPTIONS", io.MultiReader(strings.NewReader("x")), 503, "", "busy", 0, 503, 0},
		"the body can be sent again": {"OPTIONS", strings.NewReader("x"), 503, "", "busy", 0, 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var first atomic.Int32
			options := poolyhttp.Options{RetryStatuses: []int{429, 503}, MaxRetryAfter: 3 * time.Second}
			inPipes(t, false, pooly.ServiceConfig{ConsecutiveFailures: -1}, options, map[string]http.HandlerFunc{
				"a": refuses(of.status, of.retryAfter, of.answer, &first),
				"b": func(w http.ResponseWriter, r *http.Request) {
					if b, _ := io.ReadAll(r.Body); of.body != nil && string(b) != "x" {
						w.WriteHeader(400)
					}
					_, _ = io.WriteString(w, "good")
				},
			}, func(t *testing.T, p *pipes, client *http.Client, s *pooly.Service) {
				client.Timeout = of.timeout
				began := time.Now()
				// With Retry-After, the host that answered may get the request again, but another is preferred.
				status, body, err := fetch(client, of.method, "http://web/", of.body)
				require.NoError(t, err)
				require.Equal(t, of.want, status)
				require.Equal(t, of.wait, time.Since(began))
				if status == 200 {
					require.Equal(t, "good", body)
				} else {
					require.Equal(t, of.answer, body, "nothing of the answer is lost")
				}
				require.EqualValues(t, 1, first.Load())
				synctest.Wait()
				require.Zero(t, s.Stats().InUse)

				if of.method == "GET" {
					_, _, err = fetch(client, "GET", "http://web/", nil)
					require.NoError(t, err)
					require.EqualValues(t, 1, p.hosts["a"].dials.Load(), "its connection was kept")
				}
			})
		})
	}
}

func TestTheOnlyHostGetsARequestAgainOnlyAfterRetryAfter(t *testing.T) {
	for retryAfter, sends := range map[string]int32{"": 1, "1": 4} {
		var requests atomic.Int32
		options := poolyhttp.Options{RetryStatuses: []int{503}}
		inPipes(t, false, pooly.ServiceConfig{}, options, map[string]http.HandlerFunc{
			"a": refuses(503, retryAfter, "busy", &requests),
		}, func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
			status, body, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.Equal(t, 503, status)
			require.Equal(t, "busy", body)
			require.Equal(t, sends, requests.Load())
		})
	}
}

func TestRetriesOfStatusesHaveTheServicesBudget(t *testing.T) {
	var requests atomic.Int32
	options := poolyhttp.Options{RetryStatuses: []int{503}}
	config := pooly.ServiceConfig{ConsecutiveFailures: -1}
	inPipes(t, true, config, options, map[string]http.HandlerFunc{
		"a": refuses(503, "", "busy", &requests),
		"b": refuses(503, "", "busy", &requests),
		"c": refuses(503, "", "busy", &requests),
	}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
		client.Timeout = time.Second
		for range 1000 {
			status, body, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.Equal(t, 503, status)
			require.Equal(t, "busy", body)
		}
		require.LessOrEqual(t, requests.Load(), int32(1000+200+20))
		require.Greater(t, requests.Load(), int32(1100))
		require.NotZero(t, s.Stats().RetriesRefused)
	})
}

func TestACancelledWaitForRetryAfterReturnsTheAnswer(t *testing.T) {
	var requests atomic.Int32
	options := poolyhttp.Options{RetryStatuses: []int{503}, MaxRetryAfter: time.Minute}
	inPipes(t, false, pooly.ServiceConfig{}, options, map[string]http.HandlerFunc{
		"a": refuses(503, "9", "busy", &requests),
	}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
		cancel := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(cancel) })
		req, err := http.NewRequest("GET", "http://web/", nil)
		require.NoError(t, err)
		req.Cancel = cancel
		resp, err := client.Transport.RoundTrip(req)
		require.NoError(t, err)
		require.Equal(t, 503, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
		require.EqualValues(t, 1, requests.Load())
		require.Zero(t, s.Stats().InUse)
	})
}

func TestRetriesTellTheObserverWhy(t *testing.T) {
	var first atomic.Int32
	var retried []pooly.RetryEvent
	config := pooly.ServiceConfig{ConsecutiveFailures: -1, Observer: &pooly.Observer{
		Retried: func(e pooly.RetryEvent) { retried = append(retried, e) },
	}}
	options := poolyhttp.Options{RetryStatuses: []int{503}}
	inPipes(t, false, config, options, map[string]http.HandlerFunc{
		"a": refuses(503, "", "busy", &first),
		"b": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "good") },
	}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
		for first.Load() == 0 {
			_, body, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.Equal(t, "good", body)
		}
		require.Len(t, retried, 1)
		require.Equal(t, "a:80", retried[0].Address)
		require.EqualError(t, retried[0].Err, "poolyhttp: answered 503 Service Unavailable")
		require.EqualValues(t, 1, s.Stats().Retries)
	})
}
