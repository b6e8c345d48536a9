package poolyhttp

import (
	"context"
	"errors"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
)

// hedge is what a transport knows for Options.Hedge.
type hedge struct {
	fixed    time.Duration // 0: at the 95th percentile
	estimate atomic.Int64  // estimate of that percentile; 0: nothing is known
	mean     atomic.Int64  // mean of the latencies in about the last hedgeMemory
	learnt   atomic.Int64  // latencies
	requests atomic.Uint64 // requests that might have been hedged

	mu     sync.Mutex // guards the fields below; taken only when a second copy is due or ends
	seen   uint64     // requests that the budget has counted
	tokens float64    // second copies that may be sent
	credit float64    // work that copies may waste, in mean requests; see settle
}

const (
	hedgeShare    = 0.05 // of the requests have a second copy
	hedgesAtOnce  = 10
	hedgeMemory   = 128
	hedgeQuantile = 0.95
	hedgeStep     = 0.1 // of the estimate's logarithm

	hedgeWaste = 0.003 // of the work, by copies that lose
	winEarns   = 10    // mean requests
	mostCredit = 50    // mean requests, also of debt
)

// These move the estimate up after a request that took longer, and down after another. At the
// quantile both balance.
var (
	hedgeUp   = math.Exp(hedgeStep * hedgeQuantile)
	hedgeDown = math.Exp(-hedgeStep * (1 - hedgeQuantile))
)

func newHedge(delay time.Duration) *hedge {
	return &hedge{fixed: max(0, delay), tokens: hedgesAtOnce, credit: mostCredit}
}

// fits reports whether a request may have a second copy, if its body can be sent again.
func (h *hedge) fits(req *http.Request) bool {
	return replayable(req) && !asksForUpgrade(req.Header)
}

// delay returns when to send the second copy of a request. 0: never.
func (h *hedge) delay() time.Duration {
	h.requests.Add(1)
	if h.fixed > 0 {
		return h.fixed
	}
	return time.Duration(h.estimate.Load())
}

// learn records how long the first copy of a request took. If it was cancelled, it took at least as
// long as the estimate, which is all that counts. Requests that fail fast say nothing.
//
// The estimate is Frugal-1U (Ma, Muthukrishnan and Sandler, Frugal Streaming for Estimating
// Quantiles, arXiv 1407.1121), on a logarithmic scale. An update that is lost to another one at the
// same time does no harm.
func (h *hedge) learn(elapsed time.Duration, good bool) {
	mean := h.mean.Load()
	h.mean.Store(mean + (int64(elapsed)-mean)/min(h.learnt.Add(1), hedgeMemory))
	estimate := time.Duration(h.estimate.Load())
	switch {
	case h.fixed > 0:
	case estimate == 0 && good:
		h.estimate.Store(int64(max(elapsed, time.Millisecond)))
	case elapsed > estimate:
		h.estimate.Store(int64(float64(estimate)*hedgeUp) + 1)
	case good:
		h.estimate.Store(int64(float64(estimate) * hedgeDown))
	}
}

// take withdraws one second copy from the budget. It reports false if the budget is spent.
func (h *hedge) take() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	requests := h.requests.Load()
	more := float64(requests - h.seen)
	h.seen = requests
	h.tokens = min(hedgesAtOnce, h.tokens+hedgeShare*more)
	h.credit = min(mostCredit, h.credit+hedgeWaste*more)
	if h.tokens < 1 || h.credit <= 0 {
		return false
	}
	h.tokens--
	return true
}

// settle records whether a second copy was of use. copied is how long the copy took, and whole how
// long the request took.
//
// If hosts cause delays, many copies win soon. They earn more than the losing copies waste. If
// requests are long by their nature, copies lose, and next to none are sent. A copy that loses is
// charged in full although it is cancelled: a server may finish what it has begun.
func (h *hedge) settle(won bool, copied, whole time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	mean := float64(h.mean.Load())
	if mean == 0 { // no request has ended yet
		mean = float64(max(1, whole))
	}
	gain := -float64(whole) / mean
	if won {
		gain = winEarns - max(0, float64(copied)/mean-1)
	}
	h.credit = min(mostCredit, max(-mostCredit, h.credit+gain))
}

// overloaded reports whether another copy of a request could do harm.
func (t *Transport) overloaded() bool {
	s := t.service.Stats()
	return s.Waiting > 0 || s.Limit < s.MaxConns || s.Panic
}

// lostError is why a copy of a request was cancelled. It wraps context.Canceled, so that
// pooly.Conn.Rate counts no failure.
type lostError struct {
	slow time.Duration // how long a slow copy has taken
}

func (*lostError) Error() string { return "poolyhttp: another copy of the request won" }
func (*lostError) Unwrap() error { return context.Canceled }

// attempt is one of two copies of a request. Its context ends when the other has won.
type attempt struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	life   *life // life of the context; keeps the request's life
}

func newAttempt(ctx context.Context, l *life) attempt {
	ctx, cancel := context.WithCancelCause(ctx)
	l.keep()
	return attempt{ctx, cancel, newLife(func() {
		cancel(nil)
		l.drop()
	})}
}

// race is a request of which a second copy may be sent.
type race struct {
	transport     *Transport
	request       *http.Request
	began         time.Duration
	address       string // address of the first copy's host
	first, second attempt
	lost          *lostError
	result        chan *http.Response // result of the second copy; nil if it has no answer

	mu   sync.Mutex // guards over
	over bool       // a copy has won, or both have ended
}

// sendHedged is send, with a second copy if the first takes long.
func (t *Transport) sendHedged(
	ctx context.Context, l *life, req *http.Request, lease *pooly.Conn,
) (*http.Response, fate, error) {
	delay, began := t.hedge.delay(), t.driver.now()
	if delay == 0 {
		resp, f, err := t.send(ctx, l, req, lease)
		t.hedge.learn(t.driver.now()-began, err == nil && !t.isBad(resp))
		return resp, f, err
	}
	r := &race{
		transport: t, request: req, began: began, address: lease.Address(),
		first: newAttempt(ctx, l), second: newAttempt(ctx, l),
		lost:   &lostError{slow: delay},
		result: make(chan *http.Response, 1),
	}
	second := time.AfterFunc(delay, r.sendSecond)
	chosen := false // the second copy's answer
	defer func() {
		second.Stop()
		r.finish()
		if !chosen {
			r.second.cancel(r.lost)
		}
		r.first.life.drop()
		r.second.life.drop()
	}()
	resp, f, err := t.send(r.first.ctx, r.first.life, req, lease)
	good := err == nil && !t.isBad(resp)
	t.hedge.learn(t.driver.now()-began, good)
	if second.Stop() || good && r.finish() {
		return resp, f, err
	}
	other := <-r.result
	if other == nil || err == nil && t.isBad(other) {
		return resp, f, err
	}
	chosen = true
	if f == unsent {
		closeBody(req)
	}
	return other, final, nil
}

var errSlow = errors.New("poolyhttp: no answer yet, so a copy of the request is sent")

// sendSecond sends the second copy if that is allowed.
func (r *race) sendSecond() {
	var resp *http.Response
	defer func() { r.result <- resp }()
	t := r.transport
	if t.overloaded() || !t.hedge.take() {
		return
	}
	req, ok := r.copy()
	if !ok {
		return
	}
	defer r.second.life.drop()
	options := pooly.LeaseOptions{Avoid: []string{r.address}, Retry: true, Cause: errSlow}
	lease, err := t.lease(r.second.ctx, req, options)
	if err != nil {
		closeBody(req)
		return
	}
	if lease.Address() == r.address {
		_ = lease.End()
		closeBody(req)
		return
	}
	began := t.driver.now()
	answer, f, err := t.send(r.second.ctx, r.second.life, req, lease)
	now := t.driver.now()
	won := false
	switch {
	case f == unsent:
		closeBody(req)
	case err != nil:
	case t.isBad(answer):
		resp = answer // the first copy may have no better answer
	case r.finish():
		resp, won = answer, true
		r.first.cancel(r.lost)
	}
	t.hedge.settle(won, now-began, now-r.began)
}

// copy returns the request for the second copy, and keeps its life. It reports false if there must
// be no second copy. Once the first copy is answered, the request belongs to the caller again.
func (r *race) copy() (*http.Request, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, false
	}
	req, ok := again(r.request, cutOff, false)
	if !ok {
		return nil, false
	}
	r.second.life.keep()
	return req.Clone(r.second.ctx), true
}

// finish ends the race. It reports false if it was over before.
func (r *race) finish() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.over
	r.over = true
	return !was
}
