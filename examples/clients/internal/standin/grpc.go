package standin

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// GRPC starts a server of the health service.
func GRPC() *Server {
	l := listen()
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return &Server{Address: l.Addr().String(), stop: func() {
		s.Stop()
		<-done
	}}
}
