// Package pooly keeps pools of connections to the hosts of a service, and has a multi-armed bandit choose the
// host of each call.
//
// A [Service] owns one pool per host. [Service.GetConn] asks a strategy for a host and leases one of its
// connections; [Conn.Release] gives the connection back and tells how well the host did. From these scores the
// strategy learns whom to prefer: bad hosts lose their traffic within milliseconds, good ones keep it, and the
// caller writes no failover code.
//
//	s := pooly.NewService("netcat", nil) // nil means every default
//	defer s.Close()
//	s.Add("127.0.0.1:1234")
//	s.Add("127.0.0.1:12345")
//
//	err := s.Do(ctx, func(c *pooly.Conn) error {
//		_, err := c.NetConn().Write([]byte("ping\n"))
//		return err
//	})
//
// [Service.Do] is [Service.GetConn] and [Conn.Release] in one, on every path, and runs the function again on another
// host if that says so. [Service.DialContext] is for clients that keep connections themselves, such as those of SQL and
// Redis, and [NewHTTPTransport] for HTTP.
//
// # Connections
//
// A [Driver] makes the connections. [NetDriver], the default, makes TCP ones, or Unix sockets or TLS; a driver
// of your own puts any client behind pooly, such as one for SQL, Redis or Thrift.
//
// A connection belongs to one lease at a time. After an error that the driver calls fatal it is closed, and one
// that died while idle, or that holds bytes nobody read, is not handed out again. No host ever has more than
// MaxConns.
//
// # Strategies
//
// A [Bandit] chooses among the hosts:
//
//   - [NewRoundRobin], the default, takes them in turn;
//   - [NewEpsilonGreedy], [NewSoftMax], [NewThompson], [NewUCB] and [NewWeightedRoundRobin] go by their scores;
//   - [NewPowerOfTwo], [NewPeakEWMA] and [NewHotCold] weigh how many connections are in use and how long leases
//     last, which is best where hosts fill up.
//
// A score is the mean of what Release was told in the last DecayDuration, of which the newer counts more. Rate
// requests by degrees, such as by their latency (see [LatencyScore]), and strategies tell slow hosts from fast ones.
// docs/STRATEGIES.md in the repository compares them.
//
// # Failing hosts
//
// A host that refuses a connection, or whose requests fail several times in a row, is ejected: it gets no traffic while
// another has any, and is dialled in the background, at first after 100 ms and then ever more rarely, up to each 10 s.
// When it answers, its share comes back by itself. A host that does not answer at all costs one caller 250 ms: then
// the next host is tried alongside. GetConn does not fail while one host can be reached: see [Service.GetConnContext] for
// what it promises, and [GetConnError] for what it tells if it fails. docs/RELIABILITY.md in the repository has the
// promises, each with its test.
//
// # Discovery
//
// Hosts are added one by one with [Service.Add], all at once with [Service.SetHosts], or by a [Resolver] that
// [Service.Follow] follows: package dns has one for DNS, and the module github.com/3XX0/pooly/etcd one for etcd.
//
// # Examples
//
// Programs to run and to copy from are in the repository, at https://github.com/3XX0/pooly/tree/master/examples: netcat
// is the least there is; clients has Redis, memcached, PostgreSQL, HTTP and gRPC, over drivers and under clients that
// bring their own pools; live draws in a terminal how traffic leaves hosts that fail and comes back. The guide is at
// https://github.com/3XX0/pooly/blob/master/docs/GUIDE.md.
//
// # Metrics
//
// With StatsdAddr set, a service reports to a statsd server, as service.<name>.<metric>:
//
//	hosts.score          timing   each GetConn: the score of the host picked, in percent
//	hosts.count          gauge    each second: hosts registered
//	conns.count          gauge    each second: connections open
//	conns.fails          counter  dials that failed, those made good by another included
//	conns.put.count      counter  Release calls
//	conns.get.count      counter  GetConn calls that returned a connection
//	conns.get.delay      timing   how long these took, in ms
//	conns.get.fails      counter  GetConn calls that returned an error
//	conns.active.period  timing   how long a lease lasted, in ms
//
// Characters of the name that statsd cannot parse become underscores. [HostMetrics] says how each host is reported, too.
// [Service.Stats] tells more, at any time, without a server; the nested modules prometheus and otel read it, and package
// debug makes a page of it.
package pooly
