package pooly

import (
	"fmt"
	"log/slog"
	"time"
)

// The defaults of ServiceConfig.
const (
	DefaultPrespawnConns        = 1
	DefaultGetAttempts          = 3
	DefaultCloseDeadline        = 30 * time.Second
	DefaultFallbackDelay        = 250 * time.Millisecond
	DefaultConsecutiveFailures  = 5
	DefaultBaseEjectionTime     = 100 * time.Millisecond
	DefaultMaxEjectionTime      = 10 * time.Second
	DefaultDecayDuration        = time.Minute
	DefaultMemoizeScoreDuration = 100 * time.Millisecond
	DefaultStatsdSampleRate     = 1.0
)

// The defaults of PoolConfig.
const (
	DefaultDialTimeout = 10 * time.Second
	DefaultMaxConns    = 30
	DefaultConnRetries = 3
	DefaultRetryDelay  = 10 * time.Millisecond
)

// ServiceConfig configures a service. The zero value of each field stands for its default.
type ServiceConfig struct {
	PoolConfig

	// PrespawnConns is how many connections each host gets as soon as it is added. They are dialled
	// in the background, one after the other. Negative: none. Default 1.
	PrespawnConns int

	// GetAttempts is how many rounds over the hosts one GetConn makes, RetryDelay apart, before it
	// gives up. In a round it asks each host at most once. Default 3.
	GetAttempts int

	// CloseDeadline is how long Close waits for leases. Default 30 s.
	CloseDeadline time.Duration

	// FallbackDelay is how long a GetConn waits for a dial before it tries the next host alongside.
	// The first host to connect serves the call; the other connection goes to its pool.
	//
	// So a host that swallows connection requests delays one caller by this long. Until that dial
	// ends, no other caller is sent there to wait. Choose it longer than dials usually take.
	// Default 250 ms, as in RFC 8305; negative: never.
	FallbackDelay time.Duration

	// ConsecutiveFailures is how many Releases in a row with a fatal error eject a host, even if it
	// accepts connections: Envoy's consecutive_local_origin_failure. These do not count:
	//   - leases that began before the host was last restored;
	//   - leases that end with context.Canceled, which is the caller's own wish.
	//
	// After the host is restored one failure is enough, until a lease of it ends well. Default 5,
	// as in Envoy; negative: never.
	ConsecutiveFailures int

	// BaseEjectionTime is how long an ejected host waits for its first probe: Envoy's
	// base_ejection_time. It doubles with each failed probe, and with each further ejection until a
	// lease of the host ends well. Default 100 ms: far less than Envoy's 30 s, because a probe
	// finds out whether the host is back, and not a caller.
	BaseEjectionTime time.Duration

	// MaxEjectionTime bounds the doubled time: Envoy's max_ejection_time. A host that works again
	// has traffic again after this time at the latest. Each time is shortened by up to a fifth at
	// random, so that the clients of a host do not probe it together. Default 10 s, or
	// BaseEjectionTime if that is longer.
	MaxEjectionTime time.Duration

	// MaxEjectionPercent bounds the share of hosts that may be ejected because of how their leases
	// ended: Envoy's max_ejection_percent. So a caller's mistake in every request does not take all
	// hosts away. If there are two hosts or more, one may always be ejected, and the last one
	// never. Hosts whose dials fail are ejected without bound, but they count. Default 0: all but
	// one.
	MaxEjectionPercent int

	// DecayDuration is how far back a host's score looks, in 60 slots of which newer ones weigh
	// more. Default 1 min.
	DecayDuration time.Duration

	// MemoizeScoreDuration is the shortest time between two computations of the scores. If they
	// take long, as with thousands of hosts or a slow strategy, they are computed less often, so
	// that they take about 0.25 % of the time at most. Default 100 ms.
	MemoizeScoreDuration time.Duration

	// ScoreCalculator maps each score before the strategy sees it. Default nil: scores stay as they
	// are.
	ScoreCalculator Computer

	// BanditStrategy chooses the hosts. Default: NewRoundRobin.
	BanditStrategy Bandit

	// StatsdAddr is the host:port of a statsd server that gets the service's metrics over UDP. The
	// server may be down, or its name unknown, at any time: metrics are lost until it is there, and
	// nothing else happens. Default "": no metrics, at no cost.
	StatsdAddr string

	// StatsdSampleRate is the share of calls whose timings are sent, in (0, 1]. Counters are exact
	// at any rate. Default 1.
	StatsdSampleRate float64

	// MaxHosts is how many of the registered hosts are in use. It is for fleets in which
	// connections from every client to every host would be too many. A hash of SubsetSeed and the
	// addresses chooses the subset that this client uses. The other hosts get no connections,
	// probes or traffic.
	//
	// When a host comes or goes, at most one other host changes place with it. If all hosts in use
	// are ejected, more come into use, at most four times MaxHosts, until half of the subset is up
	// again.
	//
	// Choose it large enough for hosts to get about equal shares, see docs/STRATEGIES.md. Default
	// 0: all.
	MaxHosts int

	// SubsetSeed chooses the subset, and matters only with MaxHosts. Clients should have different
	// seeds. A seed that stays the same over restarts, such as a hash of the client's name, leads
	// to the same hosts. Default 0: a random seed.
	SubsetSeed uint64

	// StatsdHostMetrics reports each host as well: its score, health, connections and calls, in six
	// metrics per host. Default: HostMetricsOff.
	StatsdHostMetrics HostMetrics

	// Logger gets hosts that are ejected (warn) and restored (info), and plug-ins that misbehave
	// (error). Default: silent.
	Logger *slog.Logger
}

// Validate reports the first impossible value with an error that wraps ErrInvalidArg and names the
// field. Use it for a configuration that comes from outside, since NewService panics with the same
// error.
func (c *ServiceConfig) Validate() error {
	if err := c.PoolConfig.Validate(); err != nil {
		return err
	}
	switch {
	case c.GetAttempts < 0:
		return negative("GetAttempts", c.GetAttempts)
	case c.MaxHosts < 0:
		return negative("MaxHosts", c.MaxHosts)
	case c.CloseDeadline < 0:
		return negative("CloseDeadline", c.CloseDeadline)
	case c.BaseEjectionTime < 0:
		return negative("BaseEjectionTime", c.BaseEjectionTime)
	case c.MaxEjectionTime < 0:
		return negative("MaxEjectionTime", c.MaxEjectionTime)
	case c.MaxEjectionTime > 0 && c.MaxEjectionTime < c.BaseEjectionTime:
		return fmt.Errorf("%w: MaxEjectionTime %v is less than BaseEjectionTime %v", ErrInvalidArg,
			c.MaxEjectionTime, c.BaseEjectionTime)
	case c.MaxEjectionPercent < 0 || c.MaxEjectionPercent > 100:
		return fmt.Errorf("%w: MaxEjectionPercent %d is outside [0, 100]", ErrInvalidArg,
			c.MaxEjectionPercent)
	case c.DecayDuration < 0:
		return negative("DecayDuration", c.DecayDuration)
	case c.MemoizeScoreDuration < 0:
		return negative("MemoizeScoreDuration", c.MemoizeScoreDuration)
	case !(c.StatsdSampleRate >= 0 && c.StatsdSampleRate <= 1):
		return fmt.Errorf("%w: StatsdSampleRate %v is outside [0, 1]", ErrInvalidArg,
			c.StatsdSampleRate)
	case c.StatsdHostMetrics < HostMetricsOff || c.StatsdHostMetrics > HostMetricsInflux:
		return fmt.Errorf("%w: StatsdHostMetrics %d is none of the constants", ErrInvalidArg,
			c.StatsdHostMetrics)
	}
	return nil
}

func (c ServiceConfig) withDefaults() ServiceConfig {
	c.PoolConfig = c.PoolConfig.withDefaults()
	setDefault(&c.PrespawnConns, DefaultPrespawnConns)
	setDefault(&c.GetAttempts, DefaultGetAttempts)
	setDefault(&c.CloseDeadline, DefaultCloseDeadline)
	setDefault(&c.FallbackDelay, DefaultFallbackDelay)
	setDefault(&c.ConsecutiveFailures, DefaultConsecutiveFailures)
	setDefault(&c.BaseEjectionTime, DefaultBaseEjectionTime)
	setDefault(&c.MaxEjectionTime, max(DefaultMaxEjectionTime, c.BaseEjectionTime))
	setDefault(&c.DecayDuration, DefaultDecayDuration)
	setDefault(&c.MemoizeScoreDuration, DefaultMemoizeScoreDuration)
	setDefault(&c.StatsdSampleRate, DefaultStatsdSampleRate)
	if c.BanditStrategy == nil {
		c.BanditStrategy = NewRoundRobin()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// PoolConfig configures the pool of one host. The zero value of each field stands for its default.
type PoolConfig struct {
	// Driver connects, closes and judges connections. Default: NewNetDriver("tcp").
	Driver Driver

	// ConnIdleTimeout closes connections that have been idle for this long. Default 0: never.
	ConnIdleTimeout time.Duration

	// MaxConnLifetime closes connections this long after they were dialled, as soon as they are not
	// leased. Default 0: never.
	//
	// Each connection's lifetime is shortened by up to a tenth at random, so that connections that
	// were dialled together are not replaced together. Expiring connections also spread traffic
	// that keeps many connections busy: their places go to new ones, at hosts that have been
	// restored too.
	MaxConnLifetime time.Duration

	// DialTimeout bounds each dial, whatever the driver: the context that Dial gets ends after it.
	// A Dial that has not returned a second later is given up. Its place is free then, and what it
	// returns is closed. Default 10 s.
	DialTimeout time.Duration

	// TestTimeout bounds TestOnBorrow, for a driver that cannot be trusted to return at once. A
	// connection whose test takes longer counts as unfit. It costs a goroutine for each GetConn.
	// Default 0: the driver is trusted.
	TestTimeout time.Duration

	// WaitTimeout bounds how long one GetConn may wait: for a connection to come free or to be
	// dialled, or for the next round. Default 0: as long as its context allows.
	WaitTimeout time.Duration

	// MaxConns is the most connections that a host may have at any time, whether leased, idle,
	// being dialled or being closed. Default 30.
	MaxConns int

	// ConnRetries is how many times one address is dialled, RetryDelay apart, where there is no
	// other host to try: in the background, and by a Pool used alone. Default 3.
	ConnRetries int

	// RetryDelay is the time between two dials of the same address, and between two rounds of
	// GetConn. Default 10 ms.
	RetryDelay time.Duration
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
	} {
		if field.value < 0 {
			return negative(field.name, field.value)
		}
	}
	if c.MaxConns < 0 {
		return negative("MaxConns", c.MaxConns)
	}
	if c.ConnRetries < 0 {
		return negative("ConnRetries", c.ConnRetries)
	}
	return nil
}

func (c PoolConfig) withDefaults() PoolConfig {
	if c.Driver == nil {
		c.Driver = NewNetDriver("tcp")
	}
	setDefault(&c.DialTimeout, DefaultDialTimeout)
	setDefault(&c.MaxConns, DefaultMaxConns)
	setDefault(&c.ConnRetries, DefaultConnRetries)
	setDefault(&c.RetryDelay, DefaultRetryDelay)
	return c
}

func negative[T int | time.Duration](field string, value T) error {
	return fmt.Errorf("%w: %s %v is negative", ErrInvalidArg, field, value)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
