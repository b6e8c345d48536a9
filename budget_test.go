package pooly_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Retries that multiply the load of hosts that fail because of it keep them from coming back.
func TestRetriesAreAFifthOfTheRequestsAndTenASecond(t *testing.T) {
	for _, tt := range []struct {
		every time.Duration
		wants int // retries a second
	}{
		{time.Millisecond, 210},
		{10 * time.Millisecond, 30},
		{time.Second, 2}, // all that two requests more can take
	} {
		synctest.Test(t, func(t *testing.T) {
			const seconds = 60
			s, _ := newService(t, pooly.ServiceConfig{ConsecutiveFailures: -1}, "a", "b", "c")
			runs, requests := 0, 0
			for began := time.Now(); time.Since(began) < seconds*time.Second; time.Sleep(tt.every) {
				requests++
				require.Equal(t, errTemporary, s.Do(t.Context(), func(*pooly.Conn) error {
					runs++
					return pooly.Retry(errTemporary)
				}))
			}
			stats := s.Stats()
			require.EqualValues(t, runs-requests, stats.Retries)
			require.InDelta(t, tt.wants*seconds, runs-requests, 25)
			if tt.every == time.Second {
				require.Zero(t, stats.RetriesRefused)
			} else {
				require.Positive(t, stats.RetriesRefused)
			}
		})
	}
}

// What was not spent in good times is not spent at once in bad ones, but for ten seconds' worth.
func TestRetriesSaveUpNoMoreThanTenSecondsWorth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{ConsecutiveFailures: -1}, "a", "b", "c")
		for range 6000 {
			require.NoError(t, s.Do(t.Context(), func(*pooly.Conn) error { return nil }))
			time.Sleep(10 * time.Millisecond)
		}
		require.Zero(t, s.Stats().Retries)
		for range 1000 {
			require.Error(t, s.Do(t.Context(), func(*pooly.Conn) error { return pooly.Retry(errTemporary) }))
		}
		// Saved up: 200 by the requests of 10 s, and ten for each of these seconds. 200 by the
		// thousand that fail.
		require.InDelta(t, 500, s.Stats().Retries, 15)
	})
}
