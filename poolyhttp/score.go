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

// Exchange is a request and its outcome, by which Options.Score rates the host.
type Exchange struct {
	Request  *http.Request
	Response *http.Response // the answer's header; nil if there is none. Its body must not be used
	Err      error          // why there is no response, see also Options.Hedge; else nil
	Elapsed  time.Duration  // from the lease to the header or the error
}

// clientError is the highest score of an answer that blames the client (4xx).
const clientError = 0.5

// Score returns a function for Options.Score. It rates like this:
//   - pooly.HostDown for errors, timeouts, server errors (5xx) and 429 Too Many Requests;
//   - pooly.LatencyScore of the given target for other answers, or pooly.HostUp if target is 0;
//   - at most 0.5 for answers that blame the client (4xx).
//
// A host that lacks its files or keys answers every request with a 4xx at once. It must not look
// like the fastest host. If all hosts give some such answers, their scores fall alike, and each
// host keeps its traffic.
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
