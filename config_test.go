package pooly_test

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// math.MaxInt64 is what people write for "no limit". A sum with it must not be a time long ago.
func TestGreatestDurationsMeanNoLimit(t *testing.T) {
	const never = math.MaxInt64
	for name, config := range map[string]pooly.ServiceConfig{
		"DialTimeout":          {PoolConfig: pooly.PoolConfig{DialTimeout: never}},
		"ConnIdleTimeout":      {PoolConfig: pooly.PoolConfig{ConnIdleTimeout: never}},
		"MaxConnLifetime":      {PoolConfig: pooly.PoolConfig{MaxConnLifetime: never}},
		"WaitTimeout":          {PoolConfig: pooly.PoolConfig{WaitTimeout: never}},
		"TestTimeout":          {PoolConfig: pooly.PoolConfig{TestTimeout: never}},
		"RetryDelay":           {PoolConfig: pooly.PoolConfig{RetryDelay: never}},
		"FallbackDelay":        {FallbackDelay: never},
		"CloseDeadline":        {CloseDeadline: never},
		"BaseEjectionTime":     {BaseEjectionTime: never},
		"MaxEjectionTime":      {MaxEjectionTime: never},
		"DecayDuration":        {DecayDuration: never},
		"MemoizeScoreDuration": {MemoizeScoreDuration: never},
		"MaxConns":             {PoolConfig: pooly.PoolConfig{MaxConns: math.MaxInt}},
		"MaxWaiting":           {PoolConfig: pooly.PoolConfig{MaxWaiting: math.MaxInt}},
		"GetAttempts":          {GetAttempts: math.MaxInt},
		"ConsecutiveFailures":  {ConsecutiveFailures: math.MaxInt},
		"MaxHosts":             {MaxHosts: math.MaxInt},
		"ProbeWait":            {ProbeWait: never},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, config, "a", "b")
				for _, address := range []string{"a", "b"} {
					d.slow(address, 20*time.Millisecond)
				}
				began := time.Now()
				for range 2 {
					release(t, get(t, s))
				}
				require.Equal(t, 40*time.Millisecond, time.Since(began))
				for range 10 {
					time.Sleep(time.Hour)
					release(t, get(t, s))
				}
				require.Equal(t, 2, d.host("a").dials+d.host("b").dials)
				require.Equal(t, 2, s.Stats().Idle)

				d.refuse("a") // and the other serves
				held := []*pooly.Conn{get(t, s), get(t, s)}
				time.AfterFunc(time.Hour, func() { _ = held[0].Release(nil, pooly.HostUp) })
				time.AfterFunc(time.Hour, func() { _ = held[1].Release(nil, pooly.HostUp) })
				for range 4 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					c, err := s.GetConnContext(ctx)
					cancel()
					require.NoError(t, err)
					release(t, c)
				}
				time.Sleep(2 * time.Hour)

				s.SetHosts("c")
				d.refuse("c")
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := s.GetConnContext(ctx)
				require.Error(t, err)
				began = time.Now()
				require.NoError(t, s.Close())
				require.Zero(t, time.Since(began))
			})
		})
	}
}

// A pool that stands alone has some of these too.
func TestGreatestDurationsMeanNoLimitForAPoolAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const never = math.MaxInt64
		p, d := newPool(t, pooly.PoolConfig{
			DialTimeout: never, ConnIdleTimeout: never, MaxConnLifetime: never, WaitTimeout: never, TestTimeout: never,
			RetryDelay: never, MaxConns: math.MaxInt, ConnRetries: math.MaxInt,
		})
		d.slow("a", time.Minute)
		for range 10 {
			c, err := p.Get()
			require.NoError(t, err)
			release(t, c)
			time.Sleep(time.Hour)
		}
		require.Equal(t, 1, d.host("a").dials)
		c, err := p.Get()
		require.NoError(t, err)
		d.slow("a", 0)
		d.refuse("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.GetContext(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		release(t, c)
	})
}

// Whoever configures no logger must hear of a host that is ejected all the same, and of nothing that is no trouble.
func TestDefaultLoggerTellsOfEjections(t *testing.T) {
	var log syncBuffer
	was := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	defer slog.SetDefault(was)
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "good", "bad")
		d.refuse("bad")
		release(t, get(t, s))
		release(t, get(t, s))
		time.Sleep(time.Second)
		d.accept("bad")
		time.Sleep(pooly.DefaultMaxEjectionTime)
		require.False(t, hostStats(t, s, "bad").Ejected)
		require.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
		require.Contains(t, log.String(), `level=WARN msg="pooly: host ejected" service=test address=bad cause="connection refused"`)
	})
}

// Connections of DialContext raise what may be leased; the sum must not overflow.
func TestMaxConnsMayBeTheLargestInt32BesideDialContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := slowPipes(0)
		s := pooly.NewService("mixed", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: ours, MaxConns: math.MaxInt32, WaitTimeout: time.Second}, PrespawnConns: -1,
		})
		defer s.Close()
		s.Add("a")
		c, err := s.DialContext(t.Context(), "", "")
		require.NoError(t, err)
		defer c.Close()
		l, err := s.GetConn()
		require.NoError(t, err)
		release(t, l)
	})
}
