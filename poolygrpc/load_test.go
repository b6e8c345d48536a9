package poolygrpc_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
)

// loaded is a server that says that it has seven RPCs in flight.
type loaded struct {
	testgrpc.UnimplementedTestServiceServer
}

func (loaded) EmptyCall(ctx context.Context, _ *testgrpc.Empty) (*testgrpc.Empty, error) {
	if r := orca.CallMetricsRecorderFromContext(ctx); r != nil {
		r.SetNamedMetric("in_flight", 7)
	}
	return new(testgrpc.Empty), nil
}

func TestServersTellTheirLoad(t *testing.T) {
	for config, want := range map[string]int{
		`{"loadMetric":"in_flight"}`: 6, // without the answered one
		`{"loadMetric":"other"}`:     0,
		`{}`:                         0,
	} {
		t.Run(config, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			s, done := grpc.NewServer(orca.CallMetricsServerOption(nil)), make(chan struct{})
			testgrpc.RegisterTestServiceServer(s, loaded{})
			go func() {
				defer close(done)
				_ = s.Serve(l)
			}()
			defer func() {
				s.Stop()
				<-done
			}()
			of := &server{address: l.Addr().String()}
			c := dial(t, config, []*server{of})
			c.until(func() bool { return c.call(5*time.Second) == nil })
			require.Equal(t, want, c.host(of).OtherRequests)
			require.NoError(t, c.conn.Close())
		})
	}
}
