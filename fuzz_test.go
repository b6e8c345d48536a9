package pooly_test

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Everything that comes from outside may be anything. The seeds run with every go test; .ci/run
// looks for more.

// An address is any string: it makes a host, at worst one that cannot be reached, and the others
// serve.
func FuzzAddress(f *testing.F) {
	for _, address := range []string{"", "a", "127.0.0.1:80", "[::1]:80", ":", "a:b:c", "\x00", "%s", "<script>", strings.Repeat("x", 1000)} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		d := newFakeDriver()
		d.refuse(address)
		s := pooly.NewService("fuzz", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1})
		s.Add(address)
		require.Contains(t, s.Status(), address)
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.NotContains(t, err.Error(), "\x00")
		s.SetHosts(address, "good", address)
		if address != "good" {
			c := get(t, s)
			require.Equal(t, "good", c.Address())
			release(t, c)
		}
		s.Remove(address)
		require.NotContains(t, s.Status(), address)
		require.NoError(t, s.Close())
	})
}

// NetDriver may be given any address, too. None is dialled here: the context has ended.
func FuzzNetDriverAddress(f *testing.F) {
	for _, address := range []string{"", "127.0.0.1:80", "[::1]:99999", "host", "a:b:c", "\x00:1", "[fe80::1%lo]:1"} {
		f.Add("tcp", address)
		f.Add("unix", address)
		f.Add("", address)
	}
	f.Fuzz(func(t *testing.T, network, address string) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		d := pooly.NewNetDriver(network)
		d.SetDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
			return nil, ctx.Err()
		})
		_, err := d.Dial(ctx, address)
		require.ErrorIs(t, err, context.Canceled)
		_, err = pooly.NewNetDriver(network).Dial(ctx, address)
		require.Error(t, err)
	})
}

// A score is any number. What is none in [0, 1] rates nothing, and the connection comes back all
// the same.
func FuzzScore(f *testing.F) {
	for _, score := range []float64{0, 1, 0.5, -1, 2, math.NaN(), math.Inf(1), math.Inf(-1), math.SmallestNonzeroFloat64, math.Copysign(0, -1)} {
		f.Add(score, int64(time.Second), int64(time.Millisecond))
	}
	f.Fuzz(func(t *testing.T, score float64, elapsed, target int64) {
		s := pooly.NewService("fuzz", &pooly.ServiceConfig{
			PoolConfig:           pooly.PoolConfig{Driver: newFakeDriver()},
			MemoizeScoreDuration: time.Nanosecond,
			PrespawnConns:        -1,
			BanditStrategy:       pooly.NewSoftMax(0.01),
		})
		s.Add("a")
		err := get(t, s).Release(nil, score)
		require.Equal(t, score >= 0 && score <= 1, err == nil)
		require.True(t, err == nil || errors.Is(err, pooly.ErrInvalidArg))
		rated := pooly.LatencyScore(time.Duration(elapsed), time.Duration(target))
		require.True(t, rated >= 0 && rated <= 1, "%v", rated)
		release(t, get(t, s))
		h := hostStats(t, s, "a")
		require.True(t, h.Score >= 0 && h.Score <= 1, "%v", h.Score)
		require.Zero(t, h.InUse)
		require.NoError(t, s.Close())
	})
}

// A configuration that Validate accepts makes a service; one that it does not accept makes
// NewService panic with the same error.
func FuzzConfig(f *testing.F) {
	f.Add(0, 0, 0, 0, 0, 0, 0.0, int64(0), int64(0), int64(0), int64(0))
	f.Add(1, -1, 5, 100, 3, 2, 1.0, int64(1), int64(2), int64(3), int64(4))
	f.Add(-1, 1, -1, 101, -1, 7, math.NaN(), int64(-1), int64(math.MaxInt64), int64(math.MinInt64), int64(1))
	f.Fuzz(func(t *testing.T, conns, prespawn, failures, percent, hosts, format int, rate float64, a, b, c, d int64) {
		config := pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{
				Driver:          newFakeDriver(),
				MaxConns:        conns,
				ConnIdleTimeout: time.Duration(a),
				MaxConnLifetime: time.Duration(b),
				DialTimeout:     time.Duration(c),
				WaitTimeout:     time.Duration(d),
			},
			PrespawnConns:        max(-1, min(prespawn, 10)),
			ConsecutiveFailures:  failures,
			MaxEjectionPercent:   percent,
			MaxHosts:             hosts,
			StatsdHostMetrics:    pooly.HostMetrics(format),
			StatsdSampleRate:     rate,
			BaseEjectionTime:     time.Duration(a),
			MaxEjectionTime:      time.Duration(b),
			FallbackDelay:        time.Duration(c),
			DecayDuration:        time.Duration(d),
			MemoizeScoreDuration: time.Duration(a),
			CloseDeadline:        time.Second,
		}
		if err := config.Validate(); err != nil {
			require.ErrorIs(t, err, pooly.ErrInvalidArg)
			require.PanicsWithError(t, err.Error(), func() { pooly.NewService("fuzz", &config) })
			return
		}
		s := pooly.NewService("fuzz", &config)
		s.Add("a")
		if lease, err := s.GetConn(); err == nil {
			_ = lease.Release(nil, 1)
		}
		_ = s.Stats()
		require.NoError(t, s.Close())
	})
}
