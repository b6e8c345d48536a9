package main

import (
	"context"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/status"
)

// server has some workers. A call waits for one, and then takes an exponentially distributed time,
// which nothing cuts short. It reports its load as weighted_round_robin needs it.
type server struct {
	grpc_testing.UnimplementedTestServiceServer
	index   int
	address string
	workers chan struct{}
	mean    atomic.Int64 // nanoseconds
	failing atomic.Bool
	busy    meter // time of workers
	calls   meter

	server *grpc.Server
	done   chan struct{}
}

func newServer(workers int, mean time.Duration) *server {
	s := &server{address: "127.0.0.1:0", workers: make(chan struct{}, workers)}
	s.mean.Store(int64(mean))
	return s
}

// start starts the server, at its old address if it was stopped.
func (s *server) start() error {
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return err
	}
	s.address = l.Addr().String()
	s.server, s.done = grpc.NewServer(orca.CallMetricsServerOption(nil)), make(chan struct{})
	grpc_testing.RegisterTestServiceServer(s.server, s)
	go func(g *grpc.Server, done chan struct{}) {
		defer close(done)
		_ = g.Serve(l)
	}(s.server, s.done)
	return nil
}

// stop kills the server and the calls that it has.
func (s *server) stop() {
	s.server.Stop()
	<-s.done
}

func (s *server) UnaryCall(
	ctx context.Context, _ *grpc_testing.SimpleRequest,
) (*grpc_testing.SimpleResponse, error) {
	_ = grpc.SetHeader(ctx, metadata.Pairs(serverKey, strconv.Itoa(s.index)))
	if s.failing.Load() {
		return nil, status.Error(codes.Unavailable, "out of order")
	}
	select {
	case s.workers <- struct{}{}:
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	began := time.Now()
	time.Sleep(time.Duration(rand.ExpFloat64() * float64(s.mean.Load())))
	<-s.workers
	s.calls.add(1)
	s.busy.add(time.Since(began).Seconds() / float64(cap(s.workers)))
	if r := orca.CallMetricsRecorderFromContext(ctx); r != nil {
		if perSecond := s.calls.perSecond(); perSecond > 0 {
			r.SetQPS(perSecond)
			r.SetApplicationUtilization(max(0.001, s.busy.perSecond()))
		}
	}
	return &grpc_testing.SimpleResponse{}, nil
}

// serverKey is the header in which a server says which it is.
const serverKey = "server"

// serverID has what a call returned. A call that fails has its header among the trailers.
type serverID struct{ header, trailer metadata.MD }

// index returns the server that answered, -1 if none did.
func (id *serverID) index() int {
	for _, md := range []metadata.MD{id.header, id.trailer} {
		if v := md.Get(serverKey); len(v) > 0 {
			i, err := strconv.Atoi(v[0])
			if err == nil {
				return i
			}
		}
	}
	return -1
}
