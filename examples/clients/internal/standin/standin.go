// Package standin has small servers in the process, which take the place of real ones where there are none.
package standin

import (
	"net"
	"sync"
)

// Server is a stand-in.
type Server struct {
	Address string
	stop    func()
}

// Stop ends the server and its connections. It may be called again.
func (s *Server) Stop() { s.stop() }

// Servers are the stand-ins of one program.
type Servers []*Server

// Start starts three servers, or none if there are addresses of real ones. It returns those to use.
func Start(addresses []string, start func() *Server) (Servers, []string) {
	if len(addresses) > 0 {
		return nil, addresses
	}
	var servers Servers
	for range 3 {
		s := start()
		s.stop = sync.OnceFunc(s.stop)
		servers = append(servers, s)
		addresses = append(addresses, s.Address)
	}
	return servers, addresses
}

// StopOne stops the first, if there is one.
func (s Servers) StopOne() {
	if len(s) > 0 {
		s[0].Stop()
	}
}

// StopAll stops all.
func (s Servers) StopAll() {
	for _, server := range s {
		server.Stop()
	}
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // a machine without loopback
	}
	return l
}

// serve calls handle for each connection, and closes the connection after it.
func serve(handle func(c net.Conn, address string)) *Server {
	l := listen()
	var mu sync.Mutex
	var wg sync.WaitGroup
	conns, stopped := make(map[net.Conn]bool), false
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if stopped {
				mu.Unlock()
				_ = c.Close()
				return
			}
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				handle(c, l.Addr().String())
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	return &Server{Address: l.Addr().String(), stop: func() {
		_ = l.Close()
		mu.Lock()
		stopped = true
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	}}
}
