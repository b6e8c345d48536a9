package poolyhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/3XX0/pooly"
)

// Transport is an http.RoundTripper that has a service choose the host of each request.
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
type Transport struct {
	service *pooly.Service
	score   func(Exchange) float64
}

// Exchange is what a host is rated by.
type Exchange struct {
	Request  *http.Request
	Response *http.Response // the header; nil if there is none. Do not touch the body
	Err      error          // why there is no response; else nil
	Elapsed  time.Duration  // from the lease to the header or the error
}

// Options are the options of NewTransport. The zero value of each field stands for its default.
type Options struct {
	// Score rates a host by an answer or its absence. The result is brought into [0, 1]. Some
	// requests say nothing about the host, and Score is not asked: those that the client cancelled,
	// that are malformed, or whose body cannot be read. Default: Score(0).
	Score func(Exchange) float64
}

// NewTransport returns a transport for a service whose driver is of NewDriver:
//
//	s := pooly.NewService("api", &pooly.ServiceConfig{
//		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
//	})
//	s.SetHosts("10.0.0.1:8080", "10.0.0.2:8080")
//	client := &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: time.Second}
//
// nil options mean every default. examples/clients/http in the repository is such a program.
// Closing the service closes the connections.
func NewTransport(service *pooly.Service, options *Options) *Transport {
	t := &Transport{service: service, score: Score(0)}
	if options != nil && options.Score != nil {
		t.score = options.Score
	}
	return t
}

// Score returns a rule for Options.Score. Errors, timeouts and server errors (5xx) rate HostDown.
// Other answers rate by LatencyScore with the given target, or HostUp if target is 0.
func Score(target time.Duration) func(Exchange) float64 {
	return func(e Exchange) float64 {
		switch {
		case e.Err != nil || e.Response.StatusCode >= 500:
			return pooly.HostDown
		case target > 0:
			return pooly.LatencyScore(e.Elapsed, target)
		}
		return pooly.HostUp
	}
}

// RoundTrip implements http.RoundTripper. If no host can be reached, its error is that of
// GetConnContext.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	lease, err := t.service.Lease(req.Context(), pooly.LeaseOptions{})
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
	lease, failure := t.service.Lease(req.Context(), pooly.LeaseOptions{
		Avoid: []string{lease.Address()},
		Retry: true,
	})
	if failure != nil {
		closeBody(again)
		if errors.Is(failure, pooly.ErrRetriesSpent) {
			return nil, err
		}
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
func (t *Transport) send(lease *pooly.Conn, req *http.Request) (resp *http.Response, err error, broken bool) {
	cc, ok := lease.Interface().(*http.ClientConn)
	if !ok {
		_ = lease.End()
		closeBody(req)
		return nil, fmt.Errorf("%w: service %s: NewTransport needs the driver of NewDriver", pooly.ErrInvalidArg,
			t.service.Name()), false
	}
	body := &requestBody{}
	sent := req
	if req.Body != nil && req.Body != http.NoBody {
		body.ReadCloser = req.Body
		sent = req.WithContext(req.Context()) // a copy
		sent.Body = body
	}
	returned := false
	defer func() {
		if !returned {
			_ = lease.CloseOnRelease()
			_ = lease.End()
		}
	}()
	began := time.Now()
	resp, err = cc.RoundTrip(sent)
	elapsed := time.Since(began)
	returned = true

	if err != nil {
		closeBody(sent)
		// An error with this prefix says that the request is malformed and was not sent.
		ours := body.failed() || cc.Err() == nil && strings.HasPrefix(err.Error(), "http: ")
		cancelled := errors.Is(req.Context().Err(), context.Canceled)
		if !ours && !cancelled {
			t.rate(lease, Exchange{Request: req, Err: err, Elapsed: elapsed})
		}
		if cc.Err() != nil {
			_ = lease.CloseOnRelease()
		}
		_ = lease.End()
		return nil, err, !ours && req.Context().Err() == nil && !isTimeout(err)
	}
	resp.Request = req
	t.rate(lease, Exchange{Request: req, Response: resp, Elapsed: elapsed})
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
func (t *Transport) rate(lease *pooly.Conn, e Exchange) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("poolyhttp: Score panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	_ = lease.Rate(pooly.Outcome{Score: clamp(t.score(e)), Err: e.Err, Elapsed: e.Elapsed})
}

func clamp(score float64) float64 {
	if score != score {
		return pooly.HostDown
	}
	return min(max(score, pooly.HostDown), pooly.HostUp)
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
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
	lease  *pooly.Conn
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
		if err != nil && !errors.Is(b.ctx.Err(), context.Canceled) && !errors.Is(err, http.ErrBodyReadAfterClose) {
			_ = b.lease.Rate(pooly.Outcome{Score: pooly.HostDown, Err: err})
		}
		if !reusable || b.last {
			_ = b.lease.CloseOnRelease()
		}
		_ = b.lease.End()
	})
}

// upgradedBody is a connection that speaks another protocol now, such as WebSocket.
type upgradedBody struct {
	io.ReadWriteCloser
	lease *pooly.Conn
	ended sync.Once
}

func (b *upgradedBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.ended.Do(func() {
		_ = b.lease.CloseOnRelease()
		_ = b.lease.End()
	})
	return err
}
