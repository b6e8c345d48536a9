package pooly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// HTTPTransport is an http.RoundTripper that has a service choose the host of each request.
// Keep-alive connections wait in the service's pools, and the picked host gets the request on one
// of them. It may be used concurrently.
//
// The host is rated when the header of its answer comes. The connection goes back when the body is
// read to its end or closed, so close it, as always. A body closed before its end costs an HTTP/1
// connection, as with http.Transport. A body that breaks off rates the host HostDown.
//
// The server sees the URL's host as Host. It chooses nothing. The URL's scheme should be the
// driver's.
//
// A request is sent again to another host, once, if both hold:
//   - Its connection breaks before an answer begins. This includes connections that the server
//     closed while idle.
//   - net/http would call it replayable: the method is GET, HEAD, OPTIONS or TRACE, or there is an
//     Idempotency-Key or X-Idempotency-Key header; and the body is empty or GetBody returns it
//     again.
//
// Requests that time out are not sent again, and neither are answered ones, whatever the status.
type HTTPTransport struct {
	service *Service
	score   func(HTTPExchange) float64
}

// HTTPExchange is what a host is rated by.
type HTTPExchange struct {
	Request  *http.Request
	Response *http.Response // the header; nil if there is none. Do not touch the body
	Err      error          // why there is no response; else nil
	Elapsed  time.Duration  // from the lease to the header or the error
}

// NewHTTPTransport returns a transport for a service whose driver is of NewHTTPDriver:
//
//	s := pooly.NewService("api", &pooly.ServiceConfig{
//		PoolConfig: pooly.PoolConfig{Driver: pooly.NewHTTPDriver("http", nil)},
//	})
//	s.SetHosts("10.0.0.1:8080", "10.0.0.2:8080")
//	client := &http.Client{Transport: pooly.NewHTTPTransport(s), Timeout: time.Second}
//
// examples/clients/http in the repository is such a program. The transport rates by ScoreHTTP(0);
// see SetScore. Closing the service closes the connections.
func NewHTTPTransport(service *Service) *HTTPTransport {
	return &HTTPTransport{service: service, score: ScoreHTTP(0)}
}

// SetScore sets the rule that rates a host. Its result is brought into [0, 1]. Some requests say
// nothing about the host, and the rule is not asked: those that the client cancelled, that are
// malformed, or whose body cannot be read. Call SetScore before the transport is used.
func (t *HTTPTransport) SetScore(rule func(HTTPExchange) float64) {
	t.score = rule
}

// ScoreHTTP returns a rule for SetScore. Errors, timeouts and server errors (5xx) rate HostDown.
// Other answers rate by LatencyScore with the given target, or HostUp if target is 0.
func ScoreHTTP(target time.Duration) func(HTTPExchange) float64 {
	return func(e HTTPExchange) float64 {
		switch {
		case e.Err != nil || e.Response.StatusCode >= 500:
			return HostDown
		case target > 0:
			return LatencyScore(e.Elapsed, target)
		}
		return HostUp
	}
}

// RoundTrip implements http.RoundTripper. If no host can be reached, its error is that of
// GetConnContext.
func (t *HTTPTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	lease, err := t.service.lease(req.Context(), true)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err, broken := t.send(lease, req)
	if !broken || !replayable(req) {
		return resp, err
	}
	again := req.Clone(req.Context())
	if req.Body != nil && req.Body != http.NoBody {
		body, bodyErr := req.GetBody()
		if bodyErr != nil {
			return nil, err
		}
		again.Body = body
	}
	lease, failure := t.service.getOther(req.Context(), []*line{&lease.conn.pool.line})
	if failure != nil {
		closeBody(again)
		return nil, fmt.Errorf("%w, after %w", failure, err)
	}
	resp, err, _ = t.send(lease, again)
	if resp != nil {
		resp.Request = req
	}
	return resp, err
}

// send sends a request over a leased connection. It reports whether the connection broke before an
// answer began.
func (t *HTTPTransport) send(lease *Conn, req *http.Request) (resp *http.Response, err error, broken bool) {
	p := lease.conn.pool
	cc, ok := lease.Interface().(*http.ClientConn)
	if !ok {
		_ = p.put(lease, outcome{})
		closeBody(req)
		return nil, fmt.Errorf("%w: service %s: NewHTTPTransport needs the driver of NewHTTPDriver", ErrInvalidArg,
			t.service.name), false
	}
	body := &requestBody{}
	sent := req
	if req.Body != nil && req.Body != http.NoBody {
		body.ReadCloser = req.Body
		sent = req.WithContext(req.Context()) // a copy
		sent.Body = body
	}
	if !lease.conn.sampled {
		lease.conn.start = 0 // the header is timed: a body may stream for hours
	}
	returned := false
	defer func() {
		if !returned {
			_ = p.retire(lease, outcome{})
		}
	}()
	began := p.clock.now()
	resp, err = cc.RoundTrip(sent)
	now := p.clock.now()
	returned = true

	if err != nil {
		closeBody(sent)
		// An error with this prefix says that the request is malformed and was not sent.
		ours := body.failed() || cc.Err() == nil && strings.HasPrefix(err.Error(), "http: ")
		cancelled := errors.Is(req.Context().Err(), context.Canceled)
		if !ours && !cancelled {
			t.rate(lease, HTTPExchange{Request: req, Err: err, Elapsed: now - began}, now)
		}
		if cc.Err() != nil {
			p.spend(lease)
		}
		_ = p.put(lease, outcome{})
		return nil, err, !ours && req.Context().Err() == nil && !isTimeout(err)
	}
	resp.Request = req
	t.rate(lease, HTTPExchange{Request: req, Response: resp, Elapsed: now - began}, now)
	answer := &answerBody{ReadCloser: resp.Body, lease: lease, ctx: req.Context(),
		shared: resp.ProtoMajor >= 2, last: resp.Close}
	upgraded, writes := resp.Body.(io.ReadWriteCloser)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols && writes:
		resp.Body = &upgradedBody{ReadWriteCloser: upgraded, lease: lease}
	case resp.Body == nil || resp.Body == http.NoBody:
		answer.end(nil, true)
	default:
		resp.Body = answer
	}
	return resp, nil, false
}

// rate rates the host by the rule, which is the user's code.
func (t *HTTPTransport) rate(lease *Conn, e HTTPExchange, now time.Duration) {
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(t.service.log, "HTTPTransport's rule", v)
		}
	}()
	o := outcome{score: clampScore(t.score(e)), rated: true, failure: e.Err != nil, cause: e.Err}
	o.timeout = o.failure && isTimeout(e.Err)
	elapsed := e.Elapsed
	if lease.conn.start != 0 {
		elapsed = 0 // the end of the lease tells
	}
	lease.rate(o, elapsed, now)
}

// replayable reports whether a request may be sent twice, as net/http decides it.
func replayable(req *http.Request) bool {
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

// requestBody notes whether reading it failed, which is not the host's fault.
type requestBody struct {
	io.ReadCloser
	close sync.Once
	mu    sync.Mutex // guards err
	err   error
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.err = err
	}
	return n, err
}

func (b *requestBody) Close() (err error) {
	b.close.Do(func() { err = b.ReadCloser.Close() })
	return err
}

func (b *requestBody) failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err != nil
}

// answerBody ends the lease with the body.
type answerBody struct {
	io.ReadCloser
	lease  *Conn
	ctx    context.Context // of the request
	shared bool            // other requests use the connection too
	last   bool            // the server closes the connection after it
	ended  sync.Once
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.end(nil, true)
	case err != nil:
		b.end(err, false)
	}
	return n, err
}

func (b *answerBody) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil, b.shared)
	return err
}

func (b *answerBody) end(err error, reusable bool) {
	b.ended.Do(func() {
		var o outcome
		if err != nil && !errors.Is(b.ctx.Err(), context.Canceled) && !errors.Is(err, http.ErrBodyReadAfterClose) {
			o = outcome{score: HostDown, rated: true, failure: true, fatal: true, timeout: isTimeout(err), cause: err}
		}
		p := b.lease.conn.pool
		if !reusable || b.last {
			p.spend(b.lease)
		}
		_ = p.put(b.lease, o)
	})
}

// upgradedBody is a connection that speaks another protocol now, such as WebSocket.
type upgradedBody struct {
	io.ReadWriteCloser
	lease *Conn
	ended sync.Once
}

func (b *upgradedBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.ended.Do(func() { _ = b.lease.conn.pool.retire(b.lease, outcome{}) })
	return err
}
