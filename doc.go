// Package pooly keeps pools of connections to the hosts of a service. A multi-armed bandit chooses
// the host of each call.
//
// A [Service] owns one pool per host. [Service.GetConn] asks a strategy for a host and leases one
// of its connections. [Conn.Release] gives the connection back and says how well the host did. The
// strategy learns from these scores: bad hosts lose their traffic, and good hosts keep it. A host
// that refuses connections loses its traffic at once. The caller writes no failover code.
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
// [Service.Do] is [Service.GetConn] and [Conn.Release] in one, on every path. If the function
// returns a [Retry] error, Do runs it again on another host. Clients that keep connections
// themselves, such as SQL and Redis clients, use [Service.DialContext]. HTTP has the package
// github.com/3XX0/pooly/poolyhttp, and gRPC the module github.com/3XX0/pooly/poolygrpc. Other
// protocols can build on [Service.Lease] and [Service.TryLease], as these packages do.
//
// # Connections
//
// A [Driver] makes the connections. [NetDriver], the default, makes TCP connections, Unix sockets
// or TLS. With a driver of your own, pooly pools any client, for example for SQL, Redis or Thrift.
// [DriverOf] makes a driver from a few functions. [NewSharedDriver] is for clients that serve many
// callers at once.
//
// A connection belongs to one lease at a time. After an error that the driver calls fatal it is
// closed. A connection that died while idle, or that holds unread bytes, is not handed out again.
// No host ever has more than MaxConns connections.
//
// # Strategies
//
// A [Bandit] chooses among the hosts:
//
//   - [NewRoundRobin], the default, takes the hosts in turn.
//   - [NewEpsilonGreedy], [NewSoftMax], [NewThompson], [NewUCB] and [NewWeightedRoundRobin] go by
//     the hosts' scores.
//   - [NewLeastLatency], [NewPeakEWMA], [NewHotCold] and [NewPowerOfTwo] weigh how many connections
//     are in use and how long leases last. They are best if hosts fill up. If in doubt, take
//     NewLeastLatency.
//
// A host's score is the mean of its Release scores in the last DecayDuration. Newer scores count
// more. To separate slow hosts from fast ones, rate requests by degrees, for example by their
// latency (see [LatencyScore]). docs/STRATEGIES.md in the repository compares the strategies.
//
// # Failing hosts
//
// A host is ejected if it refuses a connection, or if several of its requests in a row fail and the
// other hosts do better. It gets no traffic while another host is up. pooly dials it in the
// background: first after 100 ms, then after ever longer pauses of up to 10 s. When the host
// answers, its traffic returns.
//
// If a host does not answer a dial for 250 ms, pooly dials the next host in parallel. Later callers
// do not wait for the silent host. GetConn does not fail while one host can be reached.
// [Service.GetConnContext] says what it promises, and [GetConnError] what it tells if it fails.
// docs/RELIABILITY.md in the repository has each promise with its test.
//
// # Overload
//
// If all hosts are slow or fail, ejecting some would only add load to the others. So pooly ejects
// only outliers: hosts that are worse than the others. Callers queue in the client, where their
// deadlines are known:
//
//   - Callers are late when they have waited for a large part of the time until their deadline.
//     Late callers are served last, the newest of them first.
//   - While requests time out, pooly limits the leases of each host to what it can serve, below
//     MaxConns.
//   - [Service.Do] turns away calls that have too little time left, and bounds retries by a budget.
//   - MaxWaiting bounds the queue. Calls that are turned away get [ErrOverloaded].
//
// Give each call a deadline: a caller without a deadline is never late.
//
// # Discovery
//
// [Service.Add] adds one host, and [Service.SetHosts] replaces the whole list. [Service.Follow]
// takes the list from a [Resolver]: package dns has one for DNS, and the module
// github.com/3XX0/pooly/etcd has one for etcd.
//
// # Operation
//
// [Service.Ready] waits at start-up until hosts have connected. [Service.Drain] takes a host out for
// maintenance, [Service.Evict] has its connections replaced, and [Service.Resize] changes MaxConns.
//
// # Examples
//
// Programs to run and to copy from are at https://github.com/3XX0/pooly/tree/master/examples:
//
//   - netcat is the smallest program.
//   - clients has Redis, memcached, PostgreSQL, MySQL, Thrift, LDAP, HTTP and gRPC. Some have
//     drivers of their own. Others use clients that bring their own pools.
//   - live shows in a terminal how traffic leaves failing hosts and comes back.
//
// The guide is at https://github.com/3XX0/pooly/blob/master/docs/GUIDE.md.
//
// # Metrics
//
// With StatsdAddr set, a service reports to a statsd server, as service.<name>.<metric>:
//
//	hosts.score          timing   each GetConn: the score of the host picked, in percent
//	hosts.count          gauge    each second: hosts registered
//	conns.count          gauge    each second: connections open
//	conns.fails          counter  failed dials, also where another host then served the call
//	conns.put.count      counter  Release calls
//	conns.get.count      counter  GetConn calls that returned a connection
//	conns.get.delay      timing   how long those calls took, in ms
//	conns.get.fails      counter  GetConn calls that returned an error
//	conns.active.period  timing   how long a lease lasted, in ms
//
// Characters of the name that statsd cannot parse become underscores. [HostMetrics] says how each
// host is reported. [Service.Stats] has more figures, at any time, without a server. The nested
// modules prometheus and otel read it, and package debug makes a page of it.
package pooly
