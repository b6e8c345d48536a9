package poolyhttp

import (
	"fmt"
	"net/http"
	"time"

	"github.com/3XX0/pooly"
)

// Options are the options of NewTransport. The zero value of each field stands for its default.
type Options struct {
	// Score rates a host by an answer or its absence. The result is brought into [0, 1]. An answer
	// that it rates pooly.HostDown counts against the host's health. Some requests say nothing
	// about the host, and Score is not asked, see Transport. Default: Score(0).
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

	// Fallback gets the requests for hosts that do not belong to the service, for example
	// http.DefaultTransport. Default: they fail.
	Fallback http.RoundTripper

	// Hedge is after which time without an answer a second copy of a request goes to another host.
	// 0: never. HedgeAtP95: the 95th percentile of the latencies that the transport sees, which it
	// estimates. The first good answer wins, and the other copy is cancelled. A server error (5xx)
	// or one of RetryStatuses wins only if the other copy has no better answer.
	//
	// Only replayable requests are hedged (see Transport), and 5 % of them at most, apart from ten
	// at once. The service's budget of retries is charged, too. There is no second copy while calls
	// wait for a connection, after timeouts while the limit below MaxConns is in force, or while
	// all hosts fail alike.
	// A copy that takes longer than two mean requests counts as more than one.
	//
	// A copy that loses costs nothing over HTTP/2 but its stream. Over HTTP/1 it costs its
	// connection. If it took longer than Hedge, its host is rated: Score gets an Exchange.Err that
	// wraps context.Canceled. That does not count against the host's health, whatever the score.
	//
	// The latencies of all requests go together. If some requests take much longer than others by
	// their nature, use two transports, which may share the service. Hedging such requests does harm
	// at high load.
	//
	// This is the hedged request of Dean and Barroso, The Tail at Scale, CACM 56(2), 2013.
	Hedge time.Duration

	// RetryStatuses are statuses, such as 429 and 503, after which a replayable request is sent
	// again. They must be errors (400 or above). Default: none.
	//
	// The request goes to another host at once. If the answer has a Retry-After, the request waits
	// for that time, and may then go to the same host. The service's budget of retries is charged.
	// The answer is returned if the budget is spent, if there is no other host, if Retry-After is
	// longer than MaxRetryAfter or than the context lasts, or if its body has more than 64 KiB.
	RetryStatuses []int

	// MaxRetryAfter is the longest Retry-After that a request waits for. Default:
	// DefaultMaxRetryAfter.
	MaxRetryAfter time.Duration
}

// HedgeAtP95 is the value of Options.Hedge that stands for the 95th percentile of the latencies.
const HedgeAtP95 time.Duration = -1

// DefaultMaxRetryAfter is the default of Options.MaxRetryAfter.
const DefaultMaxRetryAfter = time.Second

// check returns which option is invalid.
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
