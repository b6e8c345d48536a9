package poolyhttp

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"reflect"
	"strings"
)

// fate is what became of a request that failed.
type fate int

const (
	final     fate = iota // it must not be sent again
	unsent                // the connection was dead, and nothing has touched the request
	untouched             // the server has certainly not looked at it
	cutOff                // a kept connection broke before an answer began: servers close them at will
	broken                // a new connection broke before an answer began
)

// judge returns what became of a request that failed with err, and whether the host is to blame. It
// follows net/http: shouldRetryRequest of persistConn, and canRetryError of HTTP/2. net/http does
// not export the errors that these functions look at, so judge knows them by their type or text. If
// an error changes, some requests fail that might have been sent again. No request is sent again
// that must not be.
func (x *exchange) judge(body *requestBody, err error) (f fate, blame bool) {
	dead := new(deadError)
	stream := new(streamError)
	fresh, broke := x.fresh && !x.conn.used.Load(), cutOff
	if fresh {
		broke = broken
	}
	ours := errors.Is(err, net.ErrClosed) // net/http closes a connection if it cannot write the request
	switch text := err.Error(); {
	case body != nil && body.wrong.Load(), isMisuse(err):
		return final, false
	case errors.As(err, &dead):
		return unsent, fresh || dead.dialled
	case isNothingWritten(err):
		return untouched, fresh && !ours
	case text == "http: server closed idle connection":
		return broke, fresh
	case isOfType(err, "transportReadFromServerError"): // instead of the first byte
		return broke, !ours && (fresh || x.breaksFirst())
	case text == "http2: client conn not usable",
		text == "http2: Transport received Server's graceful shutdown GOAWAY":
		return untouched, false
	case text == "http2: client conn could not be established":
		return untouched, true
	case errors.As(err, stream) && stream.Code == refusedStream:
		// A server that closes the connection in good order refuses streams too.
		return untouched, x.conn.Available() > 0
	case stream.Code == protocolError && strings.HasSuffix(text, "received from peer"):
		return untouched, true // golang.org/issue/47635
	case x.conn.shared && x.conn.Err() != nil && x.upgrade == nil:
		return broke, fresh || x.breaksFirst()
	}
	return final, true
}

// breaksFirst reports whether the host is to blame for a kept connection that broke. All requests
// that were on their way when one broke are one failure: a server that ends closes all of its
// connections at once, also in good order.
func (x *exchange) breaksFirst() bool {
	d := x.conn.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	h := d.hosts[x.conn.address]
	if h == nil || x.began < h.brokeAt { // nil: the service was closed meanwhile
		return false
	}
	h.brokeAt = d.now()
	return true
}

// streamError has the fields of net/http's error of an HTTP/2 stream. errors.As copies such an
// error into any struct with these fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "HTTP/2 stream error" }

// The codes of RFC 9113, section 7.
const (
	protocolError = 1
	refusedStream = 7
)

func isNothingWritten(err error) bool { return isOfType(err, "nothingWrittenError") }

// isOfType reports whether a value is of a type of net/http with the given name.
func isOfType(value any, name string) bool {
	t := reflect.TypeOf(value)
	return t.Name() == name && t.PkgPath() == "net/http"
}

// plainError takes off what net/http wraps around an error for itself.
func plainError(err error) error {
	for {
		inner := errors.Unwrap(err)
		dead, ok := err.(*deadError)
		switch {
		case ok:
			inner = dead.err
		case !isNothingWritten(err) && !isOfType(err, "transportReadFromServerError"):
			return err
		}
		if inner == nil {
			return err
		}
		err = inner
	}
}

// misuse has the first words of errors with which net/http refuses a request, or the use of a body,
// whatever the server does.
var misuse = []string{
	"http: ContentLength=",
	"http: Request.ContentLength=",
	"http: Request.Write on Request with no Host or URL set",
	"http: can't write HTTP request",
	"http: invalid ",
	"http: no Host in request URL",
	"http: read on closed response body",
	"http: concurrent read on response body",
	"http2: request body larger than specified content length",
	"http2: response body closed",
	"http2: concurrent read on response body",
	"http2: invalid ",
	"invalid HTTP header ",
	"invalid HTTP trailer ",
	"invalid Host header",
	"invalid :protocol header",
	"invalid request :path ",
	"invalid Upgrade request header",
	"invalid Transfer-Encoding request header",
	"invalid Connection request header",
	"invalid Trailer key",
	"request header list larger than peer's advertised limit",
	"net/http: can't write control character in Request.URL",
	"net/http: invalid ",
	"idna: ",
}

// isMisuse reports whether an error is the fault of the request or of who reads the body.
func isMisuse(err error) bool {
	if file := new(fs.PathError); errors.As(err, &file) {
		return true // of the request's body
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	text := err.Error()
	for _, beginning := range misuse {
		if strings.HasPrefix(text, beginning) {
			return true
		}
	}
	return false
}

// replayable reports whether a request may be sent twice, as net/http decides it.
func replayable(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	_, key := req.Header["Idempotency-Key"]
	_, xKey := req.Header["X-Idempotency-Key"]
	return key || xKey
}

// again returns the request to send after a failure. It reports false if the request must not be
// sent again. broke says that it broke a new connection before.
func again(req *http.Request, f fate, broke bool) (next *http.Request, ok bool) {
	switch {
	case f == unsent:
		return req, true
	case f == final, f == broken && broke, f != untouched && !replayable(req):
		return nil, false
	case req.Body == nil || req.Body == http.NoBody:
		return req, true
	case req.GetBody == nil:
		return nil, false
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, false
	}
	next = new(http.Request)
	*next = *req
	next.Body = body
	return next, true
}
