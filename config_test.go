package pooly_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestStatsdAddrMustBeHostAndPort(t *testing.T) {
	for _, address := range []string{
		"garbage", ":", "127.0.0.1:nonsense", "[::1", ":0", "localhost:", "localhost:65536", "localhost:-1",
		"udp://localhost:8125", "http://localhost",
	} {
		err := (&pooly.ServiceConfig{StatsdAddr: address}).Validate()
		require.ErrorIs(t, err, pooly.ErrInvalidArg, address)
		require.ErrorContains(t, err, fmt.Sprintf("StatsdAddr %q is not the host:port of a server: ", address))
	}
	for _, address := range []string{"localhost:8125", ":8125", "[::1]:8125", "no.such.host.invalid:1", "statsd:domain"} {
		require.NoError(t, (&pooly.ServiceConfig{StatsdAddr: address}).Validate(), address)
	}
}

func TestAnAddressThatCannotBeDialledIsLoggedOnceByName(t *testing.T) {
	dialer := func(context.Context, string, string) (net.Conn, error) { return nil, errFatal }
	custom := pooly.NewNetDriver("tcp")
	custom.SetDialContext(dialer)
	usual := pooly.NewNetDriver("tcp")
	usual.SetDialContext(dialer)
	usual.SetDialContext(nil)
	for _, tt := range []struct {
		driver  pooly.Driver
		address string
		bad     bool
	}{
		{pooly.NewNetDriver("tcp"), "http://10.0.0.1:80", true},
		{pooly.NewNetDriver("tcp"), "10.0.0.1", true},
		{pooly.NewNetDriver("tcp4"), "10.0.0.1:", true},
		{pooly.NewNetDriver("tcp"), "", true},
		{usual, "10.0.0.1", true},
		{pooly.NewNetDriver("tcp6"), "[::1]:1", false},
		{pooly.NewNetDriver("tcp"), "no.such.host.invalid:http", false},
		{pooly.NewNetDriver("unix"), "/run/server.sock", false},
		{custom, "pod/redis-0", false},
		{newFakeDriver(), "anything", false},
	} {
		var log syncBuffer
		s := pooly.NewService("names", &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{Driver: tt.driver},
			PrespawnConns: -1,
			Logger:        slog.New(slog.NewTextHandler(&log, nil)),
		})
		for range 3 {
			s.Add(tt.address)
			s.SetHosts(tt.address)
		}
		require.True(t, s.Has(tt.address), "it is used all the same")
		want := 0
		if tt.bad {
			want = 1
			require.Contains(t, log.String(), fmt.Sprintf("service=names address=%s error=", textOf(tt.address)))
		}
		require.Equal(t, want, strings.Count(log.String(), "address cannot be dialled"), "%s: %s", tt.address, log.String())
		require.NoError(t, s.Close())
	}
}

// textOf returns a value as slog's TextHandler writes it.
func textOf(value string) string {
	if value == "" {
		return `""`
	}
	return value
}

type rogueChecker struct{ *fakeDriver }

func (rogueChecker) CheckAddress(string) error { panic("no") }

func TestDriverThatPanicsInCheckAddressDoesNoHarm(t *testing.T) {
	var log syncBuffer
	s := pooly.NewService("rogue", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: rogueChecker{newFakeDriver()}},
		Logger:     slog.New(slog.NewTextHandler(&log, nil)),
	})
	s.Add("a")
	release(t, get(t, s))
	require.Contains(t, log.String(), "Driver.CheckAddress panicked")
	require.NoError(t, s.Close())
}

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
			RetryDelay: never, KeepAlive: never, MaxConns: math.MaxInt, ConnRetries: math.MaxInt,
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

// Whoever configures no logger must hear of a host that is ejected all the same, and of nothing
// that is no trouble.
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
