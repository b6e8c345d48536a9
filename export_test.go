package pooly

import (
	"math/rand/v2"
	"sync"
	"time"
)

// SeedService makes a service draw its random numbers from a generator with the given seed. It must
// be called before the service has hosts.
func SeedService(s *Service, seed uint64) {
	s.rng = rand.New(&lockedSource{source: rand.NewPCG(seed, 0)})
}

// lockedSource may be used concurrently, as the source of a service must.
type lockedSource struct {
	mu     sync.Mutex
	source *rand.PCG
}

func (l *lockedSource) Uint64() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.source.Uint64()
}

// MetricAddress makes an address safe for statsd.
var MetricAddress = metricAddress

// SetLookupPeriod sets how often services look for their statsd server, and returns a function that
// sets it back. No service with metrics may be open meanwhile.
func SetLookupPeriod(d time.Duration) (restore func()) {
	was := lookupPeriod
	lookupPeriod = d
	return func() { lookupPeriod = was }
}

// SampleStacks has one lease in n leave its stack, until one of these is released.
func SampleStacks(s *Service, n uint32) { s.leaks.every.Store(n) }

// LooksForLeaks reports whether a sweep for leaks is scheduled.
func LooksForLeaks(s *Service) bool { return s.leaks.armed.Load() }

// StackRate returns what a sampler makes of leases that take lasted, and stacks that take cost: one lease in how many
// leaves its stack.
func StackRate(cost, lasted time.Duration) uint32 {
	var s stackSampler
	s.learn(cost, lasted)
	return s.every.Load()
}
