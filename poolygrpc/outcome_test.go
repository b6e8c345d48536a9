package poolygrpc

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	_ "google.golang.org/grpc/interop/grpc_testing" // registers the descriptors of its methods
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

const (
	unary  = "/grpc.testing.TestService/UnaryCall"
	stream = "/grpc.testing.TestService/FullDuplexCall"
)

// connected is a child's picker of an endpoint that is READY.
type connected struct{}

func (connected) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, nil
}

// first always picks the host with the least address, and has the service time its leases.
type first struct{}

func (first) NewPicker(arms []pooly.Arm) pooly.Picker {
	least := 0
	arms[0].Latency()
	for i, a := range arms {
		if a.Address < arms[least].Address {
			least = i
		}
	}
	return always(least)
}

type always int

func (i always) Pick(*rand.Rand) int { return int(i) }

// newTestBalance returns a balance of endpoints "a" and "b", which are READY, and of which it
// picks "a".
func newTestBalance(t testing.TB, config string) *balance {
	t.Helper()
	p := &policy{builder: Builder{}}
	p.builder.Configure = func(c *pooly.ServiceConfig) { c.BanditStrategy = first{} }
	p.parking.wake = func() {}
	c, err := parse([]byte(config))
	require.NoError(t, err)
	b, err := p.newBalance(c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.service.Close() })
	b.update([]endpointsharding.ChildState{ready("a"), ready("b")})
	return b
}

func ready(address string) endpointsharding.ChildState {
	return child(address, connectivity.Ready, connected{})
}

func child(
	address string, state connectivity.State, picker balancer.Picker,
) endpointsharding.ChildState {
	return endpointsharding.ChildState{
		Endpoint: resolver.Endpoint{Addresses: []resolver.Address{{Addr: address}}},
		State:    balancer.State{ConnectivityState: state, Picker: picker},
	}
}

func hostOf(t *testing.T, b *balance, address string) pooly.HostStats {
	t.Helper()
	for _, h := range b.service.Stats().Hosts {
		if h.Address == address {
			return h
		}
	}
	require.Fail(t, "no such host", address)
	return pooly.HostStats{}
}

func TestWhatAnRPCTells(t *testing.T) {
	const (
		good = iota // rated HostUp
		bad         // rated HostDown, and ejected in the end
		nothing
	)
	sent := func(code codes.Code) balancer.DoneInfo {
		return balancer.DoneInfo{Err: status.Error(code, "x"), BytesSent: true, BytesReceived: true}
	}
	for _, test := range []struct {
		name   string
		method string
		info   balancer.DoneInfo
		tells  int
	}{
		{"a reply", unary, balancer.DoneInfo{BytesSent: true, BytesReceived: true}, good},
		{"a stream's end", stream, balancer.DoneInfo{BytesSent: true, BytesReceived: true}, good},
		{"an unknown method's reply", "/a/B",
			balancer.DoneInfo{BytesSent: true, BytesReceived: true}, good},
		{"a connection that was not ready", unary, balancer.DoneInfo{}, nothing},
		{"a call that was not sent", unary,
			balancer.DoneInfo{Err: status.Error(codes.Unavailable, "x")}, nothing},
		{"no status", unary, balancer.DoneInfo{Err: fmt.Errorf("x"), BytesSent: true}, bad},
		{"Canceled", unary, sent(codes.Canceled), nothing},
		{"Unknown", unary, sent(codes.Unknown), bad},
		{"InvalidArgument", unary, sent(codes.InvalidArgument), good},
		{"DeadlineExceeded", unary, sent(codes.DeadlineExceeded), bad},
		{"a stream's DeadlineExceeded", stream, sent(codes.DeadlineExceeded), nothing},
		{"a silent stream's DeadlineExceeded", stream,
			balancer.DoneInfo{Err: status.Error(codes.DeadlineExceeded, "x"), BytesSent: true}, bad},
		{"NotFound", unary, sent(codes.NotFound), good},
		{"AlreadyExists", unary, sent(codes.AlreadyExists), good},
		{"PermissionDenied", unary, sent(codes.PermissionDenied), good},
		{"ResourceExhausted", unary, sent(codes.ResourceExhausted), bad},
		{"FailedPrecondition", unary, sent(codes.FailedPrecondition), good},
		{"Aborted", unary, sent(codes.Aborted), good},
		{"OutOfRange", unary, sent(codes.OutOfRange), good},
		{"Unimplemented", unary, sent(codes.Unimplemented), good},
		{"Internal", unary, sent(codes.Internal), bad},
		{"Unavailable", unary, sent(codes.Unavailable), bad},
		{"DataLoss", unary, sent(codes.DataLoss), bad},
		{"Unauthenticated", unary, sent(codes.Unauthenticated), good},
		{"a code of the future", unary, sent(99), good},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTestBalance(t, `{}`)
				for range 5 {
					info := balancer.PickInfo{FullMethodName: test.method, Ctx: t.Context()}
					result, err := b.Pick(info)
					require.NoError(t, err)
					time.Sleep(time.Millisecond)
					result.Done(test.info)
				}
				time.Sleep(50 * time.Millisecond)
				h := hostOf(t, b, "a")
				require.Zero(t, h.InUse)
				require.Equal(t, test.tells == bad, h.Ejected)
				switch test.tells {
				case good:
					require.EqualValues(t, 5, h.Trials)
					require.Greater(t, h.Score, 0.5)
					require.Equal(t, test.method != stream, h.Latency > 0, "a stream has no latency")
				case bad:
					require.EqualValues(t, 5, h.Trials)
					require.Less(t, h.Score, 0.5)
					require.Positive(t, h.Latency, "it must not look like a server that was never tried")
					if test.info.Err != nil {
						require.ErrorIs(t, h.Cause, test.info.Err)
					}
				case nothing:
					require.Zero(t, h.Trials)
				}
				require.NoError(t, b.service.Close())
			})
		})
	}
}

// Calls that are short of time fail fast at a server that is well.
func TestADeadlineThatWasTooShortDoesNotBlameTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBalance(t, `{}`)
		call := func(takes time.Duration, info balancer.DoneInfo) {
			ctx, cancel := context.WithTimeout(t.Context(), takes)
			defer cancel()
			result, err := b.Pick(balancer.PickInfo{FullMethodName: unary, Ctx: ctx})
			require.NoError(t, err)
			time.Sleep(takes)
			result.Done(info)
		}
		late := balancer.DoneInfo{Err: status.Error(codes.DeadlineExceeded, "x"), BytesSent: true}
		for range 20 {
			call(20*time.Millisecond, balancer.DoneInfo{BytesSent: true, BytesReceived: true})
		}
		for range 10 {
			call(time.Millisecond, late)
		}
		require.False(t, hostOf(t, b, "a").Ejected)
		require.InDelta(t, 20, hostOf(t, b, "a").Trials, 1) // the last may come after the refresh
		for range 10 {
			call(21*time.Millisecond, late)
		}
		require.NotZero(t, hostOf(t, b, "a").Ejections, "it had its usual time")
		require.NoError(t, b.service.Close())
	})
}

// The endpoint's state is the host's health: it goes and comes back at once, with its score.
func TestAnEndpointIsAHostWhileTheResolverListsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBalance(t, `{}`)
		pick := func() string {
			synctest.Wait()
			result, err := b.Pick(balancer.PickInfo{FullMethodName: unary, Ctx: t.Context()})
			require.NoError(t, err)
			defer result.Done(balancer.DoneInfo{BytesSent: true, BytesReceived: true})
			for _, h := range b.service.Stats().Hosts {
				if h.InUse > 0 {
					return h.Address
				}
			}
			return ""
		}
		require.Equal(t, "a", pick())
		down := fmt.Errorf("refused")
		b.update([]endpointsharding.ChildState{
			child("a", connectivity.Connecting, nil), ready("b"), child("c", connectivity.Connecting, nil),
		})
		require.ErrorIs(t, hostOf(t, b, "a").Cause, errLost)
		require.Equal(t, "b", pick())
		b.update([]endpointsharding.ChildState{
			child("a", connectivity.TransientFailure, failing{down}), ready("b"),
		})
		require.ErrorIs(t, hostOf(t, b, "a").Cause, down)
		time.Sleep(time.Minute)
		require.True(t, hostOf(t, b, "a").Ejected, "probes do not restore what is not READY")
		b.update([]endpointsharding.ChildState{ready("a"), ready("b")})
		require.Equal(t, "a", pick())
		b.update([]endpointsharding.ChildState{ready("b")})
		require.Equal(t, "b", pick())
		require.Len(t, b.service.Stats().Hosts, 1)
		require.NoError(t, b.service.Close())
	})
}

func TestAnEndpointWithSeveralAddressesIsOneHost(t *testing.T) {
	one := resolver.Endpoint{Addresses: []resolver.Address{{Addr: "[::1]:1"}, {Addr: "127.0.0.1:1"}}}
	two := resolver.Endpoint{Addresses: []resolver.Address{{Addr: "127.0.0.1:1"}, {Addr: "[::1]:1"}}}
	require.Equal(t, nameOf(one), nameOf(two))
	require.Equal(t, "127.0.0.1:1,[::1]:1", nameOf(one))
}

// RPCs that wait are woken soon, but the more they are the more rarely.
func TestParkedRPCsAreWokenAtIntervals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wakes atomic.Int32
		p := &parking{wake: func() { wakes.Add(1) }}
		for range 10 {
			p.park()
		}
		time.Sleep(parkLeast)
		synctest.Wait()
		require.EqualValues(t, 1, wakes.Load())
		for range 1000 {
			p.park()
		}
		time.Sleep(parkLeast)
		synctest.Wait()
		require.EqualValues(t, 2, wakes.Load())
		p.park()
		time.Sleep(999 * parkForRPC)
		synctest.Wait()
		require.EqualValues(t, 2, wakes.Load())
		time.Sleep(parkForRPC)
		synctest.Wait()
		require.EqualValues(t, 3, wakes.Load())
		p.park()
		p.close()
		p.park()
		time.Sleep(time.Hour)
		require.EqualValues(t, 3, wakes.Load())
	})
}

// BenchmarkPick measures Pick and Done, without gRPC.
func BenchmarkPick(b *testing.B) {
	balance := newTestBalance(b, `{}`)
	info := balancer.PickInfo{FullMethodName: unary, Ctx: b.Context()}
	done := balancer.DoneInfo{BytesSent: true, BytesReceived: true}
	b.ReportAllocs()
	for b.Loop() {
		result, err := balance.Pick(info)
		if err != nil {
			b.Fatal(err)
		}
		result.Done(done)
	}
}

// counted is a child's picker that counts its picks.
type counted struct {
	name  string
	picks *atomic.Int64
}

func (c counted) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	c.picks.Add(1)
	return balancer.PickResult{Metadata: metadata.Pairs("server", c.name)}, nil
}

// Until scores are computed anew, only latencies keep traffic away.
func TestAServerThatBeginsToFailFastLosesItsTrafficAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const servers, clients, took = 5, 50, 20 * time.Millisecond
		c, err := parse([]byte(`{"consecutiveFailures":-1}`))
		require.NoError(t, err)
		p := &policy{}
		p.parking.wake = func() {}
		b, err := p.newBalance(c)
		require.NoError(t, err)
		defer func() { _ = b.service.Close() }()
		var picks [servers]atomic.Int64
		var children []endpointsharding.ChildState
		for i := range picks {
			name := strconv.Itoa(i)
			children = append(children, child(name, connectivity.Ready, counted{name, &picks[i]}))
		}
		b.update(children)
		var fails atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		for range clients {
			go func() {
				for ctx.Err() == nil {
					result, err := b.Pick(balancer.PickInfo{FullMethodName: unary, Ctx: context.Background()})
					if err != nil {
						time.Sleep(time.Millisecond)
						continue
					}
					info := balancer.DoneInfo{BytesSent: true, BytesReceived: true}
					if fails.Load() && result.Metadata.Get("server")[0] == "0" {
						time.Sleep(100 * time.Microsecond)
						info.Err = status.Error(codes.Unavailable, "by the test")
					} else {
						time.Sleep(took)
					}
					result.Done(info)
				}
			}()
		}
		time.Sleep(3 * time.Second)
		fails.Store(true)
		at := picks[0].Load()
		time.Sleep(100 * time.Millisecond)
		picked := picks[0].Load() - at
		cancel()
		time.Sleep(time.Second)
		require.LessOrEqual(t, picked, int64(clients*100/20/servers), "its fair share")
	})
}
