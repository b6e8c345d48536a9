// statsd's configuration, for stack.sh and for compose.yaml.
{
  address: process.env.STATSD_HOST || "127.0.0.1",
  port: +(process.env.STATSD_PORT || 8125),
  mgmt_address: "127.0.0.1",
  mgmt_port: +(process.env.STATSD_MGMT_PORT || 8126),
  graphiteHost: process.env.GRAPHITE_HOST || "127.0.0.1",
  graphitePort: +(process.env.GRAPHITE_PORT || 2003),

  // Milliseconds. pooly reports once a second. A longer interval is fine, and must be no shorter than what carbon's
  // storage-schemas keep one value for.
  flushInterval: +(process.env.STATSD_FLUSH || 1000),
  percentThreshold: [50, 90, 99],

  // stats.counters.service.…, stats.gauges.… and stats.timers.…, as the dashboard expects.
  graphite: { legacyNamespace: false },

  // What is not reported any more is no data, rather than 0 or the last value: a host that was removed, say.
  deleteIdleStats: true,
}
