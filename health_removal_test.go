package pooly

import (
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func quietService(t *testing.T, addresses ...string) *Service {
	s := NewService("test", &ServiceConfig{
		PoolConfig: PoolConfig{Driver: stubDriver{}},
		Logger:     slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.SetHosts(addresses...)
	return s
}

// A host that is ejected at the moment in which it is removed would count twice as one that is not
// up, for ever.
func TestHostThatIsRemovedIsNotUpOnce(t *testing.T) {
	for range 1000 {
		s := quietService(t, "a", "b", "c")
		h := s.hosts["a"]
		var wg sync.WaitGroup
		wg.Go(func() {
			for closed := false; !closed; {
				if !h.mu.TryLock() {
					continue
				}
				closed = h.closed
				if s.up.Load() == 2 && !closed {
					h.eject(errors.New("bad replies"), true)
				}
				h.mu.Unlock()
			}
		})
		s.Remove("a")
		wg.Wait()
		require.EqualValues(t, 2, s.up.Load())
	}
}

func TestHostThatWasRemovedIsNotEjected(t *testing.T) {
	s := quietService(t, "a", "b", "c")
	h := s.hosts["a"]
	s.Remove("a")
	s.outliers.eject(h, errors.New("bad replies"))
	h.mu.Lock()
	defer h.mu.Unlock()
	require.NotEqual(t, ejected, h.status)
	require.Nil(t, h.probe, "a timer is left")
}
