package poolyprometheus_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	poolyprometheus "github.com/3XX0/pooly/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// memory is a network in memory, in which "down" refuses.
type memory struct{}

func (memory) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	if address == "down" {
		return nil, syscall.ECONNREFUSED
	}
	return pooly.NewConn(address), nil
}
func (memory) Close(*pooly.Conn)              {}
func (memory) TestOnBorrow(*pooly.Conn) error { return nil }
func (memory) Temporary(error) bool           { return true }

func newService(t *testing.T, name string, addresses ...string) *pooly.Service {
	s := pooly.NewService(name, &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: memory{}}, GetAttempts: 1})
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range addresses {
		s.Add(a)
	}
	return s
}

func TestCollectorPassesPrometheusOwnLint(t *testing.T) {
	s := newService(t, "orders", "up", "down")
	for _, c := range []prometheus.Collector{poolyprometheus.NewCollector(s), poolyprometheus.NewHostCollector(s)} {
		problems, err := testutil.CollectAndLint(c)
		require.NoError(t, err)
		require.Empty(t, problems)
	}
}

func TestCollectorTellsWhatStatsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, empty := newService(t, "orders", "up", "down"), newService(t, "empty")
		synctest.Wait()
		for range 3 {
			c, err := s.GetConn()
			require.NoError(t, err)
			require.NoError(t, c.Release(nil, 0.25))
		}
		held, err := s.GetConn()
		require.NoError(t, err)
		defer func() { _ = held.Release(nil, pooly.HostUp) }()
		_, err = empty.GetConn()
		require.Error(t, err)

		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(poolyprometheus.NewCollector(s, empty), poolyprometheus.NewHostCollector(s, empty))
		require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP pooly_connections Connections, by state.
# TYPE pooly_connections gauge
pooly_connections{service="empty",state="closing"} 0
pooly_connections{service="empty",state="dialing"} 0
pooly_connections{service="empty",state="idle"} 0
pooly_connections{service="empty",state="in_use"} 0
pooly_connections{service="orders",state="closing"} 0
pooly_connections{service="orders",state="dialing"} 0
pooly_connections{service="orders",state="idle"} 0
pooly_connections{service="orders",state="in_use"} 1
# HELP pooly_hosts Hosts in use, by state.
# TYPE pooly_hosts gauge
pooly_hosts{service="empty",state="ejected"} 0
pooly_hosts{service="empty",state="up"} 0
pooly_hosts{service="orders",state="ejected"} 1
pooly_hosts{service="orders",state="up"} 1
# HELP pooly_registered_hosts Hosts registered; with MaxHosts set, that may be more than are in use.
# TYPE pooly_registered_hosts gauge
pooly_registered_hosts{service="empty"} 0
pooly_registered_hosts{service="orders"} 2
# HELP pooly_host_ejections_total How often the host was ejected.
# TYPE pooly_host_ejections_total counter
pooly_host_ejections_total{address="down",service="orders"} 1
pooly_host_ejections_total{address="up",service="orders"} 0
# HELP pooly_gets_total Leases handed out.
# TYPE pooly_gets_total counter
pooly_gets_total{service="empty"} 0
pooly_gets_total{service="orders"} 4
# HELP pooly_releases_total Leases released.
# TYPE pooly_releases_total counter
pooly_releases_total{service="empty"} 0
pooly_releases_total{service="orders"} 3
# HELP pooly_get_failures_total GetConn calls that returned an error.
# TYPE pooly_get_failures_total counter
pooly_get_failures_total{service="empty"} 1
pooly_get_failures_total{service="orders"} 0
# HELP pooly_dial_failures_total Dials that failed.
# TYPE pooly_dial_failures_total counter
pooly_dial_failures_total{service="empty"} 0
pooly_dial_failures_total{service="orders"} 1
# HELP pooly_host_ejected 1 while the host takes no traffic because it failed, else 0.
# TYPE pooly_host_ejected gauge
pooly_host_ejected{address="down",service="orders"} 1
pooly_host_ejected{address="up",service="orders"} 0
# HELP pooly_host_gets_total Leases handed out.
# TYPE pooly_host_gets_total counter
pooly_host_gets_total{address="down",service="orders"} 0
pooly_host_gets_total{address="up",service="orders"} 4
# HELP pooly_host_dial_failures_total Dials that failed.
# TYPE pooly_host_dial_failures_total counter
pooly_host_dial_failures_total{address="down",service="orders"} 1
pooly_host_dial_failures_total{address="up",service="orders"} 0
`), "pooly_connections", "pooly_hosts", "pooly_registered_hosts", "pooly_host_ejections_total", "pooly_gets_total", "pooly_releases_total", "pooly_get_failures_total",
			"pooly_dial_failures_total", "pooly_host_ejected", "pooly_host_gets_total", "pooly_host_dial_failures_total"))

		families, err := registry.Gather()
		require.NoError(t, err)
		stats := s.Stats()
		for _, h := range stats.Hosts {
			require.InDelta(t, h.Score, value(t, families, "pooly_host_score", "address", h.Address), 1e-9)
			require.InDelta(t, h.NextProbe.Seconds(), value(t, families, "pooly_host_next_probe_seconds", "address", h.Address), 1e-9)
		}
		require.EqualValues(t, stats.Dials, value(t, families, "pooly_dials_total", "service", "orders"))
		require.EqualValues(t, stats.Waits, value(t, families, "pooly_waits_total", "service", "orders"))
		require.InDelta(t, stats.WaitDuration.Seconds(), value(t, families, "pooly_wait_seconds_total", "service", "orders"), 1e-9)
	})
}

func TestCollectorTellsOfOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("orders", &pooly.ServiceConfig{
			PoolConfig:  pooly.PoolConfig{Driver: fatal{}, MaxConns: 2, MaxWaiting: 1},
			GetAttempts: 2,
		})
		defer s.Close()
		s.Add("up")
		for range 30 { // more than the budget, and the limit falls to 1
			_ = s.Do(t.Context(), func(*pooly.Conn) error { return pooly.Retry(context.DeadlineExceeded) })
		}
		held, err := s.GetConn()
		require.NoError(t, err)
		go func() {
			if c, err := s.GetConn(); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}()
		synctest.Wait()
		_, err = s.GetConn()
		require.ErrorIs(t, err, pooly.ErrOverloaded)
		time.Sleep(200 * time.Millisecond)

		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(poolyprometheus.NewCollector(s), poolyprometheus.NewHostCollector(s))
		families, err := registry.Gather()
		require.NoError(t, err)
		stats := s.Stats()
		require.Positive(t, stats.Retries)
		require.Positive(t, stats.RetriesRefused)
		for name, want := range map[string]uint64{
			"pooly_shed_calls_total":      1,
			"pooly_retries_total":         stats.Retries,
			"pooly_retries_refused_total": stats.RetriesRefused,
			"pooly_max_connections":       2,
			"pooly_lease_limit":           1,
			"pooly_leaked_leases":         0,
			"pooly_panic":                 0,
			"pooly_host_max_connections":  2,
			"pooly_host_lease_limit":      1,
		} {
			require.EqualValues(t, want, value(t, families, name, "service", "orders"), name)
		}
		for _, name := range []string{"pooly_oldest_lease_seconds", "pooly_host_oldest_lease_seconds"} {
			require.InDelta(t, 0.2, value(t, families, name, "service", "orders"), 0.11) // by the coarse clock
		}
		require.NoError(t, held.Release(nil, pooly.HostUp))
	})
}

// fatal is memory in which every error is fatal.
type fatal struct{ memory }

func (fatal) Temporary(error) bool { return false }

func value(t *testing.T, families []*dto.MetricFamily, name, label, labelled string) float64 {
	t.Helper()
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if f.GetName() == name && l.GetName() == label && l.GetValue() == labelled {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
	}
	require.Fail(t, "no such metric", "%s{%s=%q}", name, label, labelled)
	return 0
}

// Over HTTP, read by Prometheus' own parser, while the service works.
func TestScrapeOfAServiceAtWork(t *testing.T) {
	s := newService(t, "orders", "up", "down", "bytes \xff and\nlines", `quotes " and \`)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(poolyprometheus.NewCollector(s), poolyprometheus.NewHostCollector(s))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}))
	defer server.Close()
	scrape := func() map[string]*dto.MetricFamily {
		answer, err := http.Get(server.URL)
		require.NoError(t, err)
		defer answer.Body.Close()
		require.Equal(t, http.StatusOK, answer.StatusCode)
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(answer.Body)
		require.NoError(t, err)
		return families
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				if c, err := s.GetConn(); err == nil {
					_ = c.Release(nil, pooly.HostUp)
				}
			}
		})
	}
	last := 0.0
	for range 10 {
		gets := scrape()["pooly_gets_total"].Metric[0].Counter.GetValue()
		require.GreaterOrEqual(t, gets, last, "a counter never falls")
		last = gets
	}
	wg.Wait()
	s.Add("another")
	s.Remove("up")
	families := scrape()
	require.EqualValues(t, s.Stats().Gets, families["pooly_gets_total"].Metric[0].Counter.GetValue(), "removed hosts included")
	require.Len(t, families["pooly_host_score"].Metric, 4)
	require.NoError(t, s.Close())
	families = scrape()
	require.EqualValues(t, s.Stats().Gets, families["pooly_gets_total"].Metric[0].Counter.GetValue(), "closed, too")
	require.NotContains(t, families, "pooly_host_score")
}

// Prometheus takes UTF-8 only, and no series twice. Either would stop the scrape of the whole
// process.
func TestAddressesThatAreNotUTF8DoNotStopTheScrape(t *testing.T) {
	services := []*pooly.Service{
		newService(t, "orders\xff", "a\xff", "a\xfe", "a\ufffd", `a\xff`),
		newService(t, "orders\xfe", "a"),
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(poolyprometheus.NewCollector(services...), poolyprometheus.NewHostCollector(services...))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, address := range []string{`a\xff`, `a\xfe`, "a\ufffd", `a\\xff`, "a"} {
		require.Zero(t, value(t, families, "pooly_host_gets_total", "address", address))
	}
	for _, name := range []string{`orders\xff`, `orders\xfe`} {
		require.Zero(t, value(t, families, "pooly_gets_total", "service", name))
	}
}

func TestCollectorLatencyIsThereIfTheStrategyAsks(t *testing.T) {
	s := pooly.NewService("orders", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: memory{}}, BanditStrategy: pooly.NewPeakEWMA(2)})
	defer s.Close()
	s.Add("up")
	require.Zero(t, testutil.CollectAndCount(poolyprometheus.NewHostCollector(s), "pooly_host_latency_seconds"))
	c, err := s.GetConn()
	require.NoError(t, err)
	require.NoError(t, c.Release(nil, pooly.HostUp))
	require.Equal(t, 1, testutil.CollectAndCount(poolyprometheus.NewHostCollector(s), "pooly_host_latency_seconds"))
}

func TestCollectorRefusesServicesOfOneName(t *testing.T) {
	a, b := newService(t, "orders"), newService(t, "orders")
	for _, make := range []func(...*pooly.Service) prometheus.Collector{poolyprometheus.NewCollector, poolyprometheus.NewHostCollector} {
		require.Contains(t, panicOf(func() { make(a, b) }), `two services are named "orders"`)
	}
}

func panicOf(f func()) (message string) {
	defer func() { message = fmt.Sprint(recover()) }()
	f()
	return ""
}

func TestCollectorTellsOfDrainedHostsAndClosedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, "orders", "gone", "up")
		synctest.Wait()
		require.NoError(t, s.Evict("up"))
		require.NoError(t, s.Drain("gone"))
		synctest.Wait()
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(poolyprometheus.NewCollector(s), poolyprometheus.NewHostCollector(s))
		require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP pooly_connections_closed_total Connections that were closed, by reason.
# TYPE pooly_connections_closed_total counter
pooly_connections_closed_total{reason="asked",service="orders"} 0
pooly_connections_closed_total{reason="ejected",service="orders"} 0
pooly_connections_closed_total{reason="evicted",service="orders"} 1
pooly_connections_closed_total{reason="failed",service="orders"} 0
pooly_connections_closed_total{reason="idle",service="orders"} 0
pooly_connections_closed_total{reason="lifetime",service="orders"} 0
pooly_connections_closed_total{reason="removed",service="orders"} 1
pooly_connections_closed_total{reason="surplus",service="orders"} 0
pooly_connections_closed_total{reason="unfit",service="orders"} 0
# HELP pooly_host_connections_closed_total Connections that were closed, by reason.
# TYPE pooly_host_connections_closed_total counter
pooly_host_connections_closed_total{address="up",reason="evicted",service="orders"} 1
# HELP pooly_host_draining 1 while the host is drained, else 0.
# TYPE pooly_host_draining gauge
pooly_host_draining{address="gone",service="orders"} 1
pooly_host_draining{address="up",service="orders"} 0
# HELP pooly_host_score The host's score as the strategy sees it, in [0, 1].
# TYPE pooly_host_score gauge
pooly_host_score{address="up",service="orders"} 0.5
# HELP pooly_hosts Hosts in use, by state.
# TYPE pooly_hosts gauge
pooly_hosts{service="orders",state="draining"} 1
pooly_hosts{service="orders",state="ejected"} 0
pooly_hosts{service="orders",state="up"} 1
`), "pooly_connections_closed_total", "pooly_host_connections_closed_total", "pooly_host_draining", "pooly_host_score", "pooly_hosts"))
	})
}
