package pooly

import (
	"math"
	"sync/atomic"
	"time"
)

// budget bounds retries to a share of the requests. So retries cannot multiply the load of hosts
// that fail because of it. Each request deposits retryShare. Each second deposits retryFloor, for
// services with few requests. Each retry withdraws one. The balance is at most what the latest rate
// of requests deposits in retryWindow.
//
// This is Finagle's RetryBudget (com.twitter.finagle.service.RetryBudget) with its defaults, as a
// token bucket.
type budget struct {
	requests       atomic.Uint64
	spent, refused atomic.Uint64

	mu     mutex // guards the fields below; nothing is locked under it
	at     time.Duration
	seen   uint64  // requests that were deposited
	rate   float64 // requests a second, smoothed over retryWindow
	tokens float64
}

const (
	retryShare  = 0.2
	retryFloor  = 10 // a second
	retryWindow = 10 * time.Second
)

// request records a request. retry works out the deposit.
func (b *budget) request() {
	b.requests.Add(1)
}

// retry withdraws one retry. It reports false if the budget is spent.
func (b *budget) retry(now time.Duration) bool {
	b.mu.Lock()
	b.depositLocked(now)
	ok := b.tokens >= 1
	if ok {
		b.tokens--
	}
	b.mu.Unlock()
	if ok {
		b.spent.Add(1)
	} else {
		b.refused.Add(1)
	}
	return ok
}

// depositLocked deposits for the time and the requests since the last call.
func (b *budget) depositLocked(now time.Duration) {
	window := retryWindow.Seconds()
	passed := (now - b.at).Seconds()
	requests := float64(b.requests.Load() - b.seen)
	if b.at == 0 {
		b.tokens = retryFloor
	}
	b.at, b.seen = now, b.requests.Load()
	if passed > window {
		requests *= window / passed // only those of the window
	}
	b.rate = b.rate*math.Exp(-passed/window) + requests/window
	b.tokens += retryShare*requests + retryFloor*passed
	b.tokens = min(b.tokens, (retryFloor+retryShare*b.rate)*window)
}
