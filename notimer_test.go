package pooly

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An idle service must let its process sleep.
func TestIdleServiceSetsNoTimer(t *testing.T) {
	for _, test := range []struct {
		name   string
		config ServiceConfig
		timer  bool
	}{
		{"with all of this off", ServiceConfig{PoolConfig: PoolConfig{KeepAlive: -1}}, false},
		{"KeepAlive", ServiceConfig{}, true},
		{"MinIdle", ServiceConfig{PoolConfig: PoolConfig{KeepAlive: -1, MinIdle: 1}}, true},
		{"ConnIdleTimeout", ServiceConfig{PoolConfig: PoolConfig{KeepAlive: -1, ConnIdleTimeout: time.Hour}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := test.config
				config.Driver = stubDriver{}
				s := NewService("idle", &config)
				defer s.Close()
				s.Add("a")
				for range 100 {
					c, err := s.GetConn()
					require.NoError(t, err)
					require.NoError(t, c.Release(nil, HostUp))
				}
				time.Sleep(10 * time.Second)
				s.mu.Lock()
				defer s.mu.Unlock()
				require.False(t, s.ticking)
				require.Nil(t, s.checkTimer)
				require.Equal(t, test.timer, s.reaper.next.Load() != int64(forever))
			})
		})
	}
}

func TestServiceThatOnlyDialsForClientsNeedsNoSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewService("idle", &ServiceConfig{PoolConfig: PoolConfig{Driver: stubDriver{}}, PrespawnConns: -1})
		defer s.Close()
		s.Add("a")
		lease, err := s.dialOutside(t.Context())
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.Equal(t, int64(forever), s.reaper.next.Load())
		require.NoError(t, lease.Release(nil, HostUp))
	})
}
