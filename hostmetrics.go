package pooly

import (
	"fmt"
	"hash/fnv"
	"strings"

	"github.com/cactus/go-statsd-client/v5/statsd"
)

// HostMetrics says whether statsd gets the metrics of each host, and how a metric names its host.
// They are sent once a second:
//
//	host.score           gauge    the host's score in percent
//	host.ejected         gauge    1 while the host is ejected, else 0
//	host.conns.count     gauge    connections open
//	host.conns.active    gauge    connections leased
//	host.conns.get.count counter  leases handed out
//	host.conns.fails     counter  dials that failed
//
// They come from what Stats counts anyway, so they cost GetConn and Release nothing.
//
// The server stores six series for every address that the service ever had. So leave host metrics
// off if addresses come and go. After a host is removed, one last report sets all its gauges except
// the score to 0. What the host counted in its last second appears only in the service's counters.
//
// Addresses are made safe for every server. Letters, digits and hyphens stay. A dot becomes one
// underscore, a colon two, and anything else one. If that loses something, or the address is longer
// than 100 bytes, a checksum is appended, so that no two hosts share a series:
//
//	10.0.0.1:6379        10_0_0_1__6379
//	db-1.example.com     db-1_example_com
//	[::1]:6379           _____1___6379_bc6a97f1
type HostMetrics int

const (
	// HostMetricsOff reports no hosts. It is the default.
	HostMetricsOff HostMetrics = iota

	// HostMetricsNamed puts the address into the name, for servers without tags:
	// service.<name>.host.<address>.score.
	HostMetricsNamed

	// HostMetricsGraphite appends the address as a tag of Graphite:
	// service.<name>.host.score;address=<address>.
	HostMetricsGraphite

	// HostMetricsDatadog appends the address as a tag of DogStatsD:
	// service.<name>.host.score:97|g|#address:<address>.
	HostMetricsDatadog

	// HostMetricsInflux appends the address as a tag of InfluxDB and Telegraf:
	// service.<name>.host.score,address=<address>.
	HostMetricsInflux
)

func (f HostMetrics) tagFormat() statsd.TagFormat {
	switch f {
	case HostMetricsGraphite:
		return statsd.InfixSemicolon
	case HostMetricsInflux:
		return statsd.InfixComma
	}
	return statsd.SuffixOctothorpe
}

// hostMetrics reports the hosts of a service. It is used by one goroutine at a time.
type hostMetrics struct {
	client statsd.StatSender
	format HostMetrics
	hosts  map[string]*reportedHost // by address
	round  uint64                   // counts reports
}

// reportedHost is a host that the server was told of.
type reportedHost struct {
	prefix      string // prefix of its metrics' names
	tags        []statsd.Tag
	gets, fails uint64 // the counters that were sent so far
	round       uint64 // the last report that had the host
}

// report sends the metrics of all hosts, and the last ones of hosts that were removed.
func (m *hostMetrics) report(hosts []HostStats) {
	if m.format == HostMetricsOff {
		return
	}
	m.round++
	for i := range hosts {
		m.reportHost(&hosts[i])
	}
	for address, h := range m.hosts {
		if h.round == m.round {
			continue
		}
		for _, gauge := range []string{"ejected", "conns.count", "conns.active"} {
			m.gauge(h, gauge, 0)
		}
		delete(m.hosts, address)
	}
}

func (m *hostMetrics) reportHost(stats *HostStats) {
	h := m.hosts[stats.Address]
	if h == nil {
		h = m.newHost(stats.Address)
		m.hosts[stats.Address] = h
	}
	h.round = m.round
	if !stats.Draining {
		m.gauge(h, "score", percent(stats.Score))
	}
	ejected := int64(0)
	if stats.Ejected {
		ejected = 1
	}
	m.gauge(h, "ejected", ejected)
	m.gauge(h, "conns.count", int64(stats.Open))
	m.gauge(h, "conns.active", int64(stats.InUse))
	m.count(h, "conns.get.count", stats.Gets, &h.gets)
	m.count(h, "conns.fails", stats.Failures, &h.fails)
}

func (m *hostMetrics) newHost(address string) *reportedHost {
	name := metricAddress(address)
	if m.format == HostMetricsNamed {
		return &reportedHost{prefix: "host." + name + "."}
	}
	return &reportedHost{prefix: "host.", tags: []statsd.Tag{{"address", name}}}
}

func (m *hostMetrics) gauge(h *reportedHost, metric string, value int64) {
	_ = m.client.Gauge(h.prefix+metric, value, 1, h.tags...)
}

// count sends what a counter has grown by.
func (m *hostMetrics) count(h *reportedHost, metric string, total uint64, sent *uint64) {
	if total < *sent { // the host was removed and added again
		*sent = 0
	}
	if total > *sent {
		_ = m.client.Inc(h.prefix+metric, int64(total-*sent), 1, h.tags...)
		*sent = total
	}
}

// percent rounds a score to percent.
func percent(score float64) int64 { return int64(100*score + 0.5) }

// addressLimit is how many bytes of an address go into a metric: carbon makes a file name of each
// part of a metric's name, and file names are limited to 255 bytes.
const addressLimit = 100

// metricAddress makes an address safe as a part of a metric's name and as a tag's value; see
// HostMetrics. An address that would lose something gets a checksum, so two addresses have the same
// name only if their checksums are equal by chance.
func metricAddress(address string) string {
	var b strings.Builder
	lossy := address == "" || len(address) > addressLimit
	// A separator that comes first, last or after another one is lossy: a..b would become the same
	// as a:b.
	last := '.'
	for _, r := range address[:min(len(address), addressLimit)] {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-':
			b.WriteRune(r)
		case r == '.':
			b.WriteByte('_')
			lossy = lossy || last == '.' || last == ':'
		case r == ':':
			b.WriteString("__")
			lossy = lossy || last == '.' || last == ':'
		default:
			b.WriteByte('_')
			lossy = true
		}
		last = r
	}
	if lossy || last == '.' || last == ':' {
		sum := fnv.New32a()
		_, _ = sum.Write([]byte(address))
		fmt.Fprintf(&b, "_%08x", sum.Sum32())
	}
	return b.String()
}
