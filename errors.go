package pooly

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// The errors that callers test for with [errors.Is]. What the package returns wraps one of them,
// and says which service, address or value it is about.
var (
	// ErrInvalidArg says that an argument or a configuration value is impossible, such as a score
	// outside [0, 1] or a negative MaxConns.
	ErrInvalidArg = errors.New("pooly: invalid argument")

	// ErrPoolClosed says that the service or pool was closed, before the call or during it.
	ErrPoolClosed = errors.New("pooly: pool is closed")

	// ErrOpTimeout says that WaitTimeout or CloseDeadline passed before the operation was done.
	ErrOpTimeout = errors.New("pooly: operation timed out")

	// ErrNoHostAvailable says that a service has no host, or that no host could be reached in
	// GetAttempts rounds.
	ErrNoHostAvailable = errors.New("pooly: no host available")

	// ErrOverloaded says that a call was turned away, for one of four reasons: MaxWaiting callers
	// wait already, a call of Do or Lease has too little time left, TryLease finds no room, or
	// DialContext found MaxConns connections at each host. A later call may succeed.
	ErrOverloaded = errors.New("pooly: overloaded")

	// ErrRetriesSpent says that the service's budget of retries is spent (see LeaseOptions.Retry).
	ErrRetriesSpent = errors.New("pooly: retry budget spent")

	// ErrConnReleased says that the lease had been released before.
	ErrConnReleased = errors.New("pooly: connection already released")
)

// GetConnError is the error of GetConn, GetConnContext, Lease, DialContext, Ready and the Get methods
// of Pool. It implements net.Error.
//
// [errors.Is] and [errors.As] find its Reason and every cause in Attempts. So errors.Is(err,
// ErrNoHostAvailable) and errors.Is(err, syscall.ECONNREFUSED) may both hold.
type GetConnError struct {
	// Service is the service's name. Pool is the address of a Pool used alone. One of them is
	// empty.
	Service, Pool string

	// Reason is what ended the call. It wraps ErrNoHostAvailable, ErrOverloaded, ErrOpTimeout,
	// ErrPoolClosed or the context's error, or says what was wrong with the strategy.
	Reason error

	// Attempts has the hosts that could not be reached, each with its last failure, in no
	// particular order. If it is empty, Usage tells why there was no connection. Both are empty if
	// the context was cancelled. It must not be changed.
	Attempts []Attempt

	// Usage says how many connections there were, and how many were leased.
	Usage Usage
}

// Attempt is a host that could not be reached.
type Attempt struct {
	Address string // as given to Add
	Err     error  // the last failure of a dial, or what the host was ejected for
}

// Usage says what a service, or a Pool used alone, had when a call failed.
type Usage struct {
	Hosts    int // in use
	Ejected  int // ejected hosts
	MaxConns int // limit of connections per host
	Limit    int // lowest limit of leases of a host; 0 unless requests have timed out (see PoolStats)
	Leased   int // connections leased
	Dialing  int // dials in flight
	Waiting  int // callers in the queue

	// OldestLease is how long the oldest lease has lasted, to within about 100 ms. It is 0 if
	// nothing is leased, and for a Pool used alone.
	OldestLease time.Duration
}

// attemptsShown bounds the text of an error about very many hosts. Attempts has them all.
const attemptsShown = 32

// Error names the service, the reason, the usage, and each host that could not be reached with its
// cause.
func (e *GetConnError) Error() string {
	var b strings.Builder
	b.WriteString("pooly: ")
	if e.Pool != "" {
		fmt.Fprintf(&b, "pool %s: ", quoteAddress(e.Pool))
	} else {
		fmt.Fprintf(&b, "service %s: ", e.Service)
	}
	b.WriteString(strings.TrimPrefix(e.Reason.Error(), "pooly: "))
	e.Usage.describe(&b)
	separator := ": "
	for i, a := range e.Attempts {
		if i == attemptsShown {
			fmt.Fprintf(&b, "; and %d more", len(e.Attempts)-i)
			break
		}
		fmt.Fprintf(&b, "%s%s (%v)", separator, quoteAddress(a.Address), a.Err)
		separator = "; "
	}
	return b.String()
}

func (u Usage) describe(b *strings.Builder) {
	if u.Leased == 0 && u.Dialing == 0 && u.Waiting == 0 {
		return
	}
	fmt.Fprintf(b, " (%d connections of %d hosts in use, at most %d each",
		u.Leased, u.Hosts, u.MaxConns)
	if u.Limit > 0 {
		fmt.Fprintf(b, " and after timeouts %d", u.Limit)
	}
	if u.OldestLease >= time.Second {
		fmt.Fprintf(b, ", the oldest for %v", u.OldestLease.Round(time.Second))
	}
	if u.Dialing > 0 {
		fmt.Fprintf(b, "; %d dials under way", u.Dialing)
	}
	if u.Ejected > 0 {
		fmt.Fprintf(b, "; %d hosts ejected", u.Ejected)
	}
	fmt.Fprintf(b, "; %d callers waiting)", u.Waiting)
}

// Unwrap returns the reason and every attempt's cause.
func (e *GetConnError) Unwrap() []error {
	errs := make([]error, 0, 1+len(e.Attempts))
	errs = append(errs, e.Reason)
	for _, a := range e.Attempts {
		errs = append(errs, a.Err)
	}
	return errs
}

// Timeout reports whether the call ended because its deadline or WaitTimeout passed, as net.Error
// defines it.
func (e *GetConnError) Timeout() bool {
	return errors.Is(e.Reason, ErrOpTimeout) || errors.Is(e.Reason, context.DeadlineExceeded)
}

// Temporary reports whether the same call may succeed a moment later, which is so after a timeout
// and in overload.
func (e *GetConnError) Temporary() bool {
	return e.Timeout() || errors.Is(e.Reason, ErrOverloaded)
}

// hopelessError says that a caller had too little time left to use a connection.
type hopelessError struct{ left, needed time.Duration }

func (e *hopelessError) Error() string {
	return fmt.Sprintf("%v: %v before its deadline, where the shortest lease takes %v",
		ErrOverloaded, e.left, e.needed)
}

func (e *hopelessError) Unwrap() []error { return []error{ErrOverloaded, context.DeadlineExceeded} }

// named says which service or pool an error is about. It says "pooly" only once.
func named(kind, name string, err error) error {
	cause := strings.TrimPrefix(err.Error(), "pooly: ")
	return &namedError{fmt.Sprintf("pooly: %s %s: %s", kind, name, cause), err}
}

type namedError struct {
	text string
	err  error
}

func (e *namedError) Error() string { return e.text }
func (e *namedError) Unwrap() error { return e.err }

// quoteAddress quotes an address that is empty, has spaces or is not printable.
func quoteAddress(address string) string {
	q := strconv.Quote(address)
	if address == "" || strings.ContainsRune(address, ' ') || q[1:len(q)-1] != address {
		return q
	}
	return address
}

// contextError returns why ctx has ended, with its cause. It returns nil if ctx has not ended.
func contextError(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}

// recovered makes an error of the value that a plug-in panicked with, and logs the stack. Call it
// outside all locks.
func recovered(log *slog.Logger, method string, value any) error {
	log.Error("pooly: plug-in panicked",
		"method", method, "panic", value, "stack", string(debug.Stack()))
	if err, ok := value.(error); ok {
		return fmt.Errorf("%s panicked: %w", method, err)
	}
	return fmt.Errorf("%s panicked: %v", method, value)
}
