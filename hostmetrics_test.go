package pooly_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestMetricsOfHostsAreNamedAsTheServerWants(t *testing.T) {
	for format, lines := range map[pooly.HostMetrics][]string{
		pooly.HostMetricsOff: nil,
		pooly.HostMetricsNamed: {
			"service.orders.host.db-1_example__80.score:50|g",
			"service.orders.host.db-1_example__80.ejected:0|g",
			"service.orders.host.db-1_example__80.conns.count:1|g",
			"service.orders.host.db-1_example__80.conns.active:1|g",
			"service.orders.host.db-1_example__80.conns.get.count:1|c",
		},
		pooly.HostMetricsGraphite: {
			"service.orders.host.score;address=db-1_example__80:50|g",
			"service.orders.host.conns.get.count;address=db-1_example__80:1|c",
		},
		pooly.HostMetricsDatadog: {
			"service.orders.host.score:50|g|#address:db-1_example__80",
			"service.orders.host.conns.get.count:1|c|#address:db-1_example__80",
		},
		pooly.HostMetricsInflux: {
			"service.orders.host.score,address=db-1_example__80:50|g",
			"service.orders.host.conns.get.count,address=db-1_example__80:1|c",
		},
	} {
		t.Run(fmt.Sprint(format), func(t *testing.T) {
			t.Parallel()
			statsd := startStatsd(t, "127.0.0.1:0")
			s := pooly.NewService("orders", &pooly.ServiceConfig{
				PoolConfig:        pooly.PoolConfig{Driver: newFakeDriver()},
				StatsdAddr:        statsd.address(),
				StatsdHostMetrics: format,
				PrespawnConns:     -1,
			})
			s.Add("db-1.example:80")
			c := get(t, s)
			var seen string
			eventually(t, func() bool {
				statsd.mu.Lock()
				defer statsd.mu.Unlock()
				seen += strings.Join(statsd.packets, "\n") + "\n"
				statsd.packets = nil
				return strings.Contains(seen, "conns.get.count:1|c\n") // of the service; the report's rest is in the same packet
			})
			release(t, c)
			require.NoError(t, s.Close())
			for _, line := range lines {
				require.Contains(t, seen, line+"\n")
			}
			if format == pooly.HostMetricsOff {
				require.NotContains(t, seen, "host.")
			}
		})
	}
}

func TestMetricsOfHostsCountExactlyAndEndWithTheHost(t *testing.T) {
	statsd := startStatsd(t, "127.0.0.1:0")
	d := newFakeDriver()
	d.refuse("dead")
	s := pooly.NewService("orders", &pooly.ServiceConfig{
		PoolConfig:        pooly.PoolConfig{Driver: d},
		StatsdAddr:        statsd.address(),
		StatsdHostMetrics: pooly.HostMetricsNamed,
	})
	s.Add("a")
	s.Add("dead")
	for range 1000 {
		release(t, get(t, s))
	}
	last := func(metric string) float64 {
		values := statsd.get("service.orders.host." + metric)
		if len(values) == 0 {
			return -1
		}
		return values[len(values)-1].value
	}
	eventually(t, func() bool { return statsd.sum("service.orders.host.a.conns.get.count") == 1000 })
	eventually(t, func() bool { return last("dead.ejected") == 1 })
	require.EqualValues(t, 0, last("dead.conns.count"))
	require.EqualValues(t, 1, last("a.conns.count"))
	failures := hostStats(t, s, "dead").Failures
	eventually(t, func() bool { return statsd.sum("service.orders.host.dead.conns.fails") >= float64(failures) })

	reports := func() int { return len(statsd.get("service.orders.host.a.conns.count")) }
	eventually(t, func() bool { return reports() >= 3 })
	require.EqualValues(t, 1000, statsd.sum("service.orders.host.a.conns.get.count"), "what was sent is not sent again")

	s.Remove("a")
	s.Remove("dead")
	eventually(t, func() bool { return last("dead.ejected") == 0 && last("a.conns.count") == 0 })
	was := reports()
	s.Add("a")
	for range 10 {
		release(t, get(t, s))
	}
	eventually(t, func() bool { return statsd.sum("service.orders.host.a.conns.get.count") == 1010 })
	require.Greater(t, reports(), was)
	s.Remove("a")
	s.Add("a") // before a report sees that it was gone
	for range 5 {
		release(t, get(t, s))
	}
	eventually(t, func() bool { return statsd.sum("service.orders.conns.put.count") == 1015 })
	require.NoError(t, s.Close())
	require.EqualValues(t, 1015, statsd.sum("service.orders.host.a.conns.get.count"))
	require.Empty(t, statsd.broken)
}

func TestMetricsKeepHostsApartWhateverTheirAddresses(t *testing.T) {
	for address, name := range map[string]string{
		"10.0.0.1:6379":    "10_0_0_1__6379",
		"db-1.example.com": "db-1_example_com",
		"[::1]:6379":       "_____1___6379_bc6a97f1",
	} {
		require.Equal(t, name, pooly.MetricAddress(address), "as documented")
	}
	long := strings.Repeat("x", 200)
	names := make(map[string]string)
	for _, address := range []string{
		"", " ", ".", "..", ":", "::", "_", "__", "a.b", "a:b", "a_b", "a__b", "a..b", "a.:b", "a:.b", "a::b", "a.", "a:", ".a", ":a",
		"a", "A", "a b", "a\nb", "a;b", "a=b", "a,b", "a|b", "a@b", "a#b", "a/b", "a/../b", "ä", "\xff", "~a",
		long, long + "y", long + "z", "a.b:c", "a:b.c", "a:b:c", "a.b.c",
	} {
		name := pooly.MetricAddress(address)
		require.Regexp(t, `^[A-Za-z0-9_-]+$`, name, "%q", address)
		require.Less(t, len(name), 250)
		require.NotContains(t, names, name, "%q and %q", address, names[name])
		names[name] = address
	}
}

func TestConfigRefusesHostMetricsThatAreNone(t *testing.T) {
	config := pooly.ServiceConfig{StatsdHostMetrics: 5}
	require.ErrorIs(t, config.Validate(), pooly.ErrInvalidArg)
	require.ErrorContains(t, config.Validate(), "StatsdHostMetrics 5")
	config.StatsdHostMetrics = -1
	require.ErrorContains(t, config.Validate(), "StatsdHostMetrics")
}
