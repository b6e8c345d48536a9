package poolygrpc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolygrpc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/status"
)

func TestTwoLinesOfUseAreEnough(t *testing.T) {
	servers := startServers(t, 3)
	c := dialWith(t, `{"loadBalancingConfig":[{"pooly":{}}]}`, servers)
	c.connected(servers...)
	require.NoError(t, c.call(time.Second))
}

func TestEachStrategyServes(t *testing.T) {
	for _, name := range []string{"epsilon_greedy", "hot_cold", "least_latency", "peak_ewma", "power_of_two",
		"round_robin", "softmax", "thompson", "ucb", "weighted_round_robin"} {
		t.Run(name, func(t *testing.T) {
			servers := startServers(t, 2)
			c := dial(t, fmt.Sprintf(`{"strategy":%q}`, name), servers)
			c.connected(servers...)
			for range 100 {
				require.NoError(t, c.call(time.Second))
			}
			require.Zero(t, c.service().Stats().InUse)
		})
	}
}

func TestRoundRobinSharesEvenly(t *testing.T) {
	servers := startServers(t, 4)
	c := dial(t, `{"strategy":"round_robin"}`, servers)
	c.connected(servers...)
	for range 400 {
		require.NoError(t, c.call(time.Second))
	}
	for _, s := range servers {
		require.InDelta(t, 100, s.calls.Load(), 1)
	}
}

// No host attracts traffic by failing: it has at most its fair share within a second, and little
// after that.
func TestAServerThatFailsFastIsEjected(t *testing.T) {
	for _, strategy := range []string{"round_robin", "power_of_two", "least_latency", "peak_ewma", "hot_cold"} {
		t.Run(strategy, func(t *testing.T) {
			servers := startServers(t, 4)
			c := dial(t, fmt.Sprintf(`{"strategy":%q}`, strategy), servers)
			c.connected(servers...)
			for _, s := range servers[1:] {
				s.does(takes(2 * time.Millisecond))
			}
			servers[0].does(failsWith(codes.Unavailable))
			all, _ := c.load(8, time.Second, time.Second)
			require.Less(t, servers[0].calls.Load(), all/4)
			servers[0].calls.Store(0)
			all, failed := c.load(8, time.Second, time.Second)
			require.Less(t, servers[0].calls.Load(), all/20)
			require.Equal(t, servers[0].calls.Load(), failed)
			if strategy == "round_robin" || strategy == "power_of_two" { // others keep away before
				require.NotZero(t, c.host(servers[0]).Ejections)
			}

			servers[0].does(nil)
			c.until(func() bool {
				_ = c.call(time.Second)
				return !c.host(servers[0]).Ejected
			})
			if strategy == "round_robin" { // the others still go by its score
				before := servers[0].calls.Load()
				c.until(func() bool { return c.call(time.Second) == nil && servers[0].calls.Load() > before+10 })
			}
		})
	}
}

func TestAServerThatHangsIsEjected(t *testing.T) {
	servers := startServers(t, 3)
	c := dial(t, `{"strategy":"round_robin"}`, servers)
	c.connected(servers...)
	servers[0].does(takes(time.Hour))
	c.load(8, 500*time.Millisecond, 50*time.Millisecond)
	require.NotZero(t, c.host(servers[0]).Ejections)
}

func TestAServerThatAnswersWithAnErrorIsNotEjected(t *testing.T) {
	for _, code := range []codes.Code{
		codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.Aborted,
		codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.OutOfRange,
		codes.Unimplemented,
	} {
		t.Run(code.String(), func(t *testing.T) {
			servers := startServers(t, 2)
			c := dial(t, `{"strategy":"round_robin"}`, servers)
			c.connected(servers...)
			servers[0].does(failsWith(code))
			for range 40 {
				_ = c.call(time.Second)
			}
			require.InDelta(t, 20, servers[0].calls.Load(), 1)
			require.Zero(t, c.host(servers[0]).Ejections)
		})
	}
}

func TestACancelledCallTellsNothing(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"round_robin"}`, servers)
	c.connected(servers...)
	servers[0].does(takes(time.Hour))
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		_, _ = c.client.EmptyCall(ctx, &grpc_testing.Empty{})
		cancel()
	}
	require.NotZero(t, servers[0].calls.Load())
	require.Zero(t, c.host(servers[0]).Ejections)
	c.until(func() bool { return c.service().Stats().InUse == 0 })
}

func TestFailureCodesAreAnOption(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"round_robin", "failureCodes":["NOT_FOUND"]}`, servers)
	c.connected(servers...)
	servers[0].does(failsWith(codes.NotFound))
	servers[1].does(failsWith(codes.Unavailable))
	for range 40 {
		_ = c.call(time.Second)
	}
	require.NotZero(t, c.host(servers[0]).Ejections)
	require.Zero(t, c.host(servers[1]).Ejections)
}

func TestASlowServerGetsLittle(t *testing.T) {
	for _, strategy := range []string{"power_of_two", "least_latency", "peak_ewma", "hot_cold"} {
		t.Run(strategy, func(t *testing.T) {
			servers := startServers(t, 3)
			c := dial(t, fmt.Sprintf(`{"strategy":%q}`, strategy), servers)
			c.connected(servers...)
			servers[0].does(takes(100 * time.Millisecond))
			servers[1].does(takes(2 * time.Millisecond))
			servers[2].does(takes(2 * time.Millisecond))
			all, failed := c.load(10, time.Second, 5*time.Second)
			require.Zero(t, failed)
			require.Less(t, servers[0].calls.Load(), all/6, "half of its fair share")
		})
	}
}

func TestALatencyTargetMovesTrafficByScore(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"softmax", "latencyTarget":"0.005s"}`, servers)
	c.connected(servers...)
	servers[0].does(takes(30 * time.Millisecond))
	c.load(4, time.Second, time.Second)
	require.Less(t, c.host(servers[0]).Score+0.1, c.host(servers[1]).Score)
	require.Less(t, 4*servers[0].calls.Load(), servers[1].calls.Load())
}

// A watch that ends after an hour must not make the server look an hour slow.
func TestTheLengthOfAStreamIsNoLatency(t *testing.T) {
	servers := startServers(t, 1)
	c := dial(t, `{"strategy":"peak_ewma"}`, servers)
	c.connected(servers...)
	for range 10 {
		require.NoError(t, c.call(time.Second))
	}
	stream, err := c.client.FullDuplexCall(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&grpc_testing.StreamingOutputCallRequest{}))
	_, err = stream.Recv()
	require.NoError(t, err)
	require.Equal(t, 1, c.host(servers[0]).InUse)
	time.Sleep(600 * time.Millisecond)
	require.NoError(t, stream.CloseSend())
	_, err = stream.Recv()
	require.Error(t, err)
	c.until(func() bool { return c.host(servers[0]).InUse == 0 })
	latency := c.host(servers[0]).Latency
	require.NotZero(t, latency)
	require.Less(t, latency, 500*time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 10 {
		stream, err := c.client.FullDuplexCall(ctx)
		if err != nil {
			break
		}
		_ = stream.Send(&grpc_testing.StreamingOutputCallRequest{})
		for err == nil {
			_, err = stream.Recv()
		}
	}
	require.InDelta(t, 1, c.host(servers[0]).Score, 0.51)
	require.NoError(t, c.call(time.Second))
}

// A server that leaves in good order costs no call, whatever the retries.
func TestAGracefulRestartCostsNoCall(t *testing.T) {
	servers := startServers(t, 3)
	c := dial(t, `{}`, servers)
	c.connected(servers...)
	for _, s := range servers {
		s.does(takes(time.Millisecond))
	}
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			servers[0].end((*grpc.Server).GracefulStop)
			time.Sleep(100 * time.Millisecond)
			servers[0].start(t)
		}
	}()
	all, failed := c.load(8, 1200*time.Millisecond, 5*time.Second)
	<-restarted
	require.NotZero(t, all)
	require.Zero(t, failed)
}

// A server that is killed costs the calls that it has, which gRPC's retry policy repeats.
func TestAKilledServerCostsNoCallWithRetries(t *testing.T) {
	servers := startServers(t, 3)
	c := dialWith(t, `{
		"loadBalancingConfig": [{"watched":{}}],
		"methodConfig": [{"name":[{}], "retryPolicy":{
			"maxAttempts":3, "initialBackoff":"0.005s", "maxBackoff":"0.05s", "backoffMultiplier":2,
			"retryableStatusCodes":["UNAVAILABLE"]
		}}]
	}`, servers)
	c.connected(servers...)
	for _, s := range servers {
		s.does(takes(time.Millisecond))
	}
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			servers[0].stop()
			time.Sleep(100 * time.Millisecond)
			servers[0].start(t)
		}
	}()
	_, failed := c.load(8, 1200*time.Millisecond, 5*time.Second)
	<-restarted
	require.Zero(t, failed)
	before := servers[0].calls.Load()
	c.until(func() bool {
		c.load(8, 20*time.Millisecond, time.Second)
		return servers[0].calls.Load() > before
	})
}

func TestAServerKeepsItsScoreWhenItReconnects(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"round_robin", "consecutiveFailures":-1}`, servers)
	c.connected(servers...)
	servers[0].does(failsWith(codes.Unavailable))
	c.load(4, 300*time.Millisecond, time.Second)
	servers[0].stop()
	c.until(func() bool { return c.host(servers[0]).Ejected })
	require.NoError(t, c.call(time.Second))
	servers[0].start(t)
	c.conn.ResetConnectBackoff()
	c.until(func() bool { c.conn.ResetConnectBackoff(); return !c.host(servers[0]).Ejected })
	require.Less(t, c.host(servers[0]).Score, 0.5)
	require.Greater(t, c.host(servers[0]).Trials, 5.0)
}

func TestTheResolverAddsAndRemovesServers(t *testing.T) {
	servers := startServers(t, 3)
	c := dial(t, `{"strategy":"round_robin"}`, servers[:2])
	c.connected(servers[:2]...)
	c.resolver.UpdateState(stateOf(servers[1], servers[2]))
	c.connected(servers[2])
	servers[0].calls.Store(0)
	for range 20 {
		require.NoError(t, c.call(time.Second))
	}
	require.Zero(t, servers[0].calls.Load())
	require.NotZero(t, servers[1].calls.Load())
	require.Len(t, c.service().Stats().Hosts, 2)
}

func TestARemovedServerFinishesItsCalls(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"round_robin"}`, servers)
	c.connected(servers...)
	for _, s := range servers {
		s.does(takes(200 * time.Millisecond))
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- c.call(5 * time.Second) }()
	}
	c.until(func() bool { return servers[0].running.Load() > 0 && servers[1].running.Load() > 0 })
	c.resolver.UpdateState(stateOf(servers[1]))
	for range cap(results) {
		require.NoError(t, <-results)
	}
}

func TestAnEmptyListFailsCallsUntilThereIsAServer(t *testing.T) {
	servers := startServers(t, 1)
	c := dial(t, `{}`, nil)
	require.Equal(t, codes.Unavailable, status.Code(c.call(time.Second)))
	c.resolver.UpdateState(stateOf(servers...))
	c.connected(servers...)
	c.resolver.UpdateState(resolver.State{})
	require.Equal(t, codes.Unavailable, status.Code(c.call(time.Second)))
	require.Empty(t, c.service().Stats().Hosts)
	c.resolver.UpdateState(stateOf(servers...))
	c.until(func() bool { return c.call(time.Second) == nil })
}

func TestACallThatWaitsIsServedOnceThereIsAServer(t *testing.T) {
	servers := startServers(t, 1)
	c := dial(t, `{}`, nil)
	result := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := c.client.EmptyCall(ctx, &grpc_testing.Empty{}, grpc.WaitForReady(true))
		result <- err
	}()
	require.Error(t, c.call(time.Second), "a call that does not wait")
	c.resolver.UpdateState(stateOf(servers...))
	require.NoError(t, <-result)
}

func TestAResolverThatFailsLeavesTheServers(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"round_robin"}`, servers)
	c.connected(servers...)
	c.resolver.CC().ReportError(errors.New("no name server"))
	for range 20 {
		require.NoError(t, c.call(time.Second))
	}
	require.NotZero(t, servers[0].calls.Load())
	require.NotZero(t, servers[1].calls.Load())
}

func TestServersThatAreDownFailCallsWithTheCause(t *testing.T) {
	servers := startServers(t, 2)
	for _, s := range servers {
		s.stop()
	}
	c := dial(t, `{}`, servers)
	err := c.call(5 * time.Second)
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, "refused")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() {
		time.Sleep(50 * time.Millisecond)
		servers[0].start(t)
		c.conn.ResetConnectBackoff()
	}()
	_, err = c.client.EmptyCall(ctx, &grpc_testing.Empty{}, grpc.WaitForReady(true))
	require.NoError(t, err)
}

func TestTheChannelBecomesIdleAndComesBack(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{}`, servers, grpc.WithIdleTimeout(50*time.Millisecond))
	c.connected(servers...)
	first := c.service()
	c.until(func() bool { return c.conn.GetState() == connectivity.Idle })
	c.until(func() bool { // an idle channel has no service
		_, err := first.TryLease(t.Context())
		return errors.Is(err, pooly.ErrPoolClosed)
	})
	require.NoError(t, c.call(time.Second))
	require.NotSame(t, first, c.service())
}

func TestCloseEndsCallsAndLeavesNothing(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{}`, servers)
	c.connected(servers...)
	servers[0].does(takes(time.Hour))
	servers[1].does(takes(time.Hour))
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- c.call(time.Minute) }()
	}
	c.until(func() bool { return c.service().Stats().InUse == cap(results) })
	began := time.Now()
	require.NoError(t, c.conn.Close())
	for range cap(results) {
		require.Error(t, <-results)
	}
	require.Less(t, time.Since(began), 5*time.Second)
	require.ErrorIs(t, c.service().Close(), pooly.ErrPoolClosed)
}

// Calls beyond maxRequests wait in gRPC, and are woken when there is room.
func TestMaxRequestsBoundsCallsInFlight(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"maxRequests":1}`, servers)
	c.connected(servers...)
	for _, s := range servers {
		s.does(takes(time.Millisecond))
		s.peak.Store(0)
	}
	all, failed := c.load(16, 500*time.Millisecond, 5*time.Second)
	require.Zero(t, failed)
	require.Greater(t, all, int64(32), "calls that wait are woken soon, not at their deadline")
	for _, s := range servers {
		require.EqualValues(t, 1, s.peak.Load())
	}
	servers[0].does(takes(time.Hour))
	servers[1].does(takes(time.Hour))
	results := make(chan error, 3)
	for range cap(results) {
		go func() { results <- c.call(200 * time.Millisecond) }()
	}
	for range cap(results) {
		require.Equal(t, codes.DeadlineExceeded, status.Code(<-results))
	}
}

func TestAnotherConfigurationFromTheResolverTakesEffect(t *testing.T) {
	servers := startServers(t, 2)
	c := dial(t, `{"strategy":"round_robin"}`, servers)
	c.connected(servers...)
	first := c.service()
	require.Equal(t, "round-robin", first.Stats().Strategy)
	for _, s := range servers {
		s.does(takes(100 * time.Millisecond))
	}
	result := make(chan error, 1)
	go func() { result <- c.call(5 * time.Second) }()
	c.until(func() bool { return first.Stats().InUse == 1 })

	state := stateOf(servers...)
	state.ServiceConfig = c.resolver.CC().ParseServiceConfig(
		`{"loadBalancingConfig":[{"watched":{"strategy":"thompson"}}]}`)
	c.resolver.UpdateState(state)
	c.until(func() bool { return c.service() != first })
	require.Equal(t, "Thompson", c.service().Stats().Strategy)
	require.NoError(t, c.call(time.Second))
	require.NoError(t, <-result, "a call under the old configuration")
	_, err := first.TryLease(t.Context())
	require.ErrorIs(t, err, pooly.ErrPoolClosed)
	second := c.service()
	c.resolver.UpdateState(state)
	require.NoError(t, c.call(time.Second))
	require.Same(t, second, c.service(), "the same configuration changes nothing")
	require.NotZero(t, second.Stats().Gets)
}

func TestConfigurationErrorsNameTheField(t *testing.T) {
	for config, message := range map[string]string{
		`{"strategy":"roundrobin"}`:                        `strategy "roundrobin" is none of epsilon_greedy, hot_cold`,
		`{"strategy":"hot_cold", "choices":1}`:             "choices",
		`{"strategy":"hot_cold","quantile":2}`:             "quantile 2",
		`{"strategy":"epsilon_greedy","epsilon":2}`:        "epsilon",
		`{"strategy":"softmax","temperature":-1}`:          "temperature",
		`{"strategy":"ucb","exploration":-1}`:              "exploration",
		`{"latencyTarget":5}`:                              `duration 5 is no string`,
		`{"latencyTarget":"5"}`:                            `missing unit`,
		`{"latencyTarget":"-1s"}`:                          "latencyTarget -1s is negative",
		`{"maxRequests":-1}`:                               "maxRequests -1 is negative",
		`{"failureCodes":["TOO_SLOW"]}`:                    "TOO_SLOW",
		`{"failureCodes":["OK"]}`:                          "OK is no failure",
		`{"maxEjectionPercent":101}`:                       "MaxEjectionPercent 101",
		`{"baseEjectionTime":"2s","maxEjectionTime":"1s"}`: "MaxEjectionTime 1s is less",
		`{"choices":"five"}`:                               "choices",
		`[]`:                                               "array",
	} {
		t.Run(config, func(t *testing.T) {
			_, err := poolygrpc.Builder{}.ParseConfig([]byte(config))
			require.ErrorContains(t, err, message)
			_, err = grpc.NewClient("passthrough:///x", grpc.WithDefaultServiceConfig(
				`{"loadBalancingConfig":[{"pooly":`+config+`}]}`))
			require.Error(t, err)
		})
	}
	_, err := poolygrpc.Builder{}.ParseConfig([]byte(`{"ofTheFuture":1, "consecutiveFailures":-1}`))
	require.NoError(t, err)
}

func register(policy string, configure func(*pooly.ServiceConfig)) {
	balancer.Register(poolygrpc.Builder{Policy: policy, Configure: configure})
}

// last always picks the arm with the greatest address.
type last struct{}

func (last) NewPicker(arms []pooly.Arm) pooly.Picker {
	best := 0
	for i, a := range arms {
		if a.Address > arms[best].Address {
			best = i
		}
	}
	return always(best)
}

type always int

func (i always) Pick(*rand.Rand) int { return int(i) }

func TestABuilderTakesAStrategyOfTheUsers(t *testing.T) {
	register("last", func(c *pooly.ServiceConfig) { c.BanditStrategy = last{} })
	servers := startServers(t, 3)
	c := dialWith(t, `{"loadBalancingConfig":[{"last":{}}]}`, servers)
	c.until(func() bool {
		for _, s := range servers {
			s.calls.Store(0)
		}
		for range 10 {
			require.NoError(t, c.call(time.Second))
		}
		used := 0
		for _, s := range servers {
			if s.calls.Load() > 0 {
				used++
			}
		}
		return used == 1
	})
}

func TestABuilderWithAnImpossibleConfigurationFailsCalls(t *testing.T) {
	register("wrong", func(c *pooly.ServiceConfig) { c.MaxHosts = -1 })
	c := dialWith(t, `{"loadBalancingConfig":[{"wrong":{}}]}`, startServers(t, 1))
	require.ErrorContains(t, c.call(time.Second), "MaxHosts -1")
}

// panics is a strategy that panics.
type panics struct{}

func (panics) NewPicker([]pooly.Arm) pooly.Picker { panic(errors.New("no strategy")) }

func TestAStrategyThatPanicsFailsCalls(t *testing.T) {
	register("panics", func(c *pooly.ServiceConfig) { c.BanditStrategy = panics{} })
	c := dialWith(t, `{"loadBalancingConfig":[{"panics":{}}]}`, startServers(t, 1))
	require.ErrorContains(t, c.call(time.Second), "no strategy")
}

// Everything at once, for the race detector.
func TestServersComeGoFailAndRestartUnderLoad(t *testing.T) {
	servers := startServers(t, 4)
	c := dial(t, `{"maxRequests":4}`, servers)
	c.connected(servers...)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := range 30 {
			s := servers[i%4]
			switch i % 5 {
			case 0:
				s.does(failsWith(codes.Unavailable))
			case 1:
				s.does(takes(5 * time.Millisecond))
			case 2:
				c.resolver.UpdateState(stateOf(servers[:1+i%4]...))
			case 3:
				s.stop()
				s.start(t)
			case 4:
				s.does(nil)
				c.resolver.UpdateState(stateOf(servers...))
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	c.load(16, 700*time.Millisecond, time.Second)
	<-stopped
	for _, s := range servers {
		s.does(nil)
	}
	c.resolver.UpdateState(stateOf(servers...))
	c.until(func() bool {
		c.conn.ResetConnectBackoff()
		stats := c.service().Stats()
		for _, h := range stats.Hosts {
			if h.Ejected {
				_ = c.call(time.Second)
				return false
			}
		}
		return len(stats.Hosts) == 4 && stats.InUse == 0
	})
	for range 40 {
		require.NoError(t, c.call(time.Second))
	}
}
