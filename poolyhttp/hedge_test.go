package poolyhttp_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
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

const ms = time.Millisecond

// after answers with a status and the host's name after a time, unless the request ends before.
func after(d time.Duration, status int, name string, requests *atomic.Int32) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if requests != nil {
			requests.Add(1)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(d):
		case <-r.Context().Done():
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, name)
	}
}

func TestTheFirstGoodAnswerOfTwoCopiesWins(t *testing.T) {
	for name, of := range map[string]struct {
		first, second    time.Duration
		status1, status2 int
		want             string
		status           int
		took             time.Duration
	}{
		"no second copy":               {30 * ms, 10 * ms, 200, 200, "a", 200, 30 * ms},
		"the first":                    {70 * ms, 30 * ms, 200, 200, "a", 200, 70 * ms},
		"the second":                   {90 * ms, 30 * ms, 200, 200, "b", 200, 80 * ms},
		"the second, not a 500 before": {60 * ms, 30 * ms, 500, 200, "b", 200, 80 * ms},
		"the first, not a 500 before":  {90 * ms, 30 * ms, 200, 500, "a", 200, 90 * ms},
		"the first of two 500":         {90 * ms, 30 * ms, 500, 503, "a", 500, 90 * ms},
		"a 500 before the second copy": {30 * ms, 30 * ms, 500, 200, "a", 500, 30 * ms},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", HTTP/2: ", h2), func(t *testing.T) {
				inPipes(t, h2, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
					"a": after(of.first, of.status1, "a", nil),
					"b": after(of.second, of.status2, "b", nil),
				}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
					client.Timeout = time.Second
					began := time.Now()
					status, body, err := fetch(client, "GET", "http://web/", nil)
					require.NoError(t, err)
					require.Equal(t, of.want, body)
					require.Equal(t, of.status, status)
					require.Equal(t, of.took, time.Since(began))
					synctest.Wait()
					require.Zero(t, s.Stats().InUse)
				})
			})
		}
	}
}

func TestACopyThatBreaksDoesNotBeatTheOther(t *testing.T) {
	breaks := func(d time.Duration) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) {
			time.Sleep(d)
			panic(http.ErrAbortHandler)
		}
	}
	for name, handlers := range map[string]map[string]http.HandlerFunc{
		"the first":  {"a": breaks(60 * ms), "b": after(30*ms, 200, "b", nil)},
		"the second": {"a": after(90*ms, 200, "b", nil), "b": breaks(10 * ms)},
	} {
		for _, h2 := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " breaks, HTTP/2: ", h2), func(t *testing.T) {
				inPipes(t, h2, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, handlers,
					func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
						status, _, err := fetch(client, "GET", "http://web/", nil)
						require.NoError(t, err)
						require.Equal(t, 200, status)
					})
			})
		}
	}
}

func TestTheCopyThatLosesCostsAStreamOverHTTP2AndAConnectionOverHTTP1(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprint("HTTP/2: ", h2), func(t *testing.T) {
			var ended atomic.Int32
			stalls := func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				ended.Add(1)
			}
			config := pooly.ServiceConfig{ConsecutiveFailures: 1}
			inPipes(t, h2, config, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
				"a": stalls,
				"b": after(ms, 200, "b", nil),
			}, func(t *testing.T, p *pipes, client *http.Client, s *pooly.Service) {
				for range 4 {
					_, body, err := fetch(client, "GET", "http://web/", nil)
					require.NoError(t, err)
					require.Equal(t, "b", body)
				}
				synctest.Wait()
				time.Sleep(time.Second) // for the scores
				require.EqualValues(t, 4, ended.Load(), "the server hears that nobody waits")
				dials := 4
				if h2 {
					dials = 1
				}
				require.EqualValues(t, dials, p.hosts["a"].dials.Load())
				require.EqualValues(t, 1, p.hosts["b"].dials.Load())
				a := hostStats(t, s, "a:80")
				require.False(t, a.Ejected, "it did not fail")
				require.Zero(t, a.Score, "it was slow")
				require.InDelta(t, 4, a.Trials, 1e-9)
			})
		})
	}
}

func TestTheSecondCopyThatLosesIsRatedOnlyIfItIsSlowToo(t *testing.T) {
	for took, trials := range map[time.Duration]float64{90 * ms: 0, 110 * ms: 1} {
		inPipes(t, true, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
			"a": after(took, 200, "a", nil),
			"b": after(time.Second, 200, "b", nil),
		}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
			_, body, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.Equal(t, "a", body)
			time.Sleep(time.Second)
			require.InDelta(t, trials, hostStats(t, s, "b:80").Trials, 1e-9)
		})
	}
}

func TestOverTLSAndSocketsTheLoserKeepsItsHTTP2Connection(t *testing.T) {
	ended := make(chan struct{}, 100)
	slow, d, accepted := http2(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stall" {
			<-r.Context().Done()
			ended <- struct{}{}
		}
	})
	fast, _, _ := http2(t, func(http.ResponseWriter, *http.Request) {})
	_, s := webService(t, d, pooly.ServiceConfig{BanditStrategy: inOrder{slow}}, slow, fast)
	for range 10 {
		// Each has a budget of its own: on a busy machine, one slow copy may cost all of it.
		client := &http.Client{Transport: poolyhttp.NewTransport(s, &poolyhttp.Options{Hedge: 20 * ms})}
		_, _, err := fetch(client, "GET", "https://web/", nil)
		require.NoError(t, err)
		_, _, err = fetch(client, "GET", "https://web/stall", nil)
		require.NoError(t, err)
	}
	for range 10 {
		<-ended // at least ten are sent at once
	}
	require.EqualValues(t, 1, accepted.Load())
	require.Zero(t, ejections(s))
}

func TestOnlyReplayableRequestsAreHedged(t *testing.T) {
	var first, second atomic.Int32
	handlers := map[string]http.HandlerFunc{"a": after(100*ms, 200, "a", &first)}
	handlers["b"] = func(w http.ResponseWriter, r *http.Request) {
		second.Add(1)
		_, _ = io.Copy(w, r.Body)
	}
	inPipes(t, false, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, handlers,
		func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
			post := func(body io.Reader, key bool) string {
				req, err := http.NewRequest("POST", "http://web/", body)
				require.NoError(t, err)
				if key {
					req.Header.Set("Idempotency-Key", "1")
				}
				resp, err := client.Do(req)
				require.NoError(t, err)
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				return string(b)
			}
			require.Equal(t, "a", post(strings.NewReader("x"), false))
			require.Equal(t, "a", post(io.MultiReader(strings.NewReader("x")), true))
			require.Zero(t, second.Load())
			require.Equal(t, "x", post(strings.NewReader("x"), true))
			require.EqualValues(t, 1, second.Load())
		})
}

func TestTheOnlyHostGetsNoSecondCopy(t *testing.T) {
	var requests atomic.Int32
	inPipes(t, true, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
		"a": after(80*ms, 200, "a", &requests),
	}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
		require.EqualValues(t, 1, requests.Load())
		synctest.Wait()
		require.Zero(t, s.Stats().InUse)
	})
}

func TestHedgesHaveABudget(t *testing.T) {
	for _, of := range []struct {
		name        string
		every       int32         // so many requests take 100 ms, the others 1 ms
		took        time.Duration // by a second copy
		least, most int32
	}{
		{"copies are cheap", 10, ms, 59, 60}, // ten, and 5 %
		{"copies take as long as the first and lose", 10, 99 * ms, 5, 7},
	} {
		var n, requests atomic.Int32
		inPipes(t, true, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 2 * ms}, map[string]http.HandlerFunc{
			"a": func(w http.ResponseWriter, r *http.Request) {
				d := ms
				if n.Add(1)%of.every == 0 {
					d = 100 * ms
				}
				after(d, 200, "a", nil)(w, r)
			},
			"b": after(of.took, 200, "b", &requests),
		}, func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
			for range 1000 {
				_, _, err := fetch(client, "GET", "http://web/", nil)
				require.NoError(t, err)
			}
			require.GreaterOrEqual(t, requests.Load(), of.least, of.name)
			require.LessOrEqual(t, requests.Load(), of.most, of.name)
		})
	}
}

func TestCopiesThatLoseStopUntilCopiesWin(t *testing.T) {
	var n, second atomic.Int32
	var helps atomic.Bool
	inPipes(t, true, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
		"a": func(w http.ResponseWriter, r *http.Request) {
			d := 10 * ms
			if n.Add(1)%50 == 0 {
				d = time.Second
			}
			after(d, 200, "a", nil)(w, r)
		},
		"b": func(w http.ResponseWriter, r *http.Request) {
			second.Add(1)
			d := time.Second
			if helps.Load() {
				d = 10 * ms
			}
			after(d, 200, "b", nil)(w, r)
		},
	}, func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
		copies := func(requests int) int32 {
			before := second.Load()
			for range requests {
				_, _, err := fetch(client, "GET", "http://web/", nil)
				require.NoError(t, err)
			}
			return second.Load() - before
		}
		copies(1000) // it learns
		require.LessOrEqual(t, copies(5000), int32(2), "100 requests are long by their nature")
		helps.Store(true)
		copies(10_000)
		require.GreaterOrEqual(t, copies(1000), int32(20), "one for each stall")
	})
}

func TestThereIsNoSecondCopyInOverload(t *testing.T) {
	for name, of := range map[string]struct {
		config pooly.ServiceConfig
		before func(t *testing.T, client *http.Client, s *pooly.Service)
	}{
		"calls wait": {pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, func(t *testing.T, _ *http.Client, s *pooly.Service) {
			// From 50 to 60 ms, one call has b and another waits for it. A copy could follow.
			for from, held := range map[time.Duration]time.Duration{10 * ms: 50 * ms, 20 * ms: 5 * ms} {
				go func() {
					time.Sleep(from)
					if c, err := s.Lease(t.Context(), pooly.LeaseOptions{}); err == nil {
						time.Sleep(held)
						_ = c.End()
					}
				}()
			}
		}},
		"the limit is below MaxConns": {pooly.ServiceConfig{}, func(t *testing.T, _ *http.Client, s *pooly.Service) {
			c, err := s.Lease(t.Context(), pooly.LeaseOptions{})
			require.NoError(t, err)
			require.NoError(t, c.Rate(pooly.Outcome{Err: context.DeadlineExceeded, Elapsed: time.Second}))
			require.NoError(t, c.End())
			require.Less(t, s.Stats().Limit, s.Stats().MaxConns)
		}},
		"the retry budget is spent": {pooly.ServiceConfig{}, func(t *testing.T, _ *http.Client, s *pooly.Service) {
			for s.Stats().RetriesRefused == 0 {
				if c, err := s.Lease(t.Context(), pooly.LeaseOptions{Retry: true}); err == nil {
					require.NoError(t, c.End())
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			inPipes(t, true, of.config, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
				"a": after(80*ms, 200, "a", nil),
				"b": after(ms, 200, "b", &requests),
			}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
				of.before(t, client, s)
				_, body, err := fetch(client, "GET", "http://web/", nil)
				require.NoError(t, err)
				require.Equal(t, "a", body)
				require.Zero(t, requests.Load())
			})
		})
	}
}

func TestTheDelayFollowsThe95thPercentile(t *testing.T) {
	h := poolyhttp.NewHedge()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, scale := range []time.Duration{10 * ms, time.Second, ms} {
		sum, n := 0.0, 0
		for i := range 20_000 {
			h.Learn(time.Duration(rng.ExpFloat64() * float64(scale)))
			if i >= 2000 {
				sum += math.Log(float64(h.Estimate()))
				n++
			}
		}
		want := 3 * float64(scale) // -ln 0.05 = 3.0
		require.InEpsilon(t, want, math.Exp(sum/float64(n)), 0.1, "of a mean of %v", scale)
	}
}

func TestHedgeAtP95SendsASecondCopyOfTheSlowest(t *testing.T) {
	var n, second atomic.Int32
	inPipes(t, true, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: poolyhttp.HedgeAtP95}, map[string]http.HandlerFunc{
		"a": func(w http.ResponseWriter, r *http.Request) {
			d := 10 * ms
			if n.Add(1)%50 == 0 {
				d = time.Second
			}
			after(d, 200, "a", nil)(w, r)
		},
		"b": after(10*ms, 200, "b", &second),
	}, func(t *testing.T, _ *pipes, client *http.Client, _ *pooly.Service) {
		for i := range 1000 {
			began := time.Now()
			_, _, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.Less(t, time.Since(began), 40*ms, "request %d", i)
		}
		require.GreaterOrEqual(t, second.Load(), int32(20))
	})
}

func TestAHostThatAlwaysLosesGetsLittleTraffic(t *testing.T) {
	for name, strategy := range map[string]pooly.Bandit{
		"score": pooly.NewSoftMax(0.1), "latency": &pooly.PeakEWMA{},
	} {
		t.Run(name, func(t *testing.T) {
			var lost atomic.Int32
			handlers := map[string]http.HandlerFunc{"hangs": after(time.Hour, 200, "", &lost)}
			for i := range 29 {
				handlers[fmt.Sprint("host", i)] = after(10*ms, 200, "", nil)
			}
			config := pooly.ServiceConfig{BanditStrategy: strategy}
			inPipes(t, true, config, poolyhttp.Options{Hedge: 30 * ms}, handlers,
				func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
					client.Timeout = time.Minute
					play := func() int32 {
						before := lost.Load()
						for range 600 {
							_, _, err := fetch(client, "GET", "http://web/", nil)
							require.NoError(t, err)
						}
						return lost.Load() - before
					}
					play() // it learns
					require.Less(t, play(), int32(6), "a fair share is 20 of 600")
				})
		})
	}
}

func TestAConnectionOnWhichAllCopiesLoseIsReplaced(t *testing.T) {
	var dead atomic.Bool
	inPipes(t, true, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
		"a": func(w http.ResponseWriter, r *http.Request) {
			if dead.Load() {
				<-r.Context().Done()
			}
		},
		"b": func(http.ResponseWriter, *http.Request) {},
	}, func(t *testing.T, p *pipes, client *http.Client, _ *pooly.Service) {
		for i := range 6 {
			_, _, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.EqualValues(t, 1, p.hosts["a"].dials.Load())
			dead.Store(i < 5)
		}
		_, _, err := fetch(client, "GET", "http://web/", nil)
		require.NoError(t, err)
		require.EqualValues(t, 2, p.hosts["a"].dials.Load())
	})
}

// A handler that streams its answer, as the winner's context must last until its end.
func TestTheWinnersBodyCanBeReadAfterTheRace(t *testing.T) {
	streams := func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			time.Sleep(100 * ms)
		}
	}
	for _, h2 := range []bool{false, true} {
		inPipes(t, h2, pooly.ServiceConfig{}, poolyhttp.Options{Hedge: 50 * ms}, map[string]http.HandlerFunc{
			"a": after(time.Minute, 200, "a", nil),
			"b": streams,
		}, func(t *testing.T, _ *pipes, client *http.Client, s *pooly.Service) {
			client.Timeout = 10 * time.Second
			_, body, err := fetch(client, "GET", "http://web/", nil)
			require.NoError(t, err)
			require.Equal(t, strings.Repeat("x", 10), body)
			synctest.Wait()
			require.Zero(t, s.Stats().InUse)
		})
	}
}

// For the race detector: http.RoundTripper says that the request is the caller's again then.
func TestARequestMayBeChangedOnceItsAnswerIsClosed(t *testing.T) {
	handler := func(http.ResponseWriter, *http.Request) { time.Sleep(rand.N(ms)) }
	_, s := webService(t, http1(), pooly.ServiceConfig{}, webServer(t, handler), webServer(t, handler))
	client := &http.Client{Transport: poolyhttp.NewTransport(s, &poolyhttp.Options{Hedge: ms / 2})}
	for range 300 {
		req, err := http.NewRequest("GET", "http://web/", nil)
		require.NoError(t, err)
		resp, err := client.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		req.Header.Set("A", "b")
	}
}

func TestOptionsOfHedgesAndRetriesAreChecked(t *testing.T) {
	s := pooly.NewService("web", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: http1()}})
	defer s.Close()
	for message, options := range map[string]poolyhttp.Options{
		"Hedge -2ns":            {Hedge: -2},
		"RetryStatuses has 200": {RetryStatuses: []int{503, 200}},
		"MaxRetryAfter -1ns":    {MaxRetryAfter: -1},
	} {
		func() {
			defer func() { require.ErrorContains(t, recover().(error), message) }()
			poolyhttp.NewTransport(s, &options)
		}()
	}
}
