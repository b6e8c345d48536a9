package poolygrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/3XX0/pooly"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/serviceconfig"
)

// options are the policy's configuration, as in the service config.
type options struct {
	Strategy    string  `json:"strategy"`
	Choices     int     `json:"choices"`
	Quantile    float64 `json:"quantile"`
	Epsilon     float64 `json:"epsilon"`
	Temperature float64 `json:"temperature"`
	Exploration float64 `json:"exploration"`

	LatencyTarget duration     `json:"latencyTarget"`
	LoadMetric    string       `json:"loadMetric"`
	FailureCodes  []codes.Code `json:"failureCodes"`

	MaxRequests         int      `json:"maxRequests"`
	ConsecutiveFailures int      `json:"consecutiveFailures"`
	BaseEjectionTime    duration `json:"baseEjectionTime"`
	MaxEjectionTime     duration `json:"maxEjectionTime"`
	MaxEjectionPercent  int      `json:"maxEjectionPercent"`
	DecayDuration       duration `json:"decayDuration"`
}

func defaults() options {
	return options{
		Strategy:    "least_latency",
		Choices:     5,
		Quantile:    0.84,
		Epsilon:     0.1,
		Temperature: 0.1,
		Exploration: 0.5,
	}
}

// defaultFailureCodes are the codes with which servers fail. All others answer the request.
// OpenTelemetry's conventions call the same codes errors of a server, with two exceptions. They
// leave out RESOURCE_EXHAUSTED, by which an overloaded server refuses, and have UNIMPLEMENTED,
// which is about the method.
var defaultFailureCodes = []codes.Code{
	codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted,
	codes.Internal, codes.Unavailable, codes.DataLoss,
}

// strategies make the strategies by their names in the service config.
var strategies = map[string]func(*options) pooly.Bandit{
	"epsilon_greedy":       func(o *options) pooly.Bandit { return pooly.NewEpsilonGreedy(o.Epsilon) },
	"hot_cold":             newHotCold,
	"least_latency":        func(o *options) pooly.Bandit { return pooly.NewLeastLatency() },
	"peak_ewma":            func(o *options) pooly.Bandit { return pooly.NewPeakEWMA(o.Choices) },
	"power_of_two":         func(o *options) pooly.Bandit { return pooly.NewPowerOfTwo() },
	"round_robin":          func(o *options) pooly.Bandit { return pooly.NewRoundRobin() },
	"softmax":              func(o *options) pooly.Bandit { return pooly.NewSoftMax(o.Temperature) },
	"thompson":             func(o *options) pooly.Bandit { return pooly.NewThompson() },
	"ucb":                  func(o *options) pooly.Bandit { return pooly.NewUCB(o.Exploration) },
	"weighted_round_robin": func(o *options) pooly.Bandit { return pooly.NewWeightedRoundRobin() },
}

func newHotCold(o *options) pooly.Bandit { return pooly.NewHotCold(o.Choices, o.Quantile) }

// lbConfig is a validated configuration. It is immutable.
type lbConfig struct {
	serviceconfig.LoadBalancingConfig
	options options
}

func parse(text json.RawMessage) (*lbConfig, error) {
	c := &lbConfig{options: defaults()}
	if err := json.Unmarshal(text, &c.options); err != nil {
		return nil, fmt.Errorf("pooly: configuration %s: %w", text, err)
	}
	if _, err := c.service(); err != nil {
		return nil, fmt.Errorf("pooly: configuration %s: %w", text, err)
	}
	return c, nil
}

// service returns the configuration of a service, with a new strategy and without a driver.
func (c *lbConfig) service() (*pooly.ServiceConfig, error) {
	o := &c.options
	switch {
	case o.LatencyTarget < 0:
		return nil, fmt.Errorf("latencyTarget %v is negative", time.Duration(o.LatencyTarget))
	case o.MaxRequests < 0:
		return nil, fmt.Errorf("maxRequests %d is negative", o.MaxRequests)
	case slices.Contains(o.FailureCodes, codes.OK):
		return nil, errors.New("failureCodes: OK is no failure")
	}
	strategy, err := o.strategy()
	if err != nil {
		return nil, err
	}
	config := &pooly.ServiceConfig{
		PoolConfig:          pooly.PoolConfig{MaxConns: math.MaxInt32},
		PrespawnConns:       -1,
		FallbackDelay:       -1,
		CloseDeadline:       1, // leases are shares, so nobody minds if Close ends them
		ConsecutiveFailures: o.ConsecutiveFailures,
		BaseEjectionTime:    time.Duration(o.BaseEjectionTime),
		MaxEjectionTime:     time.Duration(o.MaxEjectionTime),
		MaxEjectionPercent:  o.MaxEjectionPercent,
		DecayDuration:       time.Duration(o.DecayDuration),
		BanditStrategy:      strategy,
		Logger:              logger,
	}
	if o.MaxRequests > 0 {
		config.MaxConns = o.MaxRequests
	}
	return config, config.Validate()
}

// strategy makes the strategy. Its constructor panics if a parameter is impossible.
func (o *options) strategy() (b pooly.Bandit, err error) {
	make, ok := strategies[o.Strategy]
	if !ok {
		names := slices.Sorted(maps.Keys(strategies))
		return nil, fmt.Errorf("strategy %q is none of %s", o.Strategy, strings.Join(names, ", "))
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("strategy %s: %v", o.Strategy, v)
		}
	}()
	return make(o), nil
}

// failures returns the codes that count as failures.
func (o *options) failures() (set [17]bool) {
	list := o.FailureCodes
	if list == nil {
		list = defaultFailureCodes
	}
	for _, c := range list {
		set[c] = true
	}
	return set
}

// duration is a duration as in a service config, such as "1.5s". It takes what
// [time.ParseDuration] takes.
type duration time.Duration

func (d *duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("duration %s is no string such as \"0.1s\"", text)
	}
	parsed, err := time.ParseDuration(s)
	if err != nil {
		return err
	}
	*d = duration(parsed)
	return nil
}
