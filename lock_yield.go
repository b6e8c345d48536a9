//go:build yield

package pooly

import (
	"math/rand/v2"
	"runtime"
	"sync"
)

// mutex is a sync.Mutex that lets other goroutines run at its boundaries, a random number of times.
// It is for tests: what may happen between two locks then does happen, see docs/MODEL.md.
type mutex struct{ inner sync.Mutex }

func (m *mutex) Lock() {
	yield()
	m.inner.Lock()
	yield()
}

func (m *mutex) TryLock() bool {
	yield()
	return m.inner.TryLock()
}

func (m *mutex) Unlock() {
	yield()
	m.inner.Unlock()
	yield()
}

func yield() {
	for n := rand.N(8); n > 4; n-- { // none more often than not, so that orders differ
		runtime.Gosched()
	}
}
