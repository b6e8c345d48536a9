package poolyotel_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/3XX0/pooly"
	poolyotel "github.com/3XX0/pooly/otel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
)

// memory is a network in memory, in which "down:80" refuses.
type memory struct{}

func (memory) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	if address == "down:80" {
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

// collect returns what the SDK has by now, by name.
func collect(t *testing.T, reader sdk.Reader) map[string]metricdata.Metrics {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &data))
	found := make(map[string]metricdata.Metrics)
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
	}
	return found
}

func sum[N int64 | float64](name, unit, description string, monotonic bool, points ...metricdata.DataPoint[N]) metricdata.Metrics {
	return metricdata.Metrics{Name: name, Unit: unit, Description: description, Data: metricdata.Sum[N]{
		DataPoints: points, IsMonotonic: monotonic, Temporality: metricdata.CumulativeTemporality,
	}}
}

func gauge(name, unit, description string, points ...metricdata.DataPoint[float64]) metricdata.Metrics {
	return metricdata.Metrics{
		Name: name, Unit: unit, Description: description, Data: metricdata.Gauge[float64]{DataPoints: points},
	}
}

func point[N int64 | float64](value N, attributes ...string) metricdata.DataPoint[N] {
	var set []attribute.KeyValue
	for i := 0; i < len(attributes); i += 2 {
		set = append(set, attribute.String(attributes[i], attributes[i+1]))
	}
	return metricdata.DataPoint[N]{Value: value, Attributes: attribute.NewSet(set...)}
}

func TestInstrumentsTellWhatStatsDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
		s := newService(t, "orders", "up:80", "down:80")
		synctest.Wait()
		for range 3 {
			c, err := s.GetConn()
			require.NoError(t, err)
			require.NoError(t, c.Release(nil, 0.25))
		}
		held, err := s.GetConn()
		require.NoError(t, err)
		registration, err := poolyotel.Register(meter, s)
		require.NoError(t, err)
		hosts, err := poolyotel.RegisterHosts(meter, s)
		require.NoError(t, err)

		const name, state = "pooly.client.connection.pool.name", "pooly.client.connection.state"
		found := collect(t, reader)
		require.Len(t, found, 31)
		for _, want := range []metricdata.Metrics{
			sum("pooly.client.connection.count", "{connection}", "Connections, by state.", false,
				point[int64](1, name, "orders", state, "used"), point[int64](0, name, "orders", state, "idle")),
			sum("pooly.client.connection.max", "{connection}", "Connections that MaxConns allows, of all hosts together.", false,
				point[int64](60, name, "orders")),
			sum("pooly.client.connection.limit", "{lease}", "Leases that may be out at once.", false, point[int64](60, name, "orders")),
			sum("pooly.client.connection.shed", "{call}", "Calls turned away in overload.", true, point[int64](0, name, "orders")),
			sum("pooly.client.connection.retries", "{retry}", "Times Do ran a function again.", true, point[int64](0, name, "orders")),
			sum("pooly.client.connection.retries_refused", "{retry}", "Times Do did not run a function again for want of budget.", true,
				point[int64](0, name, "orders")),
			gauge("pooly.client.connection.oldest_lease", "s", "How long the oldest lease has lasted so far.",
				point(s.Stats().OldestLease.Seconds(), name, "orders")),
			sum("pooly.client.connection.leaked", "{lease}", "Leases that are out longer than LeakTimeout.", false, point[int64](0, name, "orders")),
			gauge("pooly.client.host.panic", "1", "1 while hosts fail alike, so that none is ejected for it, else 0.",
				point[float64](0, name, "orders")),
			sum("pooly.client.connection.gets", "{lease}", "Leases handed out.", true, point[int64](4, name, "orders")),
			sum("pooly.client.connection.releases", "{lease}", "Leases released.", true, point[int64](3, name, "orders")),
			sum("pooly.client.connection.dials", "{dial}", "Dials that ended, the failed ones included.", true, point[int64](2, name, "orders")),
			sum("pooly.client.connection.dial_failures", "{dial}", "Dials that failed.", true, point[int64](1, name, "orders")),
			sum("pooly.client.connection.get_failures", "{call}", "GetConn calls that returned an error.", true, point[int64](0, name, "orders")),
			sum("pooly.client.connection.waits", "{wait}", "Times a caller found no idle connection and waited.", true,
				point(int64(s.Stats().Waits), name, "orders")),
			sum("pooly.client.connection.waited", "s", "How long callers waited, together.", true,
				point(s.Stats().WaitDuration.Seconds(), name, "orders")),
			sum("pooly.client.connection.pending_requests", "{request}", "Callers that wait because no host has room.", false, point[int64](0, name, "orders")),
			sum("pooly.client.connection.dialing", "{connection}", "Dials in flight.", false, point[int64](0, name, "orders")),
			sum("pooly.client.host.registered", "{host}", "Hosts registered; with MaxHosts set, that may be more than are in use.", false,
				point[int64](2, name, "orders")),
			sum("pooly.client.host.count", "{host}", "Hosts in use, by state.", false,
				point[int64](1, name, "orders", "pooly.client.host.state", "up"), point[int64](1, name, "orders", "pooly.client.host.state", "ejected")),
		} {
			metricdatatest.AssertEqual(t, want, found[want.Name], metricdatatest.IgnoreTimestamp())
		}

		address := func(host string) attribute.Set {
			return attribute.NewSet(attribute.String(name, "orders"), semconv.ServerAddress(host), semconv.ServerPort(80))
		}
		metricdatatest.AssertEqual(t, metricdata.Metrics{
			Name: "pooly.client.host.ejected", Unit: "1", Description: "1 while the host takes no traffic because it failed, else 0.",
			Data: metricdata.Gauge[float64]{DataPoints: []metricdata.DataPoint[float64]{
				{Attributes: address("up"), Value: 0}, {Attributes: address("down"), Value: 1},
			}},
		}, found["pooly.client.host.ejected"], metricdatatest.IgnoreTimestamp())
		metricdatatest.AssertEqual(t, sum("pooly.client.host.ejections", "{ejection}", "How often the host was ejected.", true,
			metricdata.DataPoint[int64]{Attributes: address("up"), Value: 0}, metricdata.DataPoint[int64]{Attributes: address("down"), Value: 1},
		), found["pooly.client.host.ejections"], metricdatatest.IgnoreTimestamp())
		metricdatatest.AssertEqual(t, sum("pooly.client.host.gets", "{lease}", "Leases handed out.", true,
			metricdata.DataPoint[int64]{Attributes: address("up"), Value: 4}, metricdata.DataPoint[int64]{Attributes: address("down"), Value: 0},
		), found["pooly.client.host.gets"], metricdatatest.IgnoreTimestamp())

		require.NoError(t, held.Release(nil, pooly.HostUp))
		require.NoError(t, hosts.Unregister())
		require.NotContains(t, collect(t, reader), "pooly.client.host.gets")
		require.NoError(t, registration.Unregister())
		require.Empty(t, collect(t, reader))
	})
}

func TestInstrumentsTellOfOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
		s := pooly.NewService("orders", &pooly.ServiceConfig{
			PoolConfig:  pooly.PoolConfig{Driver: fatal{}, MaxConns: 2, MaxWaiting: 1},
			GetAttempts: 2,
		})
		defer s.Close()
		s.Add("up:80")
		_, err := poolyotel.Register(meter, s)
		require.NoError(t, err)
		_, err = poolyotel.RegisterHosts(meter, s)
		require.NoError(t, err)
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

		found := collect(t, reader)
		stats := s.Stats()
		require.Positive(t, stats.Retries)
		require.Positive(t, stats.RetriesRefused)
		for name, want := range map[string]uint64{
			"shed": 1, "retries": stats.Retries, "retries_refused": stats.RetriesRefused, "max": 2, "limit": 1,
		} {
			got := found["pooly.client.connection."+name].Data.(metricdata.Sum[int64]).DataPoints[0].Value
			require.EqualValues(t, want, got, name)
		}
		for _, name := range []string{"pooly.client.connection.oldest_lease", "pooly.client.host.oldest_lease"} {
			require.InDelta(t, 0.2, found[name].Data.(metricdata.Gauge[float64]).DataPoints[0].Value, 0.11) // by the coarse clock
		}
		require.EqualValues(t, 1, found["pooly.client.host.limit"].Data.(metricdata.Sum[int64]).DataPoints[0].Value)
		require.NoError(t, held.Release(nil, pooly.HostUp))
	})
}

// fatal is memory in which every error is fatal.
type fatal struct{ memory }

func (fatal) Temporary(error) bool { return false }

// What the conventions have a name for has that name, with pooly in the place of db.
func TestInstrumentsFollowTheConventions(t *testing.T) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	_, err := poolyotel.Register(meter, newService(t, "orders", "up:80"))
	require.NoError(t, err)
	found := collect(t, reader)
	for _, convention := range []interface {
		Name() string
		Unit() string
	}{
		dbconv.ClientConnectionCount{}, dbconv.ClientConnectionMax{}, dbconv.ClientConnectionPendingRequests{},
	} {
		ours, ok := found[strings.Replace(convention.Name(), "db.", "pooly.", 1)]
		require.True(t, ok, convention.Name())
		require.Equal(t, convention.Unit(), ours.Unit)
		data, ok := ours.Data.(metricdata.Sum[int64])
		require.True(t, ok)
		require.False(t, data.IsMonotonic, "an up-down counter")
	}
	states := make(map[string]bool)
	for _, p := range found["pooly.client.connection.count"].Data.(metricdata.Sum[int64]).DataPoints {
		v, ok := p.Attributes.Value(attribute.Key(strings.Replace(string(semconv.DBClientConnectionStateKey), "db.", "pooly.", 1)))
		require.True(t, ok)
		states[v.AsString()] = true
		require.True(t, p.Attributes.HasValue(attribute.Key(strings.Replace(string(semconv.DBClientConnectionPoolNameKey), "db.", "pooly.", 1))))
	}
	require.Equal(t, map[string]bool{
		semconv.DBClientConnectionStateUsed.Value.AsString(): true, semconv.DBClientConnectionStateIdle.Value.AsString(): true,
	}, states)
}

func TestHostsHaveServerAddressAndPort(t *testing.T) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	addresses := []string{"[::1]:6379", "db.example.com:5432", "/run/sock", "host:http", "a:70000"}
	_, err := poolyotel.RegisterHosts(meter, newService(t, "orders", addresses...))
	require.NoError(t, err)
	got := make(map[string]string)
	for _, p := range collect(t, reader)["pooly.client.host.score"].Data.(metricdata.Gauge[float64]).DataPoints {
		host, _ := p.Attributes.Value(semconv.ServerAddressKey)
		port, _ := p.Attributes.Value(semconv.ServerPortKey)
		got[host.AsString()] = fmt.Sprint(port.AsInterface())
	}
	require.Equal(t, map[string]string{
		"::1": "6379", "db.example.com": "5432", "/run/sock": "<nil>", "host:http": "<nil>", "a:70000": "<nil>",
	}, got)
}

func TestInstrumentsOfAServiceAtWork(t *testing.T) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	s := newService(t, "orders", "a:80", "b:80", "down:80")
	for _, register := range []func(metric.Meter, ...*pooly.Service) (metric.Registration, error){poolyotel.Register, poolyotel.RegisterHosts} {
		_, err := register(meter, s)
		require.NoError(t, err)
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
	gets := func() int64 {
		return collect(t, reader)["pooly.client.connection.gets"].Data.(metricdata.Sum[int64]).DataPoints[0].Value
	}
	last := int64(0)
	for range 20 {
		now := gets()
		require.GreaterOrEqual(t, now, last, "a counter never falls")
		last = now
	}
	wg.Wait()
	s.Remove("a:80")
	require.EqualValues(t, 2000, gets(), "removed hosts included")
	require.NoError(t, s.Close())
	require.EqualValues(t, 2000, gets(), "closed, too")
}

// The exporter's protocol takes UTF-8 only. One other string would stop the export of the whole
// process.
func TestAddressThatIsNotUTF8DoesNotStopTheExport(t *testing.T) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	services := []*pooly.Service{
		newService(t, "orders\xff", "a\xff:80", "a\xfe:80", `a\xff:80`, "\xff", "\xfe"),
		newService(t, "orders\xfe", "a:80"),
	}
	_, err := poolyotel.Register(meter, services...)
	require.NoError(t, err)
	_, err = poolyotel.RegisterHosts(meter, services...)
	require.NoError(t, err)
	found := collect(t, reader)
	require.Len(t, sets(t, found["pooly.client.connection.gets"]), 2, "as many as services")
	require.Len(t, sets(t, found["pooly.client.host.gets"]), 6, "as many as hosts")
	require.Contains(t, sets(t, found["pooly.client.host.gets"]), attribute.NewSet(
		attribute.String("pooly.client.connection.pool.name", `orders\xff`),
		semconv.ServerAddress(`a\xff`), semconv.ServerPort(80)))
	for _, m := range found {
		sets(t, m)
	}
}

func TestAddressesThatAreAlikeHaveSeriesOfTheirOwn(t *testing.T) {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	addresses := []string{"a:80", "a:080", "[a]:80", "a:http", "a", "[::1]:80", ":80", "", "a:99999"}
	_, err := poolyotel.RegisterHosts(meter, newService(t, "orders", addresses...))
	require.NoError(t, err)
	found := sets(t, collect(t, reader)["pooly.client.host.gets"])
	require.Len(t, found, len(addresses))
	name := attribute.String("pooly.client.connection.pool.name", "orders")
	require.Contains(t, found, attribute.NewSet(name, semconv.ServerAddress("a"), semconv.ServerPort(80)))
	require.Contains(t, found, attribute.NewSet(name, semconv.ServerAddress("::1"), semconv.ServerPort(80)))
}

// sets returns the attributes of each point, all of which must be UTF-8.
func sets(t *testing.T, m metricdata.Metrics) (all []attribute.Set) {
	t.Helper()
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		for _, p := range data.DataPoints {
			all = append(all, p.Attributes)
		}
	case metricdata.Sum[float64]:
		for _, p := range data.DataPoints {
			all = append(all, p.Attributes)
		}
	case metricdata.Gauge[float64]:
		for _, p := range data.DataPoints {
			all = append(all, p.Attributes)
		}
	default:
		require.Fail(t, "another kind of metric", "%T", data)
	}
	for _, set := range all {
		for _, a := range set.ToSlice() {
			require.True(t, utf8.ValidString(a.Value.String()), "%s=%q", a.Key, a.Value.String())
		}
	}
	return all
}

func TestInstrumentsTellOfDrainedHostsAndClosedConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
		s := newService(t, "orders", "gone:80", "up:80")
		synctest.Wait()
		_, err := poolyotel.Register(meter, s)
		require.NoError(t, err)
		_, err = poolyotel.RegisterHosts(meter, s)
		require.NoError(t, err)
		require.NoError(t, s.Evict("up:80"))
		require.NoError(t, s.Drain("gone:80"))
		synctest.Wait()

		const name, reason = "pooly.client.connection.pool.name", "pooly.client.connection.close_reason"
		found := collect(t, reader)
		var closed []metricdata.DataPoint[int64]
		for why, n := range s.Stats().Closed.All() {
			closed = append(closed, point(int64(n), name, "orders", reason, why))
		}
		require.Len(t, closed, 9)
		metricdatatest.AssertEqual(t, sum("pooly.client.connection.closed", "{connection}", "Connections that were closed, by reason.", true,
			closed...), found["pooly.client.connection.closed"], metricdatatest.IgnoreTimestamp())
		hosts := found["pooly.client.host.connection.closed"].Data.(metricdata.Sum[int64]).DataPoints
		require.Len(t, hosts, 1, "only what is not zero")
		why, _ := hosts[0].Attributes.Value(reason)
		require.Equal(t, "evicted", why.AsString())
		states := make(map[string]int64)
		for _, p := range found["pooly.client.host.count"].Data.(metricdata.Sum[int64]).DataPoints {
			state, _ := p.Attributes.Value("pooly.client.host.state")
			states[state.AsString()] = p.Value
		}
		require.Equal(t, map[string]int64{"up": 1, "ejected": 0, "draining": 1}, states)
		require.Len(t, found["pooly.client.host.score"].Data.(metricdata.Gauge[float64]).DataPoints, 1, "of the host in use")
		require.Len(t, found["pooly.client.host.draining"].Data.(metricdata.Gauge[float64]).DataPoints, 2)
	})
}
