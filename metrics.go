package pooly

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/3XX0/pooly/internal/statsdtarget"
	"github.com/cactus/go-statsd-client/v5/statsd"
)

// metrics reports a service to a statsd server.
//
// Timings are sent as they happen, for the share of calls that is sampled. Counters are sent once a
// second, as differences of what Stats counts anyway. So they are exact at any sample rate and cost
// GetConn nothing.
type metrics struct {
	service *Service
	client  statsd.StatSender
	close   func() error
	target  *statsdtarget.Target
	rate    float64
	quit    chan struct{}
	done    sync.WaitGroup

	// The counters that were sent so far; used by one goroutine at a time.
	sent  struct{ gets, puts, getFails, fails uint64 }
	hosts hostMetrics
}

// reportPeriod is how often gauges and counters are sent.
const reportPeriod = time.Second

// lookupPeriod is how often the server's name is looked up again once it was found. Until then it
// is looked up every reportPeriod.
var lookupPeriod = 30 * time.Second // changed by tests alone

func startMetrics(s *Service) *metrics {
	m := &metrics{
		service: s,
		target:  statsdtarget.New(s.config.StatsdAddr, lookupPeriod),
		rate:    s.config.StatsdSampleRate,
		quit:    make(chan struct{}),
	}
	// The period and size are the library's defaults: 1,432 bytes fit a packet on Ethernet. The
	// buffer sends from a goroutine of its own, so GetConn waits for the socket only while 32
	// packets are queued. Neither constructor can fail with these arguments.
	buffer, _ := statsd.NewBufferedSenderWithSender(m.target, 300*time.Millisecond, 1432)
	format := s.config.StatsdHostMetrics
	prefix := "service." + metricName(s.name)
	client, _ := statsd.NewClientWithSender(buffer, prefix, format.tagFormat())
	sub := client.NewSubStatter("")
	sub.SetSamplerFunc(func(float32) bool { return true }) // observer samples, once per lease
	m.client, m.close = sub, client.Close
	m.hosts = hostMetrics{client: sub, format: format, hosts: make(map[string]*reportedHost)}
	m.target.ResolveLiteral()
	m.done.Go(m.run)
	return m
}

// metricName makes a name that statsd can parse: separators and white space become underscores.
func metricName(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ':' || r == '|' || r == '@' || r == '#' || r == ',' || r == ';':
			return '_'
		case r <= ' ' || r == 0x7f || r == '\u0085' || r == '\u00a0':
			return '_'
		}
		return r
	}, name)
}

// observer returns the Observer that sends timings.
func (m *metrics) observer() *Observer {
	return &Observer{
		LeaseSampleRate: m.rate,
		Leased: func(e LeaseEvent) {
			m.timing("conns.get.delay", e.Wait)
			_ = m.client.Timing("hosts.score", percent(e.Score), float32(m.rate))
		},
		Released: func(e ReleaseEvent) { m.timing("conns.active.period", e.Lasted) },
	}
}

// timing buffers a duration. The client's errors are ignored: metrics are lost then, and nobody can
// do anything about it.
func (m *metrics) timing(metric string, d time.Duration) {
	_ = m.client.TimingDuration(metric, d, float32(m.rate))
}

// run reports once a second until stop. Names are looked up in goroutines of their own, because a
// name server may take longer than that to answer.
func (m *metrics) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var resolving sync.WaitGroup
	defer resolving.Wait()
	ticker := time.NewTicker(reportPeriod)
	defer ticker.Stop()
	for {
		resolving.Go(func() { m.target.Resolve(ctx) })
		select {
		case <-ticker.C:
			m.report()
		case <-m.quit:
			cancel()
			return
		}
	}
}

// report sends the gauges, and what the counters have grown by.
func (m *metrics) report() {
	if !m.target.Known() {
		return // and send the counters later, so that nothing is missing from them
	}
	stats := m.service.stats()
	_ = m.client.Gauge("hosts.count", int64(stats.Registered), 1)
	_ = m.client.Gauge("conns.count", int64(stats.Open), 1)
	m.count("conns.get.count", stats.Gets, &m.sent.gets)
	m.count("conns.put.count", stats.Puts, &m.sent.puts)
	m.count("conns.get.fails", stats.GetFailures, &m.sent.getFails)
	m.count("conns.fails", stats.Failures, &m.sent.fails)
	m.hosts.report(stats.Hosts)
}

// count sends what a counter has grown by.
func (m *metrics) count(metric string, total uint64, sent *uint64) {
	if total > *sent {
		_ = m.client.Inc(metric, int64(total-*sent), 1)
		*sent = total
	}
}

// stop sends what is left and waits for the goroutines to end.
func (m *metrics) stop() {
	close(m.quit)
	m.done.Wait()
	m.report()
	_ = m.close()
}
