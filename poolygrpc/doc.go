// Package poolygrpc is a gRPC load-balancing policy in which a pooly strategy chooses the server of
// each RPC. It takes two lines:
//
//	import _ "github.com/3XX0/pooly/poolygrpc"
//
//	conn, err := grpc.NewClient("dns:///orders.example.com:443", credentials,
//		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"pooly":{}}]}`))
//
// The resolver of the target lists the servers. gRPC connects to all of them, and reconnects with
// its own backoff. For each RPC the strategy picks one of the connected servers. A server whose
// RPCs fail more often than the RPCs of the others is ejected. It is tried again after 0.1 s, 0.2 s
// and so on, at most 10 s later each time.
//
// # Configuration
//
// All fields are optional. Durations are strings such as "0.1s". As gRPC demands, unknown fields
// are ignored, and a wrong value makes grpc.NewClient fail.
//
//   - strategy: one of least_latency (default), peak_ewma, hot_cold, power_of_two, round_robin,
//     weighted_round_robin, epsilon_greedy, softmax, thompson, ucb. See package pooly.
//   - choices: how many servers peak_ewma and hot_cold compare. Default 5.
//   - quantile: of hot_cold. Default 0.84.
//   - epsilon: of epsilon_greedy. Default 0.1.
//   - temperature: of softmax. Default 0.1.
//   - exploration: of ucb. Default 0.5.
//   - latencyTarget: rates an RPC by its latency, 0.5 at the target (pooly.LatencyScore). It is for
//     strategies that go by scores. Default none: an answer rates 1.
//   - loadMetric: the named metric of ORCA's per-RPC reports in which servers tell how many RPCs they
//     have in flight, the answered one included (see pooly.Conn.ReportLoad). Servers report with
//     orca.CallMetricsServerOption. It is for least_latency. Default none.
//   - failureCodes: the status codes that count as failures. Default: UNKNOWN, DEADLINE_EXCEEDED,
//     RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
//   - maxRequests: RPCs in flight per server. Default: no limit.
//   - consecutiveFailures, baseEjectionTime, maxEjectionTime, maxEjectionPercent, decayDuration: as
//     in pooly.ServiceConfig.
//
// [Builder] is for what JSON cannot express, such as a strategy of your own.
//
// # What an RPC tells
//
//   - A failure code rates the server 0, and counts against its health. DEADLINE_EXCEEDED does not
//     count if the RPC had less time than the server's RPCs usually take, or if a stream had
//     received something.
//   - CANCELLED tells nothing, nor does an RPC that was never sent.
//   - OK and all other codes are answers: the server works.
//
// Strategies that go by latency use the latency of an RPC, but not of a stream, whose length says
// nothing about the server. A method is a stream if its protobuf descriptor says so. Generated code
// registers descriptors.
//
// # How it works
//
// The policy is a parent of gRPC's endpoint sharding, like weighted_round_robin: each endpoint has
// a pick_first child, and the policy sees which of them are READY. A pooly.Service, with the
// endpoints as its hosts, chooses among the READY ones. Pick is TryLease and Done is Release.
// Strategies that go by load and latency look at leases, so a strategy without a Service would see
// nothing. A lease is a share of an endpoint, and costs no connection. gRPC owns the connections,
// so the Service never dials: pooly.NewSharedDriver, which owns what it shares, does not fit here.
//
// When a connection is lost, Report ejects its host at once. When a connection is made, Report
// restores its host. After an ejection for failed RPCs the endpoint is on probation: its next
// failure ejects it for twice as long. The probe of such an endpoint shows that gRPC has a
// connection, not that the server answers. The RPCs on probation show whether it answers.
//
// Pick never blocks. If all endpoints have maxRequests, or the lower limit that pooly finds while
// RPCs time out, gRPC makes the RPC wait, as it does while it connects.
//
// Client-side health checking and outlier_detection as a parent work as with gRPC's own policies.
// Transport security, retries, hedging and deadlines are gRPC's.
package poolygrpc
