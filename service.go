package pooly

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly/internal/decay"
	"github.com/3XX0/pooly/internal/rendezvous"
)

// Service is a named set of hosts that serve the same thing, with a pool of connections to each.
// GetConn leases a connection to a host that the strategy picks. Conn.Release tells how well the
// host did.
//
// All methods may be called concurrently.
type Service struct {
	cluster                // name, config, group and more
	metrics  *metrics      // immutable; nil if there is no statsd server
	observed bool          // immutable; the Observer or statsd wants to know of leases
	watched  bool          // immutable; observed, or there are probes or a leakFinder
	strategy string        // immutable; the name of the strategy
	done     chan struct{} // closed by Close

	snapshot    atomic.Pointer[snapshot] // nil after a change of hosts, until there is a new one
	dialling    atomic.Bool              // runRounds is running
	retries     budget
	tasks       tasks // background goroutines that call plug-ins
	getFailures atomic.Uint64
	diagnosis   diagnosis
	probes      *probes // immutable; nil if there are none

	// guards the fields below; taken before Pool.mu; never held while calling plug-ins
	mu           mutex
	closed       bool
	subset       *rendezvous.Subset // nil if all hosts are in use
	hosts        map[string]*host   // hosts in use
	order        []*host            // the same hosts, each at its index
	drained      map[string]bool    // addresses of drained hosts, and whether they are registered
	draining     map[*host]struct{} // removed and drained hosts that still have connections
	retired      PoolStats          // of removed hosts that have no connection left
	nextBuild    *build             // requested and not begun; nil: none
	runningBuild *build             // the latest that began; nil: runBuilds does not run
	refreshed    time.Duration      // when scores were last computed; 0: never
	took         [2]time.Duration   // durations of the last two refreshes
	pace         pace               // used by builds alone, which run one at a time
	ticking      bool               // the timer is set
	unseen       bool               // there was a call since scores were last computed
	ticker       *time.Timer
	checkTimer   *time.Timer // calls checkHosts; nil if CheckInterval is 0
	following    *following  // the latest Follow; nil: none
}

// NewService returns a service without hosts. Each field of config that is zero has its default; a
// nil config means every default. The config is copied. The name appears in errors, logs and
// metrics.
//
// It panics if config has an impossible value, with an error that names the field (see Validate). A
// statsd server that cannot be reached is no error.
func NewService(name string, config *ServiceConfig) *Service {
	if config == nil {
		config = &ServiceConfig{}
	}
	if err := config.Validate(); err != nil {
		panic(err)
	}
	configured := config.withDefaults()
	s := &Service{
		cluster:  cluster{name: name, config: configured, rng: rand.New(sharedSource{})},
		strategy: strategyName(configured.BanditStrategy),
		done:     make(chan struct{}),
		hosts:    make(map[string]*host),
		drained:  make(map[string]bool),
		draining: make(map[*host]struct{}),
	}
	s.subset = newSubset(s.config.MaxHosts, s.config.SubsetSeed)
	s.slotLength = max(1, s.config.DecayDuration/decay.Slots)
	s.group = newGroup(s.config.PoolConfig, s.config.Logger)
	if s.fallback = max(0, s.config.FallbackDelay); s.fallback > 0 {
		s.patience = s.fallback
	}
	s.wake, s.queue.queued = s.awake, s.dialAll
	s.limited = config.MaxConns > 0
	s.keeper = s
	s.outliers.cluster = &s.cluster
	startReaper(s.group, s.eachPool)
	s.startChecks()
	s.probes = newProbes(s)
	s.leaks = newLeakFinder(s.group, s.log.With("service", name), s.everyPool)
	s.observer.service, s.observer.log = s.name, s.log
	var timings *Observer
	if s.config.StatsdAddr != "" {
		s.metrics = startMetrics(s)
		timings = s.metrics.observer()
	}
	s.observer.Observer = *JoinObservers(s.config.Observer, timings)
	s.observed = s.observer.leases()
	s.watched = s.observed || s.leaks != nil || s.probes != nil
	return s
}

// Name returns the name given to NewService.
func (s *Service) Name() string {
	return s.name
}

// GetConn is GetConnContext without a context: only WaitTimeout bounds its wait.
func (s *Service) GetConn() (*Conn, error) {
	return s.lease(context.Background(), false)
}

// GetConnContext leases a connection to the host that the strategy picks. It succeeds while any
// host can serve:
//   - A host that cannot be reached is ejected, and the call goes to another one.
//   - If a dial takes longer than FallbackDelay, another host is dialled in parallel. The first to
//     connect serves.
//   - If a host has no room, the call goes to a host that has room. If no host has room, the call
//     waits for whatever comes free first.
//   - A connection that died while idle is replaced.
//   - If all hosts are ejected, all are dialled, once for all callers that wait.
//
// Callers are served in the order in which they came, except in overload. A caller is late when it
// has waited for 50 ms and for a quarter of the time until its deadline. Late callers are served
// last, the newest of them first. Callers without a deadline are never late.
//
// GetConnContext blocks no longer than ctx and WaitTimeout allow, if the driver's TestOnBorrow does
// not block.
//
// Its error is a *GetConnError. It wraps the cause of each host that cannot be reached, and one of:
//   - ErrNoHostAvailable: no host is registered, or all hosts failed in each of GetAttempts rounds;
//   - ErrOverloaded: MaxWaiting callers wait already;
//   - ErrOpTimeout: WaitTimeout passed;
//   - ctx.Err() and its cause;
//   - ErrPoolClosed;
//   - an error that says what the strategy did wrong (see Bandit);
//   - the error of Hooks.PrepareConn.
func (s *Service) GetConnContext(ctx context.Context) (*Conn, error) {
	return s.lease(ctx, false)
}

// lease is GetConnContext. whole says that ctx also bounds the use of the connection.
func (s *Service) lease(ctx context.Context, whole bool) (*Conn, error) {
	if s.watched {
		return s.leaseWatched(ctx, whole)
	}
	c, err := s.get(ctx, whole)
	if c != nil && s.timed(ctx, c.conn) {
		c.conn.start = s.clock.now()
	}
	return c, err
}

// timed reports whether the start of a lease must be recorded. Strategies that go by latency need
// it, of a sample if there are many leases. A lease with a deadline needs it too: if the wait left
// the host too little time, the host is not to blame.
func (s *Service) timed(ctx context.Context, c *conn) bool {
	if s.timing.Load() && (c.used == 1 || !s.sparse.Load()) {
		return true
	}
	_, ok := ctx.Deadline()
	return ok
}

// get leases an idle connection of the strategy's first pick, the common case. Otherwise it calls
// acquire.
func (s *Service) get(ctx context.Context, whole bool) (*Conn, error) {
	v := s.snapshot.Load()
	if v == nil || !v.fast || !s.busy.Load() || ctx.Err() != nil {
		return s.acquire(ctx, whole, nil, false, nil)
	}
	h := v.hosts[v.picker.Pick(s.rng)]
	now := h.ageNow()
	if !h.mu.TryLock() {
		h.lockSlow()
	}
	lease, next := h.take(now)
	if lease != nil {
		return lease, nil
	}
	return s.acquire(ctx, whole, h, next == full, nil)
}

// Status returns the number of connections of each host in use, leased and idle ones together. It
// is empty after Close.
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

// Stats returns the service's figures. It locks each pool, one after the other. After Close it has
// the totals and no hosts.
func (s *Service) Stats() ServiceStats {
	s.refresh()
	return s.stats()
}

func (s *Service) stats() ServiceStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := ServiceStats{
		PoolStats:      s.retired,
		Waiting:        int(s.queue.length.Load()),
		Shed:           s.queue.shed.Load(),
		GetFailures:    s.getFailures.Load(),
		Retries:        s.retries.spent.Load(),
		RetriesRefused: s.retries.refused.Load(),
		Panic:          s.outliers.alike(),
		Registered:     len(s.order),
		Strategy:       s.strategy,
		Hosts:          make([]HostStats, 0, len(s.order)),
	}
	if s.subset != nil {
		stats.Registered = s.subset.Len()
	}
	for _, h := range s.order {
		h.mu.Lock()
		host := HostStats{
			Address:       h.address,
			Score:         h.score.Load(),
			Trials:        h.trials,
			Latency:       time.Duration(h.latency.Load()),
			OtherRequests: h.report.known(h.clock.now()),
			Ejected:       h.status == ejected,
			Ejections:     h.ejections,
			Cause:         h.cause,
			NextProbe:     h.nextProbeLocked(),
			PoolStats:     h.statsLocked(),
		}
		h.mu.Unlock()
		stats.add(host.PoolStats)
		stats.Hosts = append(stats.Hosts, host)
	}
	drained := s.drainingLocked()
	stats.Registered += len(drained)
	stats.Hosts = append(stats.Hosts, drained...)
	for h := range s.draining {
		h.mu.Lock()
		stats.add(h.statsLocked())
		h.mu.Unlock()
	}
	stats.Waits += s.vainWaits.Load()
	stats.WaitDuration += time.Duration(s.vainWaited.Load())
	return stats
}

// Close closes the service. Callers that wait, and all later calls, get ErrPoolClosed. Idle
// connections are closed at once, leased ones when they are released. Close returns when all are
// closed. Then nothing of the service is left: no connection, goroutine or timer.
//
// After CloseDeadline, Close closes the connections that are still leased. Its error then wraps
// ErrOpTimeout and says how many they were. Release of such a lease returns ErrPoolClosed.
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
	clear(s.drained)
	s.subset = nil
	s.staleLocked()
	if s.ticker != nil {
		s.ticker.Stop()
	}
	if s.checkTimer != nil {
		s.checkTimer.Stop()
	}
	if s.following != nil {
		s.following.cancel()
	}
	s.mu.Unlock()

	s.queue.close()
	s.reaper.stop()
	s.leaks.stop()
	pools := make([]*Pool, len(hosts))
	for i, h := range hosts {
		pools[i] = &h.Pool
		idle := h.retire()
		h.destroyAll(idle, forRemoval)
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
	for _, h := range s.all() {
		if !yield(&h.Pool) {
			return
		}
	}
}

// everyPool yields the pools of the registered hosts, and of removed ones that have connections.
func (s *Service) everyPool(yield func(*Pool) bool) {
	s.mu.Lock()
	hosts := slices.AppendSeq(slices.Clone(s.order), maps.Keys(s.draining))
	s.mu.Unlock()
	for _, h := range hosts {
		if !yield(&h.Pool) {
			return
		}
	}
}

// all returns the hosts in use.
func (s *Service) all() []*host {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// hostEjected is called when a host was ejected.
func (s *Service) hostEjected(h *host, cause error) {
	s.log.Warn("pooly: host ejected", "service", s.name, "address", h.address, "cause", cause)
	notify(s.observer, s.observer.Ejected,
		EjectEvent{Service: s.name, Address: h.address, Cause: cause})
	s.rebuild(false)
	s.dialAll()
}

// hostRestored is called when a host was restored.
func (s *Service) hostRestored(h *host) {
	s.log.Info("pooly: host restored", "service", s.name, "address", h.address)
	notify(s.observer, s.observer.Restored, RestoreEvent{Service: s.name, Address: h.address})
	s.narrow()
	s.rebuild(false)
}
