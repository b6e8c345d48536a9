package poolygrpc_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolygrpc"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	balancer.Register(watched)
	goleak.VerifyTestMain(m)
}

// watched is the policy with a look at its services.
var watched = poolygrpc.Builder{Policy: "watched", Started: func(s *pooly.Service) {
	services.Lock()
	defer services.Unlock()
	if services.byName == nil {
		services.byName = make(map[string]*pooly.Service)
	}
	services.byName[s.Name()] = s
}}

var services struct {
	sync.Mutex
	byName map[string]*pooly.Service
}

// server is a gRPC server over loopback whose unary method does what a test says.
type server struct {
	grpc_testing.UnimplementedTestServiceServer
	address string
	calls   atomic.Int64
	running atomic.Int64
	peak    atomic.Int64

	mu     sync.Mutex
	answer func(context.Context) error
	server *grpc.Server
	done   chan struct{}
}

func startServer(t *testing.T) *server {
	t.Helper()
	s := &server{address: "127.0.0.1:0"}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

func startServers(t *testing.T, n int) (all []*server) {
	t.Helper()
	for range n {
		all = append(all, startServer(t))
	}
	return all
}

// start starts the server, at its old address if it was stopped.
func (s *server) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	require.NoError(t, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.address = l.Addr().String()
	running, done := grpc.NewServer(), make(chan struct{})
	s.server, s.done = running, done
	grpc_testing.RegisterTestServiceServer(running, s)
	go func() {
		defer close(done)
		_ = running.Serve(l)
	}()
}

func (s *server) stop() {
	s.end((*grpc.Server).Stop)
}

func (s *server) end(how func(*grpc.Server)) {
	s.mu.Lock()
	server, done := s.server, s.done
	s.mu.Unlock()
	how(server)
	<-done
}

// does says what the unary method does from now on; nil: it answers.
func (s *server) does(answer func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *server) EmptyCall(
	ctx context.Context, _ *grpc_testing.Empty,
) (*grpc_testing.Empty, error) {
	s.calls.Add(1)
	s.peak.Store(max(s.peak.Load(), s.running.Add(1)))
	defer s.running.Add(-1)
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	if answer != nil {
		if err := answer(ctx); err != nil {
			return nil, err
		}
	}
	return &grpc_testing.Empty{}, nil
}

// FullDuplexCall answers each message until its client closes.
func (s *server) FullDuplexCall(stream grpc_testing.TestService_FullDuplexCallServer) error {
	s.calls.Add(1)
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
		if err := stream.Send(&grpc_testing.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

func failsWith(code codes.Code) func(context.Context) error {
	return func(context.Context) error { return status.Error(code, "by the test") }
}

func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// channel is a client of some servers, over the policy.
type channel struct {
	t        *testing.T
	conn     *grpc.ClientConn
	client   grpc_testing.TestServiceClient
	resolver *manual.Resolver
}

var channels atomic.Int64

// dial makes a channel to servers with the given configuration of the policy.
func dial(t *testing.T, config string, servers []*server, options ...grpc.DialOption) *channel {
	t.Helper()
	service := fmt.Sprintf(`{"loadBalancingConfig":[{"watched":%s}]}`, config)
	return dialWith(t, service, servers, options...)
}

func dialWith(t *testing.T, service string, servers []*server, options ...grpc.DialOption) *channel {
	t.Helper()
	scheme := fmt.Sprintf("test%d", channels.Add(1))
	c := &channel{t: t, resolver: manual.NewBuilderWithScheme(scheme)}
	c.resolver.InitialState(stateOf(servers...))
	options = append(options,
		grpc.WithResolvers(c.resolver),
		grpc.WithDefaultServiceConfig(service),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	var err error
	c.conn, err = grpc.NewClient(c.resolver.Scheme()+":///"+t.Name(), options...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.conn.Close() })
	c.client = grpc_testing.NewTestServiceClient(c.conn)
	return c
}

func stateOf(servers ...*server) (s resolver.State) {
	for _, one := range servers {
		addresses := []resolver.Address{{Addr: one.address}}
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: addresses})
	}
	return s
}

// service returns the service of the channel's balancer.
func (c *channel) service() *pooly.Service {
	services.Lock()
	defer services.Unlock()
	return services.byName[c.t.Name()]
}

func (c *channel) host(s *server) pooly.HostStats {
	c.t.Helper()
	for _, h := range c.service().Stats().Hosts {
		if h.Address == s.address {
			return h
		}
	}
	require.Fail(c.t, "no such host", s.address)
	return pooly.HostStats{}
}

// call makes a unary call with a deadline.
func (c *channel) call(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := c.client.EmptyCall(ctx, &grpc_testing.Empty{})
	return err
}

// connected waits until all servers have served.
func (c *channel) connected(servers ...*server) {
	c.t.Helper()
	c.until(func() bool {
		for _, s := range servers {
			if s.calls.Load() == 0 {
				_ = c.call(time.Second)
				return false
			}
		}
		return true
	})
	for _, s := range servers {
		s.calls.Store(0)
	}
}

func (c *channel) until(ok func() bool) {
	c.t.Helper()
	require.Eventually(c.t, ok, 10*time.Second, 100*time.Microsecond)
}

// load makes calls from some goroutines for a while. It returns how many ended, and how many
// failed.
func (c *channel) load(goroutines int, d, timeout time.Duration) (ended, failed int64) {
	var all, bad atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(d)
	for range goroutines {
		wg.Go(func() {
			for time.Now().Before(end) {
				all.Add(1)
				if c.call(timeout) != nil {
					bad.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return all.Load(), bad.Load()
}
