// Package web puts poolyhttp and http.Transport behind one interface, so that a benchmark sends the
// same requests through each to the same servers.
package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
)

// Client sends requests to a few servers, to each in turn.
type Client struct {
	client   *http.Client
	origins  []string // what URLs begin with
	requests atomic.Uint64
	close    func()
}

// NewNetHTTP returns a client with an http.Transport, which keeps as many connections as there are
// callers.
func NewNetHTTP(version int, addresses []string) *Client {
	t := transport(version)
	t.MaxIdleConnsPerHost = 1000
	c := &Client{client: &http.Client{Transport: t}, close: t.CloseIdleConnections}
	for _, a := range addresses {
		c.origins = append(c.origins, "http://"+a+"/")
	}
	return c
}

// NewPooly returns a client with a poolyhttp.Transport, whose service is as configured by default.
func NewPooly(version int, addresses []string) *Client {
	s := pooly.NewService("web", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", transport(version))},
		BanditStrategy: pooly.NewRoundRobin(),
	})
	s.SetHosts(addresses...)
	return &Client{
		client:  &http.Client{Transport: poolyhttp.NewTransport(s, nil)},
		origins: []string{"http://web/"},
		close:   func() { _ = s.Close() },
	}
}

func transport(version int) *http.Transport {
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(version == 1)
	t.Protocols.SetUnencryptedHTTP2(version == 2)
	return t
}

// Get reads an answer of so many bytes. timeout is the request's deadline; 0: none.
func (c *Client) Get(size int, timeout time.Duration) error {
	ctx := context.Background()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	origin := c.origins[c.requests.Add(1)%uint64(len(c.origins))]
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+strconv.Itoa(size), nil)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	n, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || n != int64(size)) {
		err = fmt.Errorf("web: %s with %d bytes, want %d", resp.Status, n, size)
	}
	return err
}

// Close closes the idle connections.
func (c *Client) Close() { c.close() }

// CPUTime returns the processor time that this process has used.
func CPUTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
