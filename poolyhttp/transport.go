package poolyhttp

//lint:file-ignore SA1019 http.Client.Timeout uses the deprecated Request.Cancel.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
)

// Transport is an http.RoundTripper. A pooly.Service picks the host of each request and keeps the
// connections. A Transport may be used concurrently.
//
// # Which requests
//
// The URL's host must be the service's name, one of its hosts, or one of Options.Hosts. A missing
// port stands for the scheme's port. The URL does not choose the host: the strategy does. The
// server sees the URL's host as Host, unless Request.Host is set.
//
// Requests for other hosts, as after a redirect, go to Options.Fallback, or fail with
// ErrForeignHost. If the URL's scheme is not the driver's, the request fails with ErrScheme. A
// request with a malformed header, trailer or method fails as with http.Transport. None of these
// requests needs a connection.
//
// # Ratings
//
// A host is rated when the answer's body ends, or a second after the header if the body streams for
// longer. If the body breaks off later, the host is rated once more. The connection goes back when
// the body is read to its end or closed, or when the request's context ends. A body closed before
// its end costs an HTTP/1 connection, as with http.Transport.
//
// These count against the host's health, and eject it if it is worse than the others (see
// pooly.ServiceConfig.ConsecutiveFailures):
//   - an error of the connection or of the protocol. If kept connections break together, as when a
//     server ends, the requests on them count once;
//   - a timeout, unless the host had less time than it usually takes;
//   - an answer that Options.Score rates pooly.HostDown, such as a server error (5xx);
//   - a body that breaks off.
//
// These do not:
//   - requests that the client cancels, that are malformed, or whose body cannot be read;
//   - a timeout while the request waits for its own body, as when a client uploads slowly;
//   - what a server does when it closes connections in good order.
//
// # Sending again
//
// A request is sent again, to another host if there is one, when net/http would do so:
//   - The server has certainly not looked at it: nothing was written, or HTTP/2's GOAWAY or
//     REFUSED_STREAM says so. The body must be empty, or GetBody must return it again.
//   - The connection breaks before the answer begins, and the request is replayable: its method is
//     GET, HEAD, OPTIONS or TRACE, or it has an Idempotency-Key or X-Idempotency-Key header. The
//     body must be as above. net/http does so only on a connection that has served before. On a new
//     connection, a Transport does it at most once, and only if there is another host.
//
// A request is sent at most four times. Each retry charges the service's budget of retries (see
// pooly.LeaseOptions), except the first retry of a request that the server has not looked at.
// Requests that time out or are cancelled are not sent again. Answered requests are not sent again
// either, unless Options.RetryStatuses has the status.
type Transport struct {
	service  *pooly.Service
	driver   *Driver
	score    func(Exchange) float64
	hosts    map[string]bool // hosts that belong to the service: as given, and with ports
	fallback http.RoundTripper
	hedge    *hedge // nil: no hedging

	loadMetric string // "": not read

	retryStatuses []int
	maxRetryAfter time.Duration
}

// These errors say that nothing of a request was sent.
var (
	// ErrForeignHost says that the URL's host does not belong to the service.
	ErrForeignHost = errors.New("poolyhttp: host does not belong to the service")

	// ErrScheme says that the URL's scheme is not the driver's.
	ErrScheme = errors.New("poolyhttp: scheme is not the driver's")
)

// NewTransport returns a transport for a service. A nil options means every default. It panics if
// an option is invalid, or if the service's driver neither came from NewDriver nor embeds such a
// driver. Closing the service closes the connections.
func NewTransport(service *pooly.Service, options *Options) *Transport {
	d, ok := service.Driver().(interface{ base() *Driver })
	if !ok {
		panic(fmt.Errorf("%w: NewTransport: service %s has a %T, not a driver of NewDriver",
			pooly.ErrInvalidArg, service.Name(), service.Driver()))
	}
	if options == nil {
		options = &Options{}
	}
	if err := options.check(); err != nil {
		panic(err)
	}
	t := &Transport{
		service:  service,
		driver:   d.base(),
		score:    options.Score,
		hosts:    make(map[string]bool),
		fallback: options.Fallback,

		loadMetric: options.LoadMetric,

		retryStatuses: slices.Clone(options.RetryStatuses),
		maxRetryAfter: options.MaxRetryAfter,
	}
	if t.maxRetryAfter == 0 {
		t.maxRetryAfter = DefaultMaxRetryAfter
	}
	if options.Hedge != 0 {
		t.hedge = newHedge(options.Hedge)
	}
	if t.score == nil {
		t.score = Score(0)
	}
	for _, h := range append([]string{service.Name()}, options.Hosts...) {
		t.hosts[h] = true
		t.hosts[t.withPort(&url.URL{Host: h})] = true
	}
	return t
}

func (d *Driver) base() *Driver { return d }

// CloseIdleConnections closes the service's idle connections, and those of Options.Fallback.
// http.Client.CloseIdleConnections calls it.
func (t *Transport) CloseIdleConnections() {
	t.driver.stopSharingIdle() // they are closed in the background
	t.service.CloseIdle()
	if f, ok := t.fallback.(interface{ CloseIdleConnections() }); ok {
		f.CloseIdleConnections()
	}
}

// mostSends is how often a request is sent at most.
const mostSends = 4

// RoundTrip implements http.RoundTripper. If no host can be reached, its error is a
// *pooly.GetConnError.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.check(req); err != nil {
		if errors.Is(err, ErrForeignHost) && t.fallback != nil {
			return t.fallback.RoundTrip(req)
		}
		closeBody(req)
		return nil, err
	}
	ctx, l := contextOf(req)
	defer l.drop()
	resp, err := t.sendUntilAnswered(ctx, l, req)
	if err != nil {
		return nil, err
	}
	resp.Request = req
	return resp, nil
}

// sendUntilAnswered sends a request until it has an answer to keep, or must not be sent again. The
// answer keeps the life.
func (t *Transport) sendUntilAnswered(
	ctx context.Context, l *life, req *http.Request,
) (*http.Response, error) {
	var options pooly.LeaseOptions
	var cause error          // why it was not answered before
	var spare *http.Response // an answer that is kept unless a better one comes
	elsewhere := false       // the same host must not get it again
	broke := false           // it broke a new connection
	if ctx.Err() != nil {
		closeBody(req)
		return nil, context.Cause(ctx)
	}
	for sends := 1; ; sends++ {
		lease, err := t.lease(ctx, req, options)
		if err == nil && elsewhere && slices.Contains(options.Avoid, lease.Address()) {
			// There is no other host. net/http would not try again here either.
			_ = lease.End()
			err = pooly.ErrRetriesSpent
		}
		if err != nil {
			closeBody(req)
			if spare != nil {
				return spare, nil
			}
			return nil, explain(err, cause)
		}
		var resp *http.Response
		var f fate
		if t.hedge != nil && sends == 1 && t.hedge.fits(req) {
			resp, f, err = t.sendHedged(ctx, l, req, lease)
		} else {
			resp, f, err = t.send(ctx, l, req, lease)
		}
		next, ok, wait := req, false, time.Duration(0)
		switch {
		case err == nil:
			if sends < mostSends && t.retries(resp) {
				next, wait, ok = t.afterAnswer(ctx, req, resp)
			}
			if !ok {
				return resp, nil
			}
			spare, elsewhere = resp, wait == 0
		case sends < mostSends && ctx.Err() == nil:
			next, ok = again(req, f, broke)
			elsewhere, broke = f == broken, broke || f == broken
		}
		if !ok {
			if f == unsent {
				closeBody(req)
			}
			return nil, err
		}
		if !sleep(ctx, wait) {
			closeBody(next)
			return spare, nil
		}
		req, cause = next, err
		options.Avoid = append(options.Avoid, lease.Address())
		options.Retry = sends > 1 || err == nil || f == cutOff || f == broken
		options.Cause = err
		if err == nil {
			options.Cause = fmt.Errorf("poolyhttp: answered %s", spare.Status)
		}
	}
}

// lease leases a connection for a request, and tells its trace.
func (t *Transport) lease(
	ctx context.Context, req *http.Request, options pooly.LeaseOptions,
) (*pooly.Conn, error) {
	trace := httptrace.ContextClientTrace(ctx)
	if trace != nil && trace.GetConn != nil {
		trace.GetConn(t.withPort(req.URL))
	}
	l, err := t.service.Lease(ctx, options)
	if err == nil && trace != nil && trace.GotConn != nil {
		returned := false
		defer func() {
			if !returned { // it panics or ends the goroutine
				_ = l.End()
			}
		}()
		trace.GotConn(infoOf(l))
		returned = true
	}
	return l, err
}

// infoOf tells a trace about a leased connection.
func infoOf(l *pooly.Conn) (info httptrace.GotConnInfo) {
	if c, ok := l.Interface().(*conn); ok {
		info.Conn, info.Reused = c.socket, c.used.Load()
		info.WasIdle = info.Reused && (!c.shared || c.InFlight() == 0)
		if info.WasIdle {
			info.IdleTime = c.driver.now() - time.Duration(c.idleAt.Load())
		}
	}
	return info
}

// owns reports whether a URL belongs to the service.
func (t *Transport) owns(u *url.URL) bool {
	if t.hosts[u.Host] || t.service.Has(u.Host) {
		return true
	}
	host := t.withPort(u)
	return t.hosts[host] || t.service.Has(host)
}

// withPort returns a URL's host in lower case and with a port.
func (t *Transport) withPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case t.driver.scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

var errCancelled = errors.New("net/http: request canceled") // as http.Transport says it

// contextOf returns a request's context, which also ends with its Cancel channel. With a Cancel
// channel, the end of the life ends the context and frees what it needs.
func contextOf(req *http.Request) (context.Context, *life) {
	if req.Cancel == nil {
		return req.Context(), nil
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	go func() {
		select {
		case <-req.Cancel:
			// http.Client.Timeout sets a deadline, and closes Cancel when it passes.
			if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
				<-ctx.Done()
			}
			cancel(errCancelled)
		case <-ctx.Done():
		}
	}()
	return ctx, newLife(func() { cancel(nil) })
}

// life is how long a context is needed. Each user of the context calls keep and later drop. The
// last drop ends the life. A nil life never ends.
type life struct {
	users atomic.Int32
	end   func()
}

// newLife returns a life with one user.
func newLife(end func()) *life {
	l := &life{end: end}
	l.users.Store(1)
	return l
}

func (l *life) keep() {
	if l != nil {
		l.users.Add(1)
	}
}

func (l *life) drop() {
	if l != nil && l.users.Add(-1) == 0 {
		l.end()
	}
}

// explain returns the error of a request that got no connection. cause is why it was not answered
// before; nil: this was the first try.
func explain(err, cause error) error {
	switch {
	case cause == nil:
		return err
	case errors.Is(err, pooly.ErrRetriesSpent):
		return cause
	}
	return &againError{err, cause}
}

// againError says that a request could not be sent again.
type againError struct{ err, cause error }

func (e *againError) Error() string   { return fmt.Sprintf("%v, after %v", e.err, e.cause) }
func (e *againError) Unwrap() []error { return []error{e.err, e.cause} }
func (e *againError) Timeout() bool   { return isTimeout(e.err) }
