package poolyhttp_test

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
)

// pipes are servers in a synctest bubble, whose connections are net.Pipes. The hosts are named "a",
// "b" and so on.
type pipes struct {
	hosts   map[string]*pipeHost
	driver  *poolyhttp.Driver
	servers []*http.Server
	wg      sync.WaitGroup
}

type pipeHost struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	dials  atomic.Int32
}

func (h *pipeHost) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *pipeHost) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

func (h *pipeHost) Addr() net.Addr { return &net.UnixAddr{} }

// newPipes serves one handler per host, over HTTP/2 or HTTP/1.
func newPipes(h2 bool, handlers map[string]http.HandlerFunc) *pipes {
	p := &pipes{hosts: make(map[string]*pipeHost)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	for name, handler := range handlers {
		h := &pipeHost{conns: make(chan net.Conn), closed: make(chan struct{})}
		p.hosts[name] = h
		server := &http.Server{Handler: handler, Protocols: protocols}
		p.servers = append(p.servers, server)
		p.wg.Go(func() { _ = server.Serve(h) })
	}
	p.driver = poolyhttp.NewDriver("http", &http.Transport{
		Protocols: protocols,
		DialContext: func(_ context.Context, _, address string) (net.Conn, error) {
			h := p.hosts[strings.TrimSuffix(address, ":80")]
			ours, theirs := net.Pipe()
			select {
			case h.conns <- theirs:
				h.dials.Add(1)
				return ours, nil
			case <-h.closed:
				return nil, net.ErrClosed
			}
		},
	})
	return p
}

func (p *pipes) close() {
	for _, s := range p.servers {
		_ = s.Close()
	}
	p.wg.Wait()
}

// inPipes runs a test in a bubble with a service of the given hosts. By default, "a" is picked
// while it is up.
func inPipes(
	t *testing.T, h2 bool, config pooly.ServiceConfig, options poolyhttp.Options,
	handlers map[string]http.HandlerFunc, run func(t *testing.T, p *pipes, client *http.Client, s *pooly.Service),
) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes(h2, handlers)
		defer p.close()
		config.Driver, config.PrespawnConns = p.driver, -1
		config.DecayDuration = 100 * time.Hour // so that a test ends in the slot in which it began
		if config.BanditStrategy == nil {
			config.BanditStrategy = inOrder{"a:80"}
		}
		s := pooly.NewService("web", &config)
		defer func() { _ = s.Close() }()
		for name := range handlers {
			s.Add(name + ":80")
		}
		run(t, p, &http.Client{Transport: poolyhttp.NewTransport(s, &options)}, s)
	})
}
