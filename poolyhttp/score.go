package poolyhttp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/3XX0/pooly"
)

// Exchange is what a host is rated by.
type Exchange struct {
	Request  *http.Request
	Response *http.Response // the header; nil if there is none. Do not touch the body
	Err      error          // why there is no response, see also Options.Hedge; else nil
	Elapsed  time.Duration  // from the lease to the header or the error
}

// clientError is the highest score of an answer that blames the client (4xx).
const clientError = 0.5

// Score returns a rule for Options.Score. Errors, timeouts, server errors (5xx) and 429 Too Many
// Requests rate pooly.HostDown. Other answers rate by pooly.LatencyScore with the given target, or
// pooly.HostUp if target is 0. Answers that blame the client (4xx) rate 0.5 at most: a host that
// gives all clients such an answer at once, because it lacks the files or the keys, must not look
// like the fastest. They do no harm where all hosts give their share of them, because strategies
// compare the hosts.
func Score(target time.Duration) func(Exchange) float64 {
	return func(e Exchange) float64 {
		if e.Err != nil || e.Response.StatusCode >= 500 ||
			e.Response.StatusCode == http.StatusTooManyRequests {
			return pooly.HostDown
		}
		score := pooly.HostUp
		if target > 0 {
			score = pooly.LatencyScore(e.Elapsed, target)
		}
		if e.Response.StatusCode >= 400 {
			score = min(score, clientError)
		}
		return score
	}
}

// outcome asks the user's rule what an exchange tells about the host. It reports false if the rule
// panics.
func (t *Transport) outcome(e Exchange) (o pooly.Outcome, ok bool) {
	defer func() {
		if v := recover(); v != nil {
			slog.Error("poolyhttp: Options.Score panicked", "service", t.service.Name(), "panic", v,
				"stack", string(debug.Stack()))
		}
	}()
	score := t.score(e)
	if math.IsNaN(score) {
		score = pooly.HostDown
	}
	score = min(max(score, pooly.HostDown), pooly.HostUp)
	o = pooly.Outcome{Score: score, Err: e.Err, Elapsed: e.Elapsed}
	if e.Err == nil && o.Score == pooly.HostDown {
		o.Err = fmt.Errorf("poolyhttp: answered %s", e.Response.Status)
	}
	return o, true
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}
