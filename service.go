package pooly

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// The defaults of ServiceConfig.
const (
	DefaultPrespawnConns        = 1
	DefaultGetAttempts          = 3
	DefaultCloseDeadline        = 30 * time.Second
	DefaultDecayDuration        = time.Minute
	DefaultMemoizeScoreDuration = 100 * time.Millisecond
	DefaultStatsdSampleRate     = 1.0
)

// Computer maps a host's score to the one that the strategy sees, both in [0, 1]. It makes small differences
// between good hosts larger, say. Compute may be called concurrently, and at any time but not on the way of
// GetConn's fast path. If it panics or returns NaN, the score stays as it was; a result outside [0, 1] is
// brought to the nearer end.
type Computer interface {
	Compute(score float64) float64
}

// ServiceConfig configures a service. The zero value of each field stands for its default.
type ServiceConfig struct {
	PoolConfig

	// PrespawnConns is how many connections each host gets as soon as it is added, dialled in the background one
	// after the other. Negative: none. Default 1.
	PrespawnConns int

	// GetAttempts is how many rounds over the hosts one GetConn makes, RetryDelay apart, before it gives up. In a
	// round it asks each host at most once. Default 3.
	GetAttempts int

	// CloseDeadline is how long Close waits for leases. Default 30 s.
	CloseDeadline time.Duration

	// DecayDuration is how far back a host's score looks, in 60 slots of which the newer weigh more. Default 1 min.
	DecayDuration time.Duration

	// MemoizeScoreDuration is the shortest time between two computations of the scores. Default 100 ms.
	MemoizeScoreDuration time.Duration

	// ScoreCalculator maps each score before the strategy sees it. Default nil: as it is.
	ScoreCalculator Computer

	// BanditStrategy chooses the hosts. Default: NewRoundRobin.
	BanditStrategy Bandit

	// StatsdAddr is the host:port of a statsd server that gets the service's metrics over UDP. It may be down, or
	// its name unknown, at any time: metrics are lost until it is there, and nothing else happens. Default "": no
	// metrics, at no cost.
	StatsdAddr string

	// StatsdSampleRate is the share of calls whose timings are sent, in (0, 1]. Counters are exact at any rate.
	// Default 1.
	StatsdSampleRate float64

	// Logger gets hosts that are ejected (warn) and restored (info), and plug-ins that misbehave (error).
	// Default: silent.
	Logger *slog.Logger
}

// Validate reports the first impossible value with an error that wraps ErrInvalidArg and names the field. It is
// for those who read a configuration from outside, since NewService panics with the same error.
func (c *ServiceConfig) Validate() error {
	if err := c.PoolConfig.Validate(); err != nil {
		return err
	}
	switch {
	case c.GetAttempts < 0:
		return negative("GetAttempts", c.GetAttempts)
	case c.CloseDeadline < 0:
		return negative("CloseDeadline", c.CloseDeadline)
	case c.DecayDuration < 0:
		return negative("DecayDuration", c.DecayDuration)
	case c.MemoizeScoreDuration < 0:
		return negative("MemoizeScoreDuration", c.MemoizeScoreDuration)
	case !(c.StatsdSampleRate >= 0 && c.StatsdSampleRate <= 1):
		return fmt.Errorf("%w: StatsdSampleRate %v is outside [0, 1]", ErrInvalidArg, c.StatsdSampleRate)
	}
	return nil
}

func negative[T int | time.Duration](field string, value T) error {
	return fmt.Errorf("%w: %s %v is negative", ErrInvalidArg, field, value)
}

func (c ServiceConfig) withDefaults() ServiceConfig {
	c.PoolConfig = c.PoolConfig.withDefaults()
	setDefault(&c.PrespawnConns, DefaultPrespawnConns)
	setDefault(&c.GetAttempts, DefaultGetAttempts)
	setDefault(&c.CloseDeadline, DefaultCloseDeadline)
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

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Service is a named set of hosts that serve the same thing, with a pool of connections to each. GetConn leases
// a connection to a host that the strategy picks, and Conn.Release tells how well the host did.
//
// All methods may be called concurrently.
type Service struct {
	name    string        // immutable
	config  ServiceConfig // immutable, with its defaults filled in
	poolEnv               // immutable
	metrics *metrics      // immutable; nil if there is no statsd server
	rng     *rand.Rand    // immutable; safe for concurrent use, unlike most
	done    chan struct{} // closed by Close

	// Read by every call, written rarely.
	view   atomic.Pointer[view] // nil after a change of hosts, until the next call makes it anew
	busy   atomic.Bool          // a call came since the last tick
	timing atomic.Bool          // the strategy asks for latencies, so leases are timed
	slot   atomic.Int64         // the number of the current slot; right while the service is in use

	available          atomic.Int32  // hosts registered and not ejected; changed under their pools' locks
	generation         atomic.Uint64 // counts what makes a view stale: changes of hosts, of their health and of scores
	rebuilding         atomic.Bool
	tasks              tasks // what runs in the background and calls plug-ins
	getFailures        atomic.Uint64
	calculatorReported atomic.Bool   // a ScoreCalculator that misbehaves is logged once
	slotLength         time.Duration // immutable

	mu        sync.Mutex // guards the fields below; taken before a pool's lock, never held while calling plug-ins
	closed    bool
	hosts     map[string]*host
	order     []*host            // the hosts, each at its index
	draining  map[*host]struct{} // removed, with connections left
	retired   PoolStats          // of the hosts that were removed and have no connection left
	refreshed time.Duration      // when the scores were last computed; 0: never
	ticking   bool               // the timer is set
	unseen    bool               // a call came since the scores were last computed
	ticker    *time.Timer
}

// NewService returns a service without hosts, in which each field of config that is zero has its default; a nil
// config means every default. The config is copied. name is for errors, logs and metrics.
//
// It panics if config has an impossible value, with an error that names the field (see Validate). A statsd
// server that is not there is no error.
func NewService(name string, config *ServiceConfig) *Service {
	if config == nil {
		config = &ServiceConfig{}
	}
	if err := config.Validate(); err != nil {
		panic(err)
	}
	s := &Service{
		name:     name,
		config:   config.withDefaults(),
		rng:      rand.New(sharedSource{}),
		done:     make(chan struct{}),
		hosts:    make(map[string]*host),
		draining: make(map[*host]struct{}),
	}
	s.slotLength = max(1, s.config.DecayDuration/slots)
	s.poolEnv = poolEnv{
		config: s.config.PoolConfig,
		clock:  newClock(),
		queue:  new(waitQueue),
		log:    s.config.Logger,
	}
	s.reaper = newReaper(&s.poolEnv, s.eachPool)
	if s.config.StatsdAddr != "" {
		s.metrics = startMetrics(s)
	}
	return s
}

// Name returns the name given to NewService.
func (s *Service) Name() string {
	return s.name
}

// Add registers a host. When it returns, GetConn may pick the host; its first PrespawnConns connections are
// dialled in the background.
//
// Any string is taken: an address that cannot be dialled makes a host that is ejected, with the cause in the
// log and in GetConn's errors, and does the others no harm. Adding an address that is registered, or to a closed
// service, does nothing.
func (s *Service) Add(address string) {
	s.mu.Lock()
	_, known := s.hosts[address]
	if known || s.closed {
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	score := s.calculate(noTrials)

	h := &host{service: s}
	h.init(address, &s.poolEnv, h)
	h.score.Store(score)
	h.mean = noTrials
	s.mu.Lock()
	if _, known := s.hosts[address]; known || s.closed {
		s.mu.Unlock()
		return
	}
	h.window = newWindow(s.slotAt(s.clock.now()))
	h.index = len(s.order)
	s.hosts[address] = h
	s.order = append(s.order, h)
	s.available.Add(1)
	s.staleLocked()
	s.mu.Unlock()

	h.prespawn(s.config.PrespawnConns)
	h.serve()
}

// Remove takes a host out. When it returns, no GetConn picks the host any more. Its idle connections are closed
// in the background, and leased ones when they are released. Removing an unknown address does nothing.
//
// An address that is added again while leases of its former connections are out gets a new pool, to which these
// do not count.
func (s *Service) Remove(address string) {
	s.mu.Lock()
	h, known := s.hosts[address]
	if !known {
		s.mu.Unlock()
		return
	}
	delete(s.hosts, address)
	last := s.order[len(s.order)-1]
	last.index = h.index
	s.order[h.index] = last
	s.order[len(s.order)-1] = nil
	s.order = s.order[:len(s.order)-1]
	s.draining[h] = struct{}{}
	s.staleLocked()
	s.mu.Unlock()

	idle, _ := h.shut()
	go h.destroyAll(idle)
	s.forget(h)
	if s.available.Load() == 0 {
		s.queue.wakeAll(result{}) // those who waited for this host must look for another
	}
}

// staleLocked has the next call make a new view.
func (s *Service) staleLocked() {
	s.generation.Add(1)
	s.view.Store(nil)
}

// forget lets go of a removed host once it has no connection left, and keeps its counters.
func (s *Service) forget(h *host) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.draining[h]; !ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open == 0 {
		delete(s.draining, h)
		s.retired.add(h.statsLocked())
	}
}

// GetConn is GetConnContext without a context: only WaitTimeout bounds its wait.
func (s *Service) GetConn() (*Conn, error) {
	return s.GetConnContext(context.Background())
}

// GetConnContext leases a connection to the host that the strategy picks. While any host can serve, it
// succeeds:
//   - a host that cannot be reached is ejected and left for the next one, and asked at most once in each of
//     GetAttempts rounds;
//   - a host at MaxConns is left for one with room. If all are, the caller waits for the first connection or
//     place that comes free at any of them; callers are served in the order in which they came;
//   - a connection that died while idle is replaced;
//   - ejected hosts are asked if no other is left.
//
// It blocks no longer than ctx and WaitTimeout allow, provided that the driver's TestOnBorrow does not block.
// Without hosts it fails at once.
//
// Its error is a *GetConnError, and wraps each failed host's cause and one of: ErrNoHostAvailable; ErrOpTimeout;
// ErrPoolClosed; ctx.Err() and its cause; or what the strategy did wrong (see Bandit).
func (s *Service) GetConnContext(ctx context.Context) (*Conn, error) {
	if s.metrics != nil {
		return s.metrics.getConn(ctx)
	}
	c, _, err := s.get(ctx)
	if c != nil && s.timing.Load() {
		c.start = s.clock.now()
	}
	return c, err
}

// get leases an idle connection of the strategy's first choice, the common case, or else searches.
func (s *Service) get(ctx context.Context) (*Conn, *host, error) {
	var first *host
	var lease *Conn
	v, err := s.currentView()
	if err == nil && ctx.Err() == nil {
		if first, err = v.pick(s); first != nil {
			if lease = first.takeIdle(false); lease != nil {
				return lease, first, nil
			}
		}
	}
	if err == nil {
		lease, err = s.search(ctx, first)
	} else {
		err = &GetConnError{Service: s.name, Reason: err}
	}
	if err != nil {
		s.getFailures.Add(1)
		return nil, nil, err
	}
	return lease, lease.conn.pool.host, nil
}

// Status returns the number of connections of each registered host, those in use and those idle. It is empty
// after Close.
func (s *Service) Status() map[string]int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := make(map[string]int32, len(s.order))
	for _, h := range s.order {
		h.mu.Lock()
		status[h.address] = int32(len(h.conns))
		h.mu.Unlock()
	}
	return status
}

// Stats returns the service's figures. It costs a lock of each pool in turn. After Close it has the totals and
// no hosts.
func (s *Service) Stats() ServiceStats {
	s.refresh()
	return s.stats()
}

func (s *Service) stats() ServiceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := ServiceStats{
		PoolStats:   s.retired,
		Waiting:     int(s.queue.length.Load()),
		GetFailures: s.getFailures.Load(),
		Hosts:       make([]HostStats, 0, len(s.order)),
	}
	for _, h := range s.order {
		h.mu.Lock()
		host := HostStats{
			Address:   h.address,
			Score:     h.score.Load(),
			Trials:    h.trials,
			Latency:   time.Duration(h.latency.Load()),
			Ejected:   h.health == ejected,
			Cause:     h.cause,
			PoolStats: h.statsLocked(),
		}
		h.mu.Unlock()
		stats.add(host.PoolStats)
		stats.Hosts = append(stats.Hosts, host)
	}
	for h := range s.draining {
		h.mu.Lock()
		stats.add(h.statsLocked())
		h.mu.Unlock()
	}
	return stats
}

// Close closes the service. Callers that wait get ErrPoolClosed, and so does every later call; idle connections
// are closed at once, leased ones when they are released. It returns when all are closed, and nothing of the
// service is left: no connection, goroutine or timer.
//
// After CloseDeadline it closes those still leased, and returns an error that wraps ErrOpTimeout and says how
// many they were; their Release returns ErrPoolClosed.
func (s *Service) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return named("service", s.name, ErrPoolClosed)
	}
	s.closed = true
	close(s.done)
	for _, h := range s.order {
		s.draining[h] = struct{}{}
	}
	hosts := make([]*host, 0, len(s.draining))
	for h := range s.draining {
		hosts = append(hosts, h)
	}
	s.order = nil
	clear(s.hosts)
	s.staleLocked()
	if s.ticker != nil {
		s.ticker.Stop()
	}
	s.mu.Unlock()

	s.queue.close()
	s.reaper.stop()
	pools := make([]*Pool, len(hosts))
	for i, h := range hosts {
		pools[i] = &h.Pool
		idle, _ := h.shut()
		go h.destroyAll(idle)
	}
	err := closeAll(pools, s.config.CloseDeadline)
	s.tasks.stop()
	for _, h := range hosts {
		s.forget(h)
	}
	if s.metrics != nil {
		s.metrics.stop()
	}
	if err != nil {
		return named("service", s.name, err)
	}
	return nil
}

// eachPool yields the pools of the registered hosts.
func (s *Service) eachPool(yield func(*Pool) bool) {
	s.mu.Lock()
	hosts := append([]*host(nil), s.order...)
	s.mu.Unlock()
	for _, h := range hosts {
		if !yield(&h.Pool) {
			return
		}
	}
}
