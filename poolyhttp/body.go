package poolyhttp

//lint:file-ignore SA1019 http.Client.Timeout uses the deprecated Request.Cancel.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
)

// answerBody is the part of an exchange that begins with the answer's header. The exchange ends
// with the body, or with the request's context if nobody reads or closes the body.
type answerBody struct {
	body    io.ReadCloser
	outcome pooly.Outcome // by the header
	rates   bool          // outcome counts
	unwatch func() bool   // nil if the context does not end

	reading atomic.Int32 // calls of Read
	rated   atomic.Bool
	ended   atomic.Bool
}

var errBrokeOff = errors.New("poolyhttp: the answer's body broke off")

// streamsAfter is how long after the header a host is rated whose body is still being read.
const streamsAfter = time.Second

// Read reads the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	x.reading.Add(1)
	n, err := x.body.Read(p)
	x.reading.Add(-1)
	switch {
	case err == io.EOF:
		x.finish(nil)
	case err != nil:
		x.finish(err)
	case !x.rated.Load() && x.conn.driver.now() > x.began+x.elapsed+streamsAfter:
		x.rate()
	}
	if err == nil && x.ctx.Err() != nil {
		x.abandon() // it has left that to this Read
	}
	if err != nil && err != io.EOF && context.Cause(x.ctx) == errCancelled {
		err = errCancelled // HTTP/2 says that the context was cancelled
	}
	return n, err
}

// Close closes the answer's body.
func (x *exchange) Close() error {
	err := x.body.Close()
	x.finish(nil)
	return err
}

// finish ends the exchange with its body. err is why the body could not be read.
func (x *exchange) finish(err error) {
	if x.unwatch != nil {
		x.unwatch()
	}
	x.conclude(err)
}

// abandon is called when the request's context ends before the body does.
func (x *exchange) abandon() {
	if x.reading.Load() == 0 { // otherwise Read is about to return, most likely an error
		x.conclude(nil)
	}
}

// conclude rates the host and ends the lease, once.
func (x *exchange) conclude(err error) {
	if x.ended.Swap(true) {
		return
	}
	if ended := x.ctx.Err(); err != nil && ended == context.DeadlineExceeded {
		err = ended
	} else if ended != nil {
		err = nil // the client's own wish
	}
	if err != nil && !isMisuse(err) {
		if isTimeout(err) {
			x.timedOut()
		}
		x.rated.Store(true)
		_ = x.lease.Rate(pooly.Outcome{
			Score:   pooly.HostDown,
			Err:     fmt.Errorf("%w: %w", errBrokeOff, err),
			Elapsed: x.conn.driver.now() - x.began,
		})
	}
	x.rate()
	x.end()
	x.life.drop()
}

// rate rates the host by the answer's header, once.
func (x *exchange) rate() {
	if x.rates && !x.rated.Swap(true) {
		_ = x.lease.Rate(x.outcome)
	}
}

// upgradedBody is a connection that speaks another protocol now, such as WebSocket. It outlives its
// request's context.
type upgradedBody struct {
	io.ReadWriteCloser
	exchange *exchange
	once     sync.Once
}

func (b *upgradedBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.once.Do(b.exchange.end)
	return err
}

// CloseWrite closes the connection's end of writing, if net/http's body can. httputil.ReverseProxy
// uses it.
func (b *upgradedBody) CloseWrite() error {
	if c, ok := b.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("CloseWrite: %w", http.ErrNotSupported)
}

// sendable returns the request to send: with the given context, and with a body that notes its
// errors, which are not the host's fault. body is nil if the request's own body is sent.
func sendable(ctx context.Context, req *http.Request) (sent *http.Request, body *requestBody) {
	wrap := req.Body != nil && req.Body != http.NoBody && !cannotFail(req)
	if !wrap && ctx == req.Context() {
		return req, nil
	}
	sent = req.WithContext(ctx) // a copy
	sent.Cancel = nil
	if wrap {
		body = &requestBody{ReadCloser: req.Body, length: req.ContentLength, ctx: ctx}
		sent.Body = body
	}
	return sent, body
}

var nopCloser = [...]reflect.Type{
	reflect.TypeOf(io.NopCloser(nil)),
	reflect.TypeOf(io.NopCloser(struct {
		io.Reader
		io.WriterTo
	}{})),
}

// cannotFail reports whether a request's body is left as it is. If net/http knows the type of a
// body, it sends a body in memory together with the header, in one packet, and lets the kernel copy
// a file.
func cannotFail(req *http.Request) bool {
	if _, ok := req.Body.(*os.File); ok {
		return true // its error is an *fs.PathError
	}
	v := reflect.ValueOf(req.Body)
	if t := v.Type(); t != nopCloser[0] && t != nopCloser[1] {
		return false
	}
	length := 0
	switch r := v.Field(0).Interface().(type) {
	case *bytes.Reader:
		length = r.Len()
	case *bytes.Buffer:
		length = r.Len()
	case *strings.Reader:
		length = r.Len()
	default:
		return false
	}
	return int64(length) == req.ContentLength
}

// requestBody notes whether a request's body is what the request says, and comes in time.
type requestBody struct {
	io.ReadCloser
	length int64 // by the request; 0 or less: unknown
	read   int64
	once   sync.Once
	closed atomic.Bool
	wrong  atomic.Bool     // it failed, or has another length
	ctx    context.Context // of the request
	waits  atomic.Bool     // Read runs
	late   atomic.Bool     // Read returned after the end of ctx
}

// isLate reports whether a request waited for its own body when its context ended. Over HTTP/1,
// net/http lets Read return first.
func (b *requestBody) isLate() bool {
	return b != nil && (b.waits.Load() || b.late.Load())
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.waits.Store(true)
	n, err := b.ReadCloser.Read(p)
	if b.ctx.Err() != nil {
		b.late.Store(true)
	}
	b.waits.Store(false)
	b.read += int64(n)
	known := b.length > 0
	switch {
	case b.closed.Load(): // net/http needs no more of it
	case err != nil && err != io.EOF,
		known && b.read > b.length,
		known && err == io.EOF && b.read < b.length:
		b.wrong.Store(true)
	}
	return n, err
}

func (b *requestBody) Close() (err error) {
	b.once.Do(func() {
		b.closed.Store(true)
		err = b.ReadCloser.Close()
	})
	return err
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}
