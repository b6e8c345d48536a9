package pooly

import (
	"math/rand/v2"
	"sync"
)

// SeedService makes a service draw its random numbers from a generator with the given seed. It must be called
// before the service has hosts.
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
