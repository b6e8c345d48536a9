package poolyhttp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/3XX0/pooly"
)

// send sends one request to one host, over a leased connection. It ends the lease: with its error,
// or with the answer's body. Until then it keeps the life. If there is an error, it returns what
// became context of the request. The request's body is then closed, unless the request is unsent.
func (t *Transport) send(
	ctx context.Context, l *life, req *http.Request, lease *pooly.Conn,
) (*http.Response, fate, error) {
	c, ok := lease.Interface().(*conn)
	if !ok {
		_ = lease.End()
		closeBody(req)
		return nil, final, fmt.Errorf("%w: service %s: %T is no connection of poolyhttp.Driver",
			pooly.ErrInvalidArg, t.service.Name(), lease.Interface())
	}
	x := &exchange{transport: t, lease: lease, conn: c, ctx: ctx, life: l, fresh: !c.used.Load()}
	l.keep()
	var resp *http.Response
	ended := false
	defer func() {
		if !ended { // a function of the user's panics or ends the goroutine
			if resp != nil {
				_ = resp.Body.Close()
			}
			_ = lease.CloseOnRelease()
			x.end()
			l.drop()
		}
	}()
	sent, body := sendable(ctx, req)
	x.began = c.driver.now()
	resp, err := x.roundTrip(sent)
	x.elapsed = c.driver.now() - x.began
	if err != nil {
		f, err := x.fail(req, body, err)
		ended = true
		l.drop()
		if f != unsent {
			closeBody(sent)
		}
		return nil, f, err
	}
	x.answer(req, resp)
	ended = true
	return resp, final, nil
}

// exchange is a request that was sent to a host. It is also the answer's body.
type exchange struct {
	transport *Transport
	lease     *pooly.Conn
	conn      *conn
	ctx       context.Context // of the request
	life      *life
	fresh     bool             // the connection had served no request before
	upgrade   *http.ClientConn // the connection of an upgrade beside HTTP/2; else nil
	began     time.Duration
	elapsed   time.Duration // until the header or the error

	answerBody
}

// roundTrip sends the request. An upgrade needs HTTP/1: if the leased connection speaks HTTP/2, it
// only keeps the place of a connection that the upgrade gets.
func (x *exchange) roundTrip(req *http.Request) (*http.Response, error) {
	if err := x.conn.Err(); err != nil {
		return nil, &deadError{err: err}
	}
	if !x.conn.shared || !asksForUpgrade(req.Header) || !x.conn.driver.speaksHTTP1() {
		return x.conn.RoundTrip(req)
	}
	cc, err := x.conn.driver.dialHTTP1(x.ctx, x.lease.Address())
	if err != nil {
		return nil, &deadError{err: err, dialled: true}
	}
	x.upgrade = cc
	return cc.RoundTrip(req)
}

func asksForUpgrade(h http.Header) bool {
	for _, v := range h["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// fail rates the host by an error, and ends the exchange.
func (x *exchange) fail(req *http.Request, body *requestBody, err error) (fate, error) {
	defer x.end()
	f, blame := final, false
	var cause error
	lost, isLost := context.Cause(x.ctx).(*lostError)
	if isLost {
		err, cause, blame = lost, lost, x.elapsed >= lost.slow
		x.distrust(blame)
	} else if ended := x.ctx.Err(); ended != nil {
		// The context's cause may be any error of the user's.
		err, cause = context.Cause(x.ctx), ended
		blame = ended == context.DeadlineExceeded && !body.isLate()
	} else {
		f, blame = x.judge(body, err)
		err = plainError(err)
		cause = err
	}
	if blame {
		if isTimeout(cause) {
			x.timedOut()
		}
		if o, ok := x.transport.outcome(Exchange{Request: req, Err: cause, Elapsed: x.elapsed}); ok {
			_ = x.lease.Rate(o)
		}
	}
	return f, err
}

// sharesConn reports whether the request was sent on an HTTP/2 connection.
func (x *exchange) sharesConn() bool {
	return x.conn.shared && x.upgrade == nil
}

// timedOut lets no more requests use an HTTP/2 connection on which nothing was final since this
// request was sent. The connection may have died silently, and waiting would show it only after
// minutes.
func (x *exchange) timedOut() {
	if x.sharesConn() && time.Duration(x.conn.heardAt.Load()) < x.began {
		x.conn.silent.Store(true)
	}
}

// distrust is called when the exchange has lost to another copy of its request, see hedge. Since
// the exchange cannot time out any more, an HTTP/2 connection is taken for dead after lossesOfDead
// such losses in a row.
func (x *exchange) distrust(slow bool) {
	if x.sharesConn() && slow && x.conn.losses.Add(1) >= lossesOfDead {
		x.timedOut()
	}
}

const lossesOfDead = 5

// answer makes the exchange the body of its answer.
func (x *exchange) answer(req *http.Request, resp *http.Response) {
	if x.upgrade == nil {
		x.conn.used.Store(true)
		x.conn.heardAt.Store(int64(x.began + x.elapsed))
		if x.conn.losses.Load() != 0 {
			x.conn.losses.Store(0)
		}
	}
	x.reportLoad(resp.Header)
	e := Exchange{Request: req, Response: resp, Elapsed: x.elapsed}
	x.outcome, x.rates = x.transport.outcome(e)
	upgraded, writes := resp.Body.(io.ReadWriteCloser)
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols && writes:
		x.rate()
		resp.Body = &upgradedBody{ReadWriteCloser: upgraded, exchange: x}
		x.life.drop()
	case x.isEmpty(req, resp):
		x.rate()
		x.end()
		x.life.drop()
	default:
		x.body, resp.Body = resp.Body, x
		if x.ctx.Done() != nil {
			x.unwatch = context.AfterFunc(x.ctx, x.abandon)
		}
	}
}

// isEmpty reports whether an answer has no body. Over HTTP/2 an empty body is not http.NoBody.
func (x *exchange) isEmpty(req *http.Request, resp *http.Response) bool {
	return resp.Body == nil || resp.Body == http.NoBody || isOfType(resp.Body, "http2noBodyReader") ||
		req.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent ||
		resp.StatusCode == http.StatusNotModified
}

// end ends the lease.
func (x *exchange) end() {
	if x.upgrade != nil {
		_ = x.upgrade.Close()
	}
	x.conn.idleAt.Store(int64(x.conn.driver.now()))
	if !x.conn.reusable() {
		_ = x.lease.CloseOnRelease()
	}
	_ = x.lease.End()
}

// deadError says that a connection was unfit before a request was sent on it.
type deadError struct {
	err     error
	dialled bool // for the request
}

func (e *deadError) Error() string { return e.err.Error() }
func (e *deadError) Unwrap() error { return e.err }

func (d *Driver) speaksHTTP1() bool {
	return d.transport.Protocols == nil || d.transport.Protocols.HTTP1()
}
