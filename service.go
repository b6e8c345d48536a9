package pooly

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly/internal/decay"
	"github.com/3XX0/pooly/internal/rendezvous"
)

// Computer maps a host's score to the one that the strategy sees, both in [0, 1]. It makes small differences
// between good hosts larger, say. Compute may be called concurrently, and at any time but not on the way of
// GetConn's fast path. If it panics or returns NaN, the score stays as it was; a result outside [0, 1] is
// brought to the nearer end.
type Computer interface {
	Compute(score float64) float64
}

// Service is a named set of hosts that serve the same thing, with a pool of connections to each. GetConn leases
// a connection to a host that the strategy picks, and Conn.Release tells how well the host did.
//
// All methods may be called concurrently.
type Service struct {
	name     string        // immutable
	config   ServiceConfig // immutable, with its defaults filled in
	poolEnv                // immutable
	metrics  *metrics      // immutable; nil if there is no statsd server
	strategy string        // immutable; the name of the strategy
	rng      *rand.Rand    // immutable; safe for concurrent use, unlike most
	done     chan struct{} // closed by Close

	// Read by every call, written rarely.
	view    atomic.Pointer[view] // nil after a change of hosts, until the next call makes it anew
	busy    atomic.Bool          // a call came since the last tick
	timing  atomic.Bool          // the strategy asks for latencies, so leases are timed
	fitting atomic.Bool          // it asks for those at the current load, so loadCurves are fitted
	slot    atomic.Int64         // the number of the current slot; right while the service is in use

	size               atomic.Int32  // hosts in use; changed under mu
	available          atomic.Int32  // of these, the ones not ejected; changed under their pools' locks
	ejecting           sync.Mutex    // makes one of counting and ejecting; a leaf, taken under a pool's lock
	generation         atomic.Uint64 // counts what makes a view stale: changes of hosts, of their health and of scores
	rated              ratedHosts
	news               news
	rebuilding         atomic.Bool
	tasks              tasks // what runs in the background and calls plug-ins
	getFailures        atomic.Uint64
	calculatorReported atomic.Bool   // a ScoreCalculator that misbehaves is logged once
	slotLength         time.Duration // immutable

	mu        sync.Mutex // guards the fields below; taken before a pool's lock, never held while calling plug-ins
	closed    bool
	subset    *rendezvous.Subset // nil if all hosts are in use
	hosts     map[string]*host   // those in use
	order     []*host            // the same, each at its index
	flight    *rebuild           // the rebuild of the view that runs, nil if none does
	draining  map[*host]struct{} // removed, with connections left
	retired   PoolStats          // of the hosts that were removed and have no connection left
	refreshed time.Duration      // when scores were last computed; 0: never
	walked    moment             // when those of all hosts were
	took      [2]time.Duration   // the last two refreshes
	inRefresh bool               // one runs
	ticking   bool               // the timer is set
	unseen    bool               // a call came since the scores were last computed
	ticker    *time.Timer
	following *following // the latest Follow; nil: none
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
	configured := config.withDefaults()
	s := &Service{
		name:     name,
		config:   configured,
		strategy: strategyName(configured.BanditStrategy),
		rng:      rand.New(sharedSource{}),
		done:     make(chan struct{}),
		hosts:    make(map[string]*host),
		draining: make(map[*host]struct{}),
	}
	s.subset = newSubset(s.config.MaxHosts, s.config.SubsetSeed)
	s.slotLength = max(1, s.config.DecayDuration/decay.Slots)
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

// GetConn is GetConnContext without a context: only WaitTimeout bounds its wait.
func (s *Service) GetConn() (*Conn, error) {
	return s.GetConnContext(context.Background())
}

// GetConnContext leases a connection to the host that the strategy picks. While any host can serve, it
// succeeds:
//   - a host that cannot be reached is ejected and left for the next one, and asked at most once in each of
//     GetAttempts rounds;
//   - a host that has not answered a dial after FallbackDelay is left for the next one, too, unless it answers first;
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
	c, err := s.get(ctx)
	if c != nil && s.timing.Load() {
		c.conn.start.Store(int64(s.clock.now()))
	}
	return c, err
}

// get leases an idle connection of the strategy's first choice, the common case, or else searches.
func (s *Service) get(ctx context.Context) (*Conn, error) {
	v := s.view.Load()
	if v == nil || !v.own || !s.busy.Load() || ctx.Err() != nil {
		return s.prepareAndGet(ctx)
	}
	first := v.hosts[v.picker.Pick(s.rng)]
	now := first.ageNow()
	if !first.mu.TryLock() {
		first = v.lockBusy(s, first)
	}
	if lease, _ := first.takeLocked(now, false); lease != nil {
		return lease, nil
	}
	return s.find(ctx, first)
}

// prepareAndGet is get where the view is not of now, or the strategy not of this package.
func (s *Service) prepareAndGet(ctx context.Context) (*Conn, error) {
	var first *host
	v, err := s.currentView()
	if err == nil && ctx.Err() == nil {
		first, err = v.pick(s)
	}
	if err != nil {
		s.getFailures.Add(1)
		return nil, &GetConnError{Service: s.name, Reason: err}
	}
	if first != nil {
		if lease := first.takeIdle(false); lease != nil {
			return lease, nil
		}
	}
	return s.find(ctx, first)
}

// find searches for a connection, at first at the host given, if there is one.
func (s *Service) find(ctx context.Context, first *host) (*Conn, error) {
	lease, err := s.newSearch(ctx, first).run()
	if err != nil {
		s.getFailures.Add(1)
		return nil, err
	}
	return lease, nil
}

// Status returns the number of connections of each host in use, those in use and those idle. It is empty
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
		Registered:  len(s.order),
		Strategy:    s.strategy,
		Hosts:       make([]HostStats, 0, len(s.order)),
	}
	if s.subset != nil {
		stats.Registered = s.subset.Len()
	}
	for _, h := range s.order {
		h.mu.Lock()
		host := HostStats{
			Address:   h.address,
			Score:     h.score.Load(),
			Trials:    h.trials,
			Latency:   time.Duration(h.latency.Load()),
			Ejected:   h.health == ejected,
			Ejections: h.ejections,
			Cause:     h.cause,
			NextProbe: h.nextProbeLocked(),
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
	s.subset = nil
	s.staleLocked()
	if s.ticker != nil {
		s.ticker.Stop()
	}
	if s.following != nil {
		s.following.cancel()
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
