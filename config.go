package pooly

import (
	"context"
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
	DefaultMaxEjectionPercent   = 80
	DefaultDecayDuration        = time.Minute
	DefaultMemoizeScoreDuration = 100 * time.Millisecond
	DefaultStatsdSampleRate     = 1.0
)

// ServiceConfig configures a service. The zero value of each field stands for its default.
type ServiceConfig struct {
	PoolConfig

	// PrespawnConns is how many connections each host gets as soon as it is added. They are dialled
	// in the background, one after the other. Negative: none. Default 1.
	PrespawnConns int

	// GetAttempts is how many rounds of dials must fail before a GetConn gives up. There are rounds
	// only while no host is up. In a round each host is dialled once, for all callers that wait,
	// and rounds are RetryDelay apart. GetAttempts is also how often Do runs a function at most.
	// Default 3.
	GetAttempts int

	// CloseDeadline is how long Close waits for leases. Default 30 s.
	CloseDeadline time.Duration

	// FallbackDelay is how long a GetConn waits for a dial before another host is dialled in
	// parallel. The first host to connect serves the call; the other connection goes to its pool.
	//
	// So a host that swallows connection requests delays its callers of that moment by this long.
	// Until that dial ends, no other caller waits for the host. Choose it longer than dials usually
	// take. Default 250 ms, as in RFC 8305; negative: never.
	//
	// Two other waits last as long: how long Do avoids a host after Retry, and how long a failed
	// dial does not eject a host whose leases may come back.
	FallbackDelay time.Duration

	// ConsecutiveFailures is how many leases in a row must fail, at least, to eject a host that
	// accepts connections. A lease fails if it is released with a fatal error, or if a function of
	// Do returns a Retry error. Default 5, as Envoy's consecutive_local_origin_failure; negative:
	// never.
	//
	// The host must also be worse than the others. If other hosts fail too, two more conditions
	// must hold:
	//   - It has failed so many times in a row that chance explains this in one case of 10⁸.
	//   - The share of its leases that end well is less than half of the other hosts' share.
	//
	// While all hosts fail alike, none is ejected, and Stats.Panic is set. If fewer than half of
	// the hosts are up then, hosts that were ejected for their leases take traffic again.
	//
	// After a host is restored, one failure ejects it again while the others do not fail. This
	// holds until one of its leases ends well. These failures do not count:
	//   - leases that began before the host was last restored;
	//   - leases that end with context.Canceled, which is the caller's own wish;
	//   - leases that end with a timeout, if the host had less time than its leases usually take,
	//     and has served somebody in the last two seconds.
	ConsecutiveFailures int

	// BaseEjectionTime is how long an ejected host waits for its first probe: Envoy's
	// base_ejection_time. It doubles with each failed probe, and with each further ejection until a
	// lease of the host ends well. Default 100 ms: far less than Envoy's 30 s, because a probe, and
	// not a caller, finds out whether the host is back.
	BaseEjectionTime time.Duration

	// MaxEjectionTime bounds the doubled time: Envoy's max_ejection_time. A host that works again
	// has traffic again after this time at the latest. Each time is shortened by up to a fifth at
	// random, so that the clients of a host do not probe it together. Default 10 s, or
	// BaseEjectionTime if that is longer.
	MaxEjectionTime time.Duration

	// MaxEjectionPercent bounds the share of hosts that may be ejected because of their leases:
	// Envoy's max_ejection_percent. If there are two hosts or more, one may always be ejected. The
	// last host is never ejected in this way. Hosts whose dials fail are ejected without bound, but
	// they count in this share. Default 80: two of three hosts, and 240 of 300. Envoy's default is
	// 10.
	MaxEjectionPercent int

	// CheckInterval is how long a host that is up may be unused until it is checked. If the driver
	// is a Pinger and a connection is idle, that connection is pinged. Otherwise the host is
	// dialled, and the new connection is closed if another is idle. If all MaxConns connections are
	// idle, one is closed to make room. A failed check counts like any failed dial, or any failed
	// ping (see KeepAlive). Each interval is lengthened by up to a tenth at random. Default 0: no
	// checks.
	CheckInterval time.Duration

	// DecayDuration is how far back a host's score looks, in 60 slots. The score is the weighted
	// mean of the slots since the host was added: of n slots, the slot of age k (newest 0) weighs
	// n-k. The value of a slot is the mean of its Release scores, or 0.5 if it has none. Default 1
	// min.
	DecayDuration time.Duration

	// MemoizeScoreDuration is the shortest time between two computations of the scores. With
	// thousands of hosts or a slow strategy the scores are computed less often, so that they take
	// about 0.25 % of the time at most. Default 100 ms.
	MemoizeScoreDuration time.Duration

	// ScoreCalculator maps each score before the strategy sees it. Default nil: scores stay as they
	// are.
	ScoreCalculator Computer

	// BanditStrategy chooses the hosts. Default: NewRoundRobin.
	BanditStrategy Bandit

	// StatsdAddr is the host:port of a statsd server that gets the service's metrics over UDP. The
	// server may be down, or its name unknown, at any time: metrics are lost until it is there, and
	// nothing else happens. The port is a number or the name of a service. Default "": no metrics,
	// at no cost.
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

	// ProbeRate is how many hosts, drawn at random, are asked for their load at each GetConn, Do,
	// Lease or CallWith, if the driver is a Prober. It may be a fraction, and is at most 16. The
	// probes run in the background. A host is probed once at a time, and not within 10 ms after
	// its last probe, so that many callers do not multiply probes. An idle service does not probe.
	//
	// It is for fleets: with many clients, the leases of this service say little of the load of a
	// host. Only LeastLatency uses what hosts say. 3 is a good value. Default 0: no probes.
	ProbeRate float64

	// ProbeWait is how long a call waits for its probes, at most. Without a wait, the call's probes
	// serve later calls. A wait pays if a client has few requests a second, and if a probe takes
	// much less time than a request. WaitTimeout does not bound this wait. Default 0: no wait.
	ProbeWait time.Duration

	// Observer is told of dials, waits, leases, ejections and retries. It is copied. Default nil:
	// no Observer, at no cost.
	Observer *Observer

	// Logger gets the service's messages. Warnings are about hosts that are ejected or fail alike,
	// addresses that the driver cannot dial, resolvers that fail, and leaks. Errors are about
	// plug-ins that misbehave. Hosts that are restored are logged as info. Default: slog.Default,
	// from warn on. A logger with slog.DiscardHandler silences the service.
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
	case c.CheckInterval < 0:
		return negative("CheckInterval", c.CheckInterval)
	case c.DecayDuration < 0:
		return negative("DecayDuration", c.DecayDuration)
	case c.MemoizeScoreDuration < 0:
		return negative("MemoizeScoreDuration", c.MemoizeScoreDuration)
	case c.StatsdAddr != "" && checkHostPort("udp", c.StatsdAddr) != nil:
		return fmt.Errorf("%w: StatsdAddr %q is not the host:port of a server: %w", ErrInvalidArg,
			c.StatsdAddr, checkHostPort("udp", c.StatsdAddr))
	case !(c.StatsdSampleRate >= 0 && c.StatsdSampleRate <= 1):
		return fmt.Errorf("%w: StatsdSampleRate %v is outside [0, 1]", ErrInvalidArg,
			c.StatsdSampleRate)
	case c.Observer != nil && !(c.Observer.LeaseSampleRate >= 0 && c.Observer.LeaseSampleRate <= 1):
		return fmt.Errorf("%w: Observer.LeaseSampleRate %v is outside [0, 1]", ErrInvalidArg,
			c.Observer.LeaseSampleRate)
	case !(c.ProbeRate >= 0 && c.ProbeRate <= mostProbes):
		return fmt.Errorf("%w: ProbeRate %v is outside [0, %d]", ErrInvalidArg, c.ProbeRate,
			mostProbes)
	case c.ProbeWait < 0:
		return negative("ProbeWait", c.ProbeWait)
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
	setDefault(&c.MaxEjectionPercent, DefaultMaxEjectionPercent)
	setDefault(&c.DecayDuration, DefaultDecayDuration)
	setDefault(&c.MemoizeScoreDuration, DefaultMemoizeScoreDuration)
	setDefault(&c.StatsdSampleRate, DefaultStatsdSampleRate)
	if c.BanditStrategy == nil {
		c.BanditStrategy = NewRoundRobin()
	}
	if c.Logger == nil {
		c.Logger = slog.New(warnings{slog.Default().Handler()})
	}
	return c
}

// mostProbes bounds ProbeRate. So many hosts can be drawn without an allocation.
const mostProbes = 16

// warnings is a log handler that drops everything below a warning.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
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
