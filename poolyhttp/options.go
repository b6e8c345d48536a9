package poolyhttp

import (
	"fmt"
	"net/http"
	"time"

	"github.com/3XX0/pooly"
)

// Options are the options of NewTransport. The zero value of each field stands for its default.
type Options struct {
	// Score rates a host by an answer or by an error. A result outside [0, 1] becomes the nearer
	// bound, and NaN becomes pooly.HostDown. An answer that Score rates pooly.HostDown counts
	// against the host's health. Score is not called for requests that say nothing about the host
	// (see Transport). It is called concurrently. Default: Score(0).
	Score func(Exchange) float64

	// LoadMetric is the named metric in which servers tell how many requests they have in flight,
	// such as InFlightMetric. The transport reads it from the header endpoint-load-metrics of each
	// answer, in ORCA's text or JSON format, and tells pooly (see pooly.Conn.ReportLoad). The
	// number must include the answered request. Other metrics, such as utilization, do not count.
	// Default "": the header is not read.
	LoadMetric string

	// Hosts are more hosts whose URLs belong to the service, such as "api.example.com" or
	// "api.example.com:8080".
	Hosts []string

	// Fallback gets the requests for hosts that do not belong to the service. It may be
	// http.DefaultTransport. Default nil: such requests fail with ErrForeignHost.
	Fallback http.RoundTripper

	// Hedge is how long a request waits for its answer before a second copy of it goes to another
	// host. Default 0: there is no second copy. HedgeAtP95 stands for the 95th percentile of the
	// latencies that this transport sees. The first good answer wins, and the other copy is
	// cancelled. A server error (5xx) or one of RetryStatuses wins only if the other copy has no
	// better answer.
	//
	// Only replayable requests are hedged (see Transport), and at most 5 % of them, in bursts of at
	// most ten. Copies also charge the service's budget of retries. There is no second copy in
	// these cases:
	//   - Calls wait for a connection.
	//   - The limit below MaxConns is in force, because requests have timed out.
	//   - All hosts fail alike.
	//   - Copies do not help. A copy that loses is charged as much work as its request took, and
	//     such waste may be 0.3 % of all work. A copy that wins earns ten mean requests more. If
	//     requests take long by their nature, a copy takes long too, and nearly all copies lose.
	//
	// A copy that loses costs a stream over HTTP/2, and its connection over HTTP/1. If it took
	// longer than Hedge, its host is rated: Score gets an Exchange.Err that wraps context.Canceled.
	// Such an error never counts against the host's health.
	//
	// All requests share one percentile and one budget. If some requests take much longer than
	// others by their nature, use two transports, which may share the service.
	//
	// This is the hedged request of Dean and Barroso, The Tail at Scale, CACM 56(2), 2013.
	Hedge time.Duration

	// RetryStatuses are statuses, such as 429 and 503, after which a replayable request is sent
	// again. They must be errors (400 or above). Default: none.
	//
	// The request goes to another host at once. If the answer has a Retry-After, the request waits
	// for that time, and may then go to the same host. Each retry charges the service's budget of
	// retries. The caller gets the answer in these cases:
	//   - The budget is spent, or there is no other host.
	//   - Retry-After is longer than MaxRetryAfter, or than the time until the context's deadline.
	//   - The answer's body has more than 64 KiB, or breaks off.
	RetryStatuses []int

	// MaxRetryAfter is the longest Retry-After that a request waits for. Default:
	// DefaultMaxRetryAfter.
	MaxRetryAfter time.Duration
}

// HedgeAtP95 is the value of Options.Hedge that stands for the 95th percentile of the latencies.
const HedgeAtP95 time.Duration = -1

// DefaultMaxRetryAfter is the default of Options.MaxRetryAfter.
const DefaultMaxRetryAfter = time.Second

// check returns an error that names the first invalid option.
func (o *Options) check() error {
	switch {
	case o.Hedge < HedgeAtP95:
		return fmt.Errorf("%w: NewTransport: Hedge %v", pooly.ErrInvalidArg, o.Hedge)
	case o.MaxRetryAfter < 0:
		return fmt.Errorf("%w: NewTransport: MaxRetryAfter %v", pooly.ErrInvalidArg, o.MaxRetryAfter)
	}
	for _, status := range o.RetryStatuses {
		if status < 400 {
			return fmt.Errorf("%w: NewTransport: RetryStatuses has %d, which is no error",
				pooly.ErrInvalidArg, status)
		}
	}
	return nil
}
