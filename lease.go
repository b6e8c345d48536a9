package pooly

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// What protocols build on. Package poolyhttp is an example: one lease carries many requests, and
// the package knows better than pooly what each says about the host and the connection.

// LeaseOptions are the options of Service.Lease.
type LeaseOptions struct {
	// Avoid has addresses of hosts that have failed the request. The lease is of another host while
	// one can be reached. If no other host is up, any host may serve after RetryDelay. If no other
	// host has room, any host may serve after FallbackDelay. If there is no other host, any host
	// may serve at once. Unknown addresses are ignored.
	Avoid []string

	// Retry says that the request was sent before. Retries have a budget: a fifth of the other
	// calls of Lease and Do, and ten more a second. When it is spent, Lease returns
	// ErrRetriesSpent.
	Retry bool

	// Cause is why a retry is needed, for Observer.Retried.
	Cause error
}

// Lease is GetConnContext for packages that build on pooly. As in Do, ctx bounds both the wait and
// the use of the connection. A call that has waited gets no connection if too little time is left.
// It fails with ErrOverloaded instead.
//
// Unlike Do, Lease does not watch ctx while the connection is used. Release or End ends the lease.
//
// It returns the same errors as GetConnContext, and ErrRetriesSpent.
func (s *Service) Lease(ctx context.Context, options LeaseOptions) (*Conn, error) {
	switch {
	case !options.Retry:
		s.retries.request()
	case !s.retries.retry(s.clock.now()):
		return nil, named("service", s.name, ErrRetriesSpent)
	default:
		failed := ""
		if n := len(options.Avoid); n > 0 {
			failed = options.Avoid[n-1]
		}
		s.retried(ctx, failed, options.Cause)
	}
	var avoid []*line
	if len(options.Avoid) > 0 {
		avoid = s.linesOf(options.Avoid)
	}
	if len(avoid) == 0 || len(avoid) == int(s.size.Load()) {
		return s.lease(ctx, true)
	}
	return s.leaseOther(ctx, avoid)
}

// Report passes on what somebody else knows about a host: for example a health check, or a client
// that keeps the connections to the host itself.
//
//   - An error ejects the host, like a dial that failed. GetConn's errors and the log give the
//     error as the cause. pooly probes the host. It restores the host when a dial connects, or when
//     a lease or an exchange of the host ends well.
//   - nil restores the host, like a probe that connected. The exception is a host that was ejected
//     for its leases: it stays out until its next probe.
//
// Report of an unknown address, or after Close, does nothing.
func (s *Service) Report(address string, err error) {
	s.mu.Lock()
	h := s.hosts[address]
	s.mu.Unlock()
	if h == nil {
		return
	}
	err = h.examined(err)
	h.mu.Lock()
	var after func()
	switch {
	case h.closed:
	case err == nil:
		after = h.dialEnded(&dial{checked: true}, nil)
	case h.status == ejected:
		h.cause, h.byFeedback = err, false
	default:
		after = h.eject(err, false)
	}
	h.settleLocked()
	h.unlock()
	if after != nil {
		after()
	}
	s.queue.match()
}

// leaseOther leases a connection of a host whose line is not in avoid, while such a host can be
// reached.
func (s *Service) leaseOther(ctx context.Context, avoid []*line) (*Conn, error) {
	called := s.sample()
	c, err := s.acquire(ctx, true, nil, false, slices.Clone(avoid)) // waiters may read it later
	if err != nil {
		return nil, err
	}
	s.begin(ctx, c, called)
	return c, nil
}

// linesOf returns the lines of the hosts in use among addresses.
func (s *Service) linesOf(addresses []string) (lines []*line) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, a := range addresses {
		if h := s.hosts[a]; h != nil && !slices.Contains(addresses[:i], a) {
			lines = append(lines, &h.line)
		}
	}
	return lines
}

// Has reports whether an address is registered. After Close none is.
func (s *Service) Has(address string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.registeredLocked(address)
}

// Driver returns the driver of the service's configuration.
func (s *Service) Driver() Driver {
	return s.config.Driver
}

// CloseIdle closes the connections that are idle now, in the background. Leased ones are not
// touched.
func (s *Service) CloseIdle() {
	for _, h := range s.all() {
		h.mu.Lock()
		idle := h.idle.drain()
		h.settleLocked()
		h.unlock()
		h.destroyAll(idle, forEviction)
	}
}

// Outcome is what one exchange over a leased connection tells about the host, see Conn.Rate.
type Outcome struct {
	// Score rates the host, in [0, 1].
	Score float64

	// Err is why the host failed. It counts against the host's health, see ConsecutiveFailures, and
	// leaves the connection open. nil: the exchange ended well.
	//
	// An error that wraps context.Canceled says that the user gave the exchange up. It tells
	// neither that the host works nor that it fails. Score counts, and Elapsed is how long the
	// exchange would have taken at least.
	//
	// A timeout says nothing about a host that had too little time: the host is not rated, and Err
	// does not count. A host had too little time if Elapsed is less than its exchanges usually
	// take. If the host has served nobody in the last two seconds, the timeout counts all the same.
	Err error

	// Elapsed is how long the exchange took. Strategies that go by latency use it, and so does the
	// limit below MaxConns. 0, or a negative time, says that it is unknown.
	Elapsed time.Duration
}

// Rate rates the host by one exchange of a lease that goes on. Each exchange counts as much as a
// lease that Release ends, and strategies see its Elapsed. End such a lease with End: Release would
// rate and time the lease once more, as a whole.
//
// Rate returns ErrConnReleased if the lease has ended, whether by Release, End or Close. It returns
// ErrInvalidArg if the score is not in [0, 1]. In both cases nothing is rated. A Pool used alone
// keeps no score, so there Rate only checks the score. Rate may be called concurrently, also with
// Release and End.
func (c *Conn) Rate(o Outcome) error {
	switch {
	case c.conn == nil || c.conn.pool == nil:
		return fmt.Errorf("%w: Rate of a Conn that came from no pool", ErrInvalidArg)
	case !(o.Score >= HostDown && o.Score <= HostUp): // so that NaN fails too
		return fmt.Errorf("%w: score %v is outside [0, 1]", ErrInvalidArg, o.Score)
	}
	givenUp := errors.Is(o.Err, context.Canceled)
	failure := o.Err != nil && !givenUp
	ok := c.rate(outcome{
		score:   o.Score,
		rated:   true,
		failure: failure,
		timeout: failure && isTimeout(o.Err),
		givenUp: givenUp,
		cause:   o.Err,
	}, min(max(0, o.Elapsed), longestExchange), c.conn.pool.clock.now())
	if !ok {
		return fmt.Errorf("%w: to %s", ErrConnReleased, quoteAddress(c.Address()))
	}
	return nil
}

// longestExchange stands for any longer time of an exchange, so that sums with it do not overflow.
const longestExchange = 1000 * time.Hour

// End ends the lease and gives the connection back, without rating the host. Use it after Rate, or
// if the lease tells nothing about the host. It returns the same errors as Release. If End and
// Release are called concurrently, one call has an effect.
func (c *Conn) End() error {
	if c.conn == nil || c.conn.pool == nil {
		return fmt.Errorf("%w: End of a Conn that came from no pool", ErrInvalidArg)
	}
	return c.conn.pool.put(c, outcome{apart: true})
}

// CloseOnRelease makes this lease the last of its connection: Release or End closes the connection,
// whatever the outcome. It returns ErrConnReleased if the lease has ended. It may be called
// concurrently.
func (c *Conn) CloseOnRelease() error {
	if c.conn == nil || c.conn.pool == nil {
		return fmt.Errorf("%w: CloseOnRelease of a Conn that came from no pool", ErrInvalidArg)
	}
	if !c.conn.pool.spend(c, forRequest) {
		return fmt.Errorf("%w: to %s", ErrConnReleased, quoteAddress(c.Address()))
	}
	return nil
}

// spend makes a lease the last of its connection. It reports false if the lease has ended.
func (p *Pool) spend(l *Conn, why reason) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.conn.holdsLocked(l) || l.conn.cut {
		return false
	}
	l.conn.spent = why
	return true
}

// retire ends a lease and closes its connection, whatever the outcome.
func (p *Pool) retire(l *Conn, o outcome) error {
	p.spend(l, forFailure)
	return p.put(l, o)
}

// rate rates one exchange of a lease that goes on. elapsed is its latency; 0: unknown. It reports
// false if the lease has ended.
func (c *Conn) rate(o outcome, elapsed, now time.Duration) bool {
	p := c.conn.pool
	h := hostOf(c)
	if h == nil {
		return true
	}
	if !p.busy.Load() {
		p.wake()
	}
	after, ok := h.rateExchange(c, o, elapsed, now)
	if after != nil {
		after()
	}
	return ok
}

func (h *host) rateExchange(
	l *Conn, o outcome, elapsed, now time.Duration,
) (after func(), ok bool) {
	h.mu.Lock()
	defer h.unlock()
	c := l.conn
	if !c.holdsLocked(l) || c.cut {
		return nil, false
	}
	if c.outside {
		h.limiter.excuse(&o, elapsed, now)
	} else {
		h.judgeTimeLocked(c, &o, elapsed, now)
	}
	if o.rated {
		h.rate(o.score)
		h.tally.requests++
	}
	if elapsed > 0 && h.timing.Load() {
		h.timeLocked(c, o, elapsed, now)
	}
	after = h.judge(c, o)
	h.settleLocked()
	return after, true
}
