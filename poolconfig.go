package pooly

import "time"

// The defaults of PoolConfig.
const (
	DefaultDialTimeout = 10 * time.Second
	DefaultMaxConns    = 30
	DefaultConnRetries = 3
	DefaultRetryDelay  = 10 * time.Millisecond
	DefaultKeepAlive   = time.Minute
)

// PoolConfig configures the pool of one host. The zero value of each field stands for its default.
type PoolConfig struct {
	// Driver connects, closes and judges connections. Default: NewNetDriver("tcp").
	Driver Driver

	// Hooks are called when a connection is dialled, leased, released and closed. Default: none, at
	// no cost.
	Hooks Hooks

	// ConnIdleTimeout closes connections that have been idle for this long. Default 0: never.
	ConnIdleTimeout time.Duration

	// MaxConnLifetime closes connections this long after they were dialled, as soon as they are not
	// leased. Default 0: never.
	//
	// Each connection's lifetime is shortened by up to a tenth at random, so that connections that
	// were dialled together are not replaced together. If traffic keeps many connections busy,
	// their expiry also spreads it: new connections take their places, also at hosts that have been
	// restored. A connection that many leases use at once, such as one of HTTP/2, gets no new
	// leases after its lifetime (see Share). For connections of DialContext, see Outdated.
	MaxConnLifetime time.Duration

	// DialTimeout bounds each dial, with any driver: the context that Dial gets ends after it, or
	// when the host is removed or the service closed. A Dial that has not returned a second later is
	// abandoned: its place becomes free, and what it returns is closed. Default 10 s.
	DialTimeout time.Duration

	// TestTimeout bounds TestOnBorrow, for a driver that cannot be trusted to return at once. A
	// connection whose test takes longer counts as unfit. It costs a goroutine for each GetConn.
	// Default 0: the driver is trusted. Tests of idle connections in the background are always
	// bounded, by 5 s if TestTimeout is 0.
	TestTimeout time.Duration

	// WaitTimeout bounds all waits of one GetConn together. Default 0: as long as its context
	// allows.
	WaitTimeout time.Duration

	// MaxConns is the most connections that a host may have at any time, whether leased, idle,
	// being dialled or being closed. Default 30, or what the driver says (see Driver). It bounds
	// the connections of DialContext only if it is set. Resize changes it.
	//
	// While requests time out, pooly finds a lower limit of leases for the host by itself, so that
	// callers queue here and not in the server. It rises again as requests succeed, and is lifted
	// after 10 s without a timeout. PoolStats.Limit shows it.
	MaxConns int

	// MinIdle is how many idle connections each host keeps at least. They are dialled one after the
	// other, some tenths of a second apart. They count in MaxConns. None is dialled while the host
	// is ejected or its requests time out. Default 0: none. DialContext does not use them.
	//
	// A connection that reaches ConnIdleTimeout or MaxConnLifetime is closed all the same, since a
	// firewall may have dropped it. A new one takes its place, up to 10 s before, if MaxConns and
	// MaxIdle leave room. Without room the host is short of connections for a moment.
	MinIdle int

	// MaxIdle is the most idle connections that each host keeps. A connection that becomes idle
	// beyond that is closed in the background. Default 0: no limit but MaxConns.
	MaxIdle int

	// KeepAlive is how often connections that stay idle are checked. Default 1 min; negative:
	// never.
	//
	// If the driver is a Pinger, each connection that was idle for this long is pinged, one after
	// the other at each host. This keeps firewalls from dropping it. Otherwise TestOnBorrow is
	// called, so that connections that the server has closed are closed here too.
	//
	// A connection that does not answer its ping is closed. That may be the fault of a firewall, so
	// the host is dialled: a dial that fails ejects it, as always. If the new connection does not
	// answer its ping either, that counts like a lease that failed, see ConsecutiveFailures.
	KeepAlive time.Duration

	// MaxWaiting is how many callers of a service, or of a Pool used alone, may wait in the queue.
	// Further callers get ErrOverloaded at once. Callers that wait for a dial of the host that the
	// strategy picked do not count. Default 0: no limit.
	MaxWaiting int

	// ConnRetries is how many times a Pool used alone dials before it fails its callers, RetryDelay
	// apart. A Service dials another host instead. Default 3.
	ConnRetries int

	// RetryDelay is the time between two dials of a Pool used alone, and between two rounds of
	// dials while no host is up. Default 10 ms.
	RetryDelay time.Duration

	// LeakTimeout finds code that does not release its leases. A lease that is out longer is logged
	// once (warn), with the stack of its GetConn, and again if it is released after all. If the
	// garbage collector finds that the program has lost the lease, its connection is closed and its
	// place is free again. PoolStats.Leaked counts the leases that are out longer.
	//
	// Such a lease is noticed at most a quarter of LeakTimeout, or a minute, late. pooly records
	// the stacks of a sample of leases, so that stacks take about 1 % of the time of leases. After
	// the first leak, it records all stacks. Leases of DialContext are left alone. See
	// docs/GUIDE.md.
	//
	// Logs go to ServiceConfig.Logger. A Pool used alone logs to slog.Default. Choose LeakTimeout
	// longer than the longest use of a connection. Default 0: off, at no cost.
	LeakTimeout time.Duration
}

// Validate reports the first impossible value with an error that wraps ErrInvalidArg and names the
// field. Use it for a configuration that comes from outside, since NewPool panics with the same
// error.
func (c *PoolConfig) Validate() error {
	for _, field := range []struct {
		name  string
		value time.Duration
	}{
		{"ConnIdleTimeout", c.ConnIdleTimeout},
		{"MaxConnLifetime", c.MaxConnLifetime},
		{"DialTimeout", c.DialTimeout},
		{"TestTimeout", c.TestTimeout},
		{"WaitTimeout", c.WaitTimeout},
		{"RetryDelay", c.RetryDelay},
		{"LeakTimeout", c.LeakTimeout},
	} {
		if field.value < 0 {
			return negative(field.name, field.value)
		}
	}
	if c.MaxConns < 0 {
		return negative("MaxConns", c.MaxConns)
	}
	if c.MaxWaiting < 0 {
		return negative("MaxWaiting", c.MaxWaiting)
	}
	if c.ConnRetries < 0 {
		return negative("ConnRetries", c.ConnRetries)
	}
	return c.validateIdle()
}

func (c PoolConfig) withDefaults() PoolConfig {
	if c.Driver == nil {
		c.Driver = NewNetDriver("tcp")
	}
	setDefault(&c.DialTimeout, DefaultDialTimeout)
	setDefault(&c.MaxConns, defaultMaxConns(c.Driver))
	c.MaxConns = min(c.MaxConns, mostConns)
	setDefault(&c.ConnRetries, DefaultConnRetries)
	setDefault(&c.RetryDelay, DefaultRetryDelay)
	setDefault(&c.KeepAlive, DefaultKeepAlive)
	return c
}

// closeGrace is how long a pool waits for a driver's Close, and for a Dial that ignores its
// context, before the place becomes free.
const closeGrace = time.Second

// mostConns stands for any larger MaxConns, so that sums with it do not overflow.
const mostConns = 1 << 30

// lifetimeJitter is the largest share by which MaxConnLifetime is shortened at random.
const lifetimeJitter = 0.1
