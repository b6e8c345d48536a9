package debug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a network in memory, in which "down" refuses.
type memory struct{}

var errDown = errors.New(`it is <down> & "out"`)

func (memory) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	switch address {
	case "down":
		return nil, errDown
	case "down\xff":
		return nil, errors.New("refused by \"down\xff\"")
	}
	return pooly.NewConn(address), nil
}
func (memory) Close(*pooly.Conn)              {}
func (memory) TestOnBorrow(*pooly.Conn) error { return nil }
func (memory) Temporary(error) bool           { return true }

func newService(t testing.TB, name string, strategy pooly.Bandit, addresses ...string) *pooly.Service {
	s := pooly.NewService(name, &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: memory{}},
		BanditStrategy: strategy,
		Logger:         slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range addresses {
		s.Add(a)
	}
	return s
}

func ask(h http.Handler, method, target, accept string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestJSONTellsWhatStatsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, "orders", pooly.NewSoftMax(0.1), "up", "down")
		synctest.Wait()
		for range 3 {
			c, err := s.GetConn()
			require.NoError(t, err)
			require.NoError(t, c.Release(nil, 0.8))
		}
		c, err := s.GetConn()
		require.NoError(t, err)
		answer := ask(Handler(s), "GET", "/?format=json&sort=failed", "")
		require.NoError(t, c.Release(nil, 0.8))
		require.Equal(t, "application/json", answer.Header().Get("Content-Type"))
		var got state
		decoder := json.NewDecoder(answer.Body)
		decoder.DisallowUnknownFields()
		require.NoError(t, decoder.Decode(&got))
		require.Len(t, got.Services, 1)
		orders := got.Services[0]
		stats := s.Stats()
		require.Equal(t, "orders", orders.Name)
		require.Equal(t, "softmax(0.1)", orders.Strategy)
		require.Equal(t, 1, orders.InUse)
		require.EqualValues(t, 4, orders.Gets)
		require.Equal(t, stats.Failures, orders.Failures)
		require.Len(t, orders.Hosts, 2)
		down, up := orders.Hosts[0], orders.Hosts[1]
		require.Equal(t, "down", down.Address)
		require.True(t, down.Ejected)
		require.Equal(t, errDown.Error(), down.Cause)
		require.EqualValues(t, 1, down.Ejections)
		require.Equal(t, 2, orders.Registered)
		require.Positive(t, down.NextProbe)
		require.LessOrEqual(t, down.NextProbe, 10.0)
		require.EqualValues(t, 0, *down.Share)
		require.EqualValues(t, 1, *up.Share)
		require.Equal(t, "up", up.Address)
		require.Len(t, up.History, 1)
		require.InDelta(t, 0.8, up.History[0], 1e-9)
		require.Len(t, down.History, 1)
		require.True(t, math.IsNaN(down.History[0]), "nothing was released")
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (h *history) UnmarshalJSON(b []byte) error {
	var values []*float64
	if err := json.Unmarshal(b, &values); err != nil {
		return err
	}
	*h = nil
	for _, v := range values {
		if v == nil {
			*h = append(*h, math.NaN())
		} else {
			*h = append(*h, *v)
		}
	}
	return nil
}

// strict is memory in which every error is fatal.
type strict struct{ memory }

func (strict) Temporary(error) bool { return false }

func TestPageShowsAServiceInOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("orders", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: strict{}, MaxConns: 2, MaxWaiting: 1},
			Logger:     slog.New(slog.DiscardHandler),
		})
		defer s.Close()
		s.SetHosts("a", "b")
		synctest.Wait()
		quiet := ask(Handler(s), "GET", "/?format=fragment", "").Body.String()
		require.NotContains(t, quiet, "panic")
		require.NotContains(t, quiet, "oldest")
		require.NotContains(t, quiet, "refused</small>")
		require.NotContains(t, quiet, "limited")

		for range 100 { // all hosts time out
			_ = s.Do(t.Context(), func(*pooly.Conn) error { return pooly.Retry(context.DeadlineExceeded) })
		}
		var held []*pooly.Conn
		for range 2 { // the limit of each is 1 by now
			c, err := s.GetConn()
			require.NoError(t, err)
			held = append(held, c)
		}
		go func() {
			c, err := s.GetConn()
			if err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}()
		synctest.Wait()
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrOverloaded)
		time.Sleep(1500 * time.Millisecond)

		var got state
		require.NoError(t, json.Unmarshal(ask(Handler(s), "GET", "/?format=json", "").Body.Bytes(), &got))
		orders, stats := got.Services[0], s.Stats()
		require.True(t, orders.Panic)
		require.EqualValues(t, 1, orders.Shed)
		require.Equal(t, stats.Retries, orders.Retries)
		require.Equal(t, stats.RetriesRefused, orders.Refused)
		require.Positive(t, orders.Retries)
		require.Positive(t, orders.Refused)
		require.Equal(t, 1, orders.Waiting)
		require.Equal(t, 4, orders.MaxConns)
		require.Equal(t, 2, orders.Limit)
		require.InDelta(t, 1.5, orders.OldestLease, 0.2)
		require.Equal(t, 1, orders.Hosts[0].Limit)
		require.InDelta(t, 1.5, orders.Hosts[1].OldestLease, 0.2)

		body := ask(Handler(s), "GET", "/?format=fragment", "").Body.String()
		require.Contains(t, body, "panic: hosts fail alike")
		require.Contains(t, body, "<dd>2 <small>of 4</small></dd>")
		require.Contains(t, body, "limit <b>1</b> of 2")
		require.Contains(t, body, "<small>oldest "+seconds(orders.OldestLease)+"</small>")
		require.Contains(t, body, "oldest <b>"+seconds(orders.OldestLease)+"</b>")
		require.Contains(t, body, "<dt>Turned away</dt><dd>1</dd>")
		require.Contains(t, body, "refused</small>")
		for _, c := range held {
			require.NoError(t, c.Release(nil, pooly.HostUp))
		}
	})
}

func TestJSONIsWhatIsAskedFor(t *testing.T) {
	h := Handler(newService(t, "orders", nil))
	for _, c := range []struct {
		target, accept string
		json           bool
	}{
		{"/", "", false},
		{"/", "*/*", false},
		{"/", "application/json", true},
		{"/", "application/json, text/plain, */*", true},
		{"/", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false},
		{"/", "text/html, application/json", false},
		{"/", "application/json;q=0, */*", false},
		{"/?format=json", "text/html", true},
		{"/?format=html", "application/json", false},
	} {
		answer := ask(h, "GET", c.target, c.accept)
		require.Equal(t, http.StatusOK, answer.Code)
		require.Equal(t, c.json, json.Valid(answer.Body.Bytes()), "%s, %s", c.target, c.accept)
		require.Equal(t, c.json, strings.Contains(answer.Header().Get("Content-Type"), "json"))
	}
	require.Equal(t, http.StatusBadRequest, ask(h, "GET", "/?format=xml", "").Code)
}

func TestHandlerOnlyReads(t *testing.T) {
	h := Handler(newService(t, "orders", nil, "up"))
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		answer := ask(h, method, "/", "")
		require.Equal(t, http.StatusMethodNotAllowed, answer.Code, method)
		require.Equal(t, "GET, HEAD", answer.Header().Get("Allow"))
	}
	server := httptest.NewServer(h)
	defer server.Close()
	answer, err := server.Client().Head(server.URL)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Positive(t, answer.ContentLength)
	server.Client().CloseIdleConnections()
}

func TestPageEscapesNamesAndCauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const script = `<script>alert("x")</script>`
		h := Handler(newService(t, script, shouting{}, script, `" onclick="x`, "down"))
		synctest.Wait()
		for _, target := range []string{"/", "/?format=fragment", "/?sort=%22%3E%3Cu%3E"} {
			body := ask(h, "GET", target, "").Body.String()
			require.NotContains(t, body, "<script>a")
			require.NotContains(t, body, `" onclick="`)
			require.NotContains(t, body, "<down>")
			require.NotContains(t, body, "<i>")
			require.NotContains(t, body, `<u>`)
			require.Contains(t, body, "&lt;script&gt;")
			require.Contains(t, body, "it is &lt;down&gt; &amp; ")
		}
		body := ask(h, "GET", "/?format=json", "").Body.String()
		require.NotContains(t, body, "<", "for a browser that takes it for HTML")
	})
}

// shouting is a strategy with a name.
type shouting struct{}

func (shouting) NewPicker([]pooly.Arm) pooly.Picker { return shouting{} }
func (shouting) Pick(*rand.Rand) int                { return 0 }
func (shouting) String() string                     { return "<i>mine</i>" }

func TestPageAllowsNothingButItself(t *testing.T) {
	h := Handler(newService(t, "orders", nil, "up"))
	first, second := ask(h, "GET", "/", ""), ask(h, "GET", "/", "")
	policy := first.Header().Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.Contains(t, policy, "frame-ancestors 'none'")
	require.NotContains(t, policy, "unsafe")
	_, after, _ := strings.Cut(policy, "script-src 'nonce-")
	nonce, _, _ := strings.Cut(after, "'")
	require.Len(t, nonce, 26)
	require.Equal(t, 2, strings.Count(first.Body.String(), `nonce="`+nonce+`"`))
	require.NotEqual(t, policy, second.Header().Get("Content-Security-Policy"), "a nonce serves once")
	require.NotContains(t, first.Body.String(), "http://")
	require.NotContains(t, first.Body.String(), "https://")
	require.NotContains(t, first.Body.String(), ` style="`)
	require.Equal(t, "no-store", first.Header().Get("Cache-Control"))
	require.Equal(t, "nosniff", first.Header().Get("X-Content-Type-Options"))
}

func TestPageOfAStrategyThatCannotTell(t *testing.T) {
	body := ask(Handler(newService(t, "orders", shouting{}, "up")), "GET", "/", "").Body.String()
	require.Contains(t, body, "the strategy cannot tell")
}

func TestHostsAreSorted(t *testing.T) {
	hosts := []*pooly.HostStats{
		{Address: "10.0.0.10:80", Score: 0.9, PoolStats: pooly.PoolStats{InUse: 1, Failures: 2}},
		{Address: "10.0.0.9:80", Score: 0.5, PoolStats: pooly.PoolStats{InUse: 3, Failures: 0}},
		{Address: "a", Score: 0.1, PoolStats: pooly.PoolStats{InUse: 3, Failures: 1}},
		{Address: "10.0.0.9:8080", Score: 0.9},
		{Address: "10.0.0.09:80", Score: 0.9},
		{Address: "", Score: 1},
	}
	shares := map[string]float64{"10.0.0.9:80": 0.2, "a": 0.8}
	for sort, want := range map[string][]string{
		"":        {"", "10.0.0.09:80", "10.0.0.9:80", "10.0.0.9:8080", "10.0.0.10:80", "a"},
		"unknown": {"", "10.0.0.09:80", "10.0.0.9:80", "10.0.0.9:8080", "10.0.0.10:80", "a"},
		"score":   {"a", "10.0.0.9:80", "10.0.0.09:80", "10.0.0.9:8080", "10.0.0.10:80", ""},
		"share":   {"a", "10.0.0.9:80", "", "10.0.0.09:80", "10.0.0.9:8080", "10.0.0.10:80"},
		"use":     {"10.0.0.9:80", "a", "10.0.0.10:80", "", "10.0.0.09:80", "10.0.0.9:8080"},
		"failed":  {"10.0.0.10:80", "a", "", "10.0.0.09:80", "10.0.0.9:80", "10.0.0.9:8080"},
	} {
		slices.SortFunc(hosts, order(sort, shares))
		var got []string
		for _, h := range hosts {
			got = append(got, h.Address)
		}
		require.Equal(t, want, got, sort)
	}
}

func TestNumbersAreWrittenForPeople(t *testing.T) {
	require.Equal(t, []string{"0", "999", "1\u202f000", "1\u202f234\u202f567"},
		[]string{count(0), count(999), count(uint64(1000)), count(uint64(1234567))})
	require.Equal(t, []string{"0", "0.1", "9.9", "10", "50", "100"},
		[]string{percent(0), percent(0.001), percent(0.099), percent(0.0999), percent(0.5), percent(1)})
	require.Equal(t, []string{"0 µs", "12 µs", "1.5 ms", "120 ms", "2.3 s", "1m30s"},
		[]string{seconds(0), seconds(12e-6), seconds(0.0015), seconds(0.12), seconds(2.3), seconds(90)})
}

func TestSparklineEndsAtTheRightAndLeavesGaps(t *testing.T) {
	require.Equal(t, "", spark(nil))
	require.Equal(t, "M119 2.0h0", spark(history{1}))
	require.Equal(t, "M113 2.0h0L115 22.0M119 12.0h0", spark(history{1, 0, math.NaN(), 0.5}))
	full := make(history, 60)
	require.True(t, strings.HasPrefix(spark(full), "M1 22.0h0L3"))
}

func TestPageShowsTheFirstOfManyHosts(t *testing.T) {
	s := newService(t, "many", nil)
	for i := range pageLimit + 7 {
		s.Add(fmt.Sprint("host-", i))
	}
	body := ask(Handler(s), "GET", "/", "").Body.String()
	require.Equal(t, pageLimit, strings.Count(body, `<th scope="row">`))
	require.Contains(t, body, "and 7 hosts more")
	var got state
	require.NoError(t, json.Unmarshal(ask(Handler(s), "GET", "/", "application/json").Body.Bytes(), &got))
	require.Len(t, got.Services[0].Hosts, pageLimit+7)
}

func TestPageTellsASubsetFromAllHosts(t *testing.T) {
	s := pooly.NewService("orders", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: memory{}}, MaxHosts: 2})
	defer s.Close()
	s.Add("a")
	s.Add("b")
	require.NotContains(t, ask(Handler(s), "GET", "/", "").Body.String(), "<small>of")
	s.Add("c")
	body := ask(Handler(s), "GET", "/", "").Body.String()
	require.Contains(t, body, "<dd>2 <small>of 3</small></dd>")
	require.Equal(t, 2, strings.Count(body, `<th scope="row">`))
}

func TestHandlerWhileServicesWorkAndClose(t *testing.T) {
	s := newService(t, "orders", pooly.NewHotCold(2, 0.84), "a", "b", "down")
	h := Handler(s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 50 {
			assert.Equal(t, http.StatusOK, ask(h, "GET", "/", "").Code)
		}
	}()
	for range 500 {
		c, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, 1))
	}
	require.NoError(t, s.Close())
	<-done
	require.Contains(t, ask(h, "GET", "/", "").Body.String(), "No hosts")
}

// JSON would have one and the same sign for all of them.
func TestNamesThatAreNotUTF8StayApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Handler(newService(t, "orders\xff", hoarse{}, "a\xff", "a\xfe", `a\xff`, "down\xff"))
		synctest.Wait()
		var got state
		answer := ask(h, "GET", "/?format=json", "")
		require.True(t, utf8.Valid(answer.Body.Bytes()))
		require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &got))
		require.Equal(t, `orders\xff`, got.Services[0].Name)
		require.Equal(t, `mine\xff`, got.Services[0].Strategy)
		var hosts []string
		for _, host := range got.Services[0].Hosts {
			hosts = append(hosts, host.Address)
		}
		require.ElementsMatch(t, []string{`a\xff`, `a\xfe`, `a\\xff`, `down\xff`}, hosts)
		require.Equal(t, `refused by "down\xff"`, got.Services[0].Hosts[len(hosts)-1].Cause)

		page := ask(h, "GET", "/", "").Body.String()
		require.True(t, utf8.ValidString(page))
		for _, text := range []string{
			`orders\xff`, `mine\xff`, `>a\xff<`, `>a\xfe<`, `>a\\xff<`, `refused by &#34;down\xff&#34;`,
		} {
			require.Contains(t, page, text)
		}
	})
}

// hoarse is a strategy with a name that is not UTF-8.
type hoarse struct{ shouting }

func (hoarse) String() string { return "mine\xff" }

// slow is a strategy that takes a second to tell its shares, and notes how many ask at once.
type slow struct {
	mu           sync.Mutex // guards the fields below
	asking, most int
}

func (s *slow) NewPicker([]pooly.Arm) pooly.Picker { return s }
func (s *slow) Pick(*rand.Rand) int                { return 0 }

func (s *slow) Shares() []float64 {
	s.mu.Lock()
	s.asking++
	s.most = max(s.most, s.asking)
	s.mu.Unlock()
	time.Sleep(time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking--
	return []float64{1}
}

// However many ask, the page takes one core and the memory of one answer.
func TestManyRequestsAreAnsweredOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		strategy := new(slow)
		h := Handler(newService(t, "orders", strategy, "up"))
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				target := []string{"/", "/?format=json"}[i%2]
				if code := ask(h, "GET", target, "").Code; code != http.StatusOK {
					t.Error(code)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, 1, strategy.most)
	})
}

func TestClientThatHasGoneDoesNotWaitForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Handler(newService(t, "orders", new(slow), "up"))
		go ask(h, "GET", "/", "")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began := time.Now()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
		require.Equal(t, time.Millisecond, time.Since(began))
		require.Zero(t, w.Body.Len())
		time.Sleep(time.Second)
	})
}

// stuck is a client that does not read.
type stuck struct {
	http.ResponseWriter
	reads chan struct{}
}

func (w stuck) Write(b []byte) (int, error) {
	<-w.reads
	return w.ResponseWriter.Write(b)
}

func TestClientThatDoesNotReadHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Handler(newService(t, "orders", nil, "up"))
		w := stuck{httptest.NewRecorder(), make(chan struct{})}
		go h.ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
		synctest.Wait()
		require.Equal(t, http.StatusOK, ask(h, "GET", "/?format=json", "").Code)
		close(w.reads)
	})
}

// A request for very many hosts must not be a way to use up the memory.
func TestJSONOfManyHostsTakesLittleMemory(t *testing.T) {
	s := pooly.NewService("many", &pooly.ServiceConfig{PrespawnConns: -1})
	defer s.Close()
	addresses := make([]string, 10_000)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)
	}
	s.SetHosts(addresses...)
	h := Handler(s)
	ask(h, "GET", "/", "") // computes the scores
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ask(h, "GET", "/?format=json", "")
	runtime.ReadMemStats(&after)
	perHost := (after.TotalAlloc - before.TotalAlloc) / uint64(len(addresses))
	require.Less(t, perHost, uint64(4000), "bytes; the race detector takes half of them")
}

func ExampleHandler() {
	orders := pooly.NewService("orders", nil)
	defer orders.Close()
	mux := http.NewServeMux() // of a listener that is not public
	mux.Handle("/debug/pooly", Handler(orders))

	answer := ask(mux, "GET", "/debug/pooly", "application/json")
	fmt.Println(answer.Code, answer.Header().Get("Content-Type"))
	// Output: 200 application/json
}

func BenchmarkHandler(b *testing.B) {
	for _, n := range []int{10, 1000, 10_000} {
		s := newService(b, "orders", pooly.NewHotCold(5, 0.84))
		for i := range n {
			s.Add(fmt.Sprintf("10.0.%d.%d:80", i/256, i%256))
		}
		for _, format := range []string{"html", "json"} {
			b.Run(fmt.Sprintf("hosts=%d/%s", n, format), func(b *testing.B) {
				for b.Loop() {
					ask(Handler(s), "GET", "/?format="+format, "")
				}
			})
		}
	}
}

func TestPageShowsDrainedHostsAndClosedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, "orders", pooly.NewRoundRobin(), "gone", "up")
		synctest.Wait()
		require.NoError(t, s.Evict("up"))
		var held *pooly.Conn
		for held == nil || held.Address() != "gone" {
			held, _ = s.GetConn()
			defer func() { _ = held.Release(nil, pooly.HostUp) }()
		}
		require.NoError(t, s.Drain("gone"))
		synctest.Wait()
		body := ask(Handler(s), "GET", "/", "").Body.String()
		require.Contains(t, body, "1 drained")
		require.Contains(t, body, "1 open")
		require.Contains(t, body, `title="connections closed: 1 evicted"><dt>Closed</dt><dd>1</dd>`)
		require.Equal(t, 1, strings.Count(body, "history of the score"), "a drained host has no score")
		require.NoError(t, held.Release(nil, pooly.HostUp))
		synctest.Wait()
		require.Contains(t, ask(Handler(s), "GET", "/", "").Body.String(), "empty")
		require.Contains(t, ask(Handler(s), "GET", "/", "application/json").Body.String(), `"draining":true`)
		require.Contains(t, ask(Handler(s), "GET", "/", "application/json").Body.String(), `"closed":{"evicted":1,"removed":1}`)
	})
}
