package pooly

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
)

// The errors that callers branch on, with [errors.Is]: what the package returns wraps one of them and says
// which service, address or value it is about.
var (
	// ErrInvalidArg says that an argument or a configuration value is impossible: a score outside [0, 1], a
	// negative MaxConns.
	ErrInvalidArg = errors.New("pooly: invalid argument")

	// ErrPoolClosed says that the service or pool was closed, before the call or during it.
	ErrPoolClosed = errors.New("pooly: pool is closed")

	// ErrOpTimeout says that WaitTimeout or CloseDeadline passed first.
	ErrOpTimeout = errors.New("pooly: operation timed out")

	// ErrNoHostAvailable says that a service has no host, or that every host was asked in every round and none
	// could be reached.
	ErrNoHostAvailable = errors.New("pooly: no host available")

	// ErrConnReleased says that Release was called on a lease that had been given back already.
	ErrConnReleased = errors.New("pooly: connection already released")
)

// GetConnError is the error of GetConn, GetConnContext and the Get methods of Pool. [errors.Is] and
// [errors.As] see its Reason and every cause in Attempts, so that both
// errors.Is(err, ErrNoHostAvailable) and errors.Is(err, syscall.ECONNREFUSED) may hold of one error.
type GetConnError struct {
	// Service is the service's name, and Pool the address of a Pool used alone; the other is empty.
	Service, Pool string

	// Reason is what ended the call: ErrNoHostAvailable, ErrOpTimeout, ErrPoolClosed, the context's error, or
	// what was wrong with the strategy.
	Reason error

	// Attempts says how the hosts failed that the call asked, each with its last failure, in the order in which
	// they were first asked. It is empty if the call ended before a host failed.
	Attempts []Attempt
}

// Attempt is one host's part in a failed GetConn.
type Attempt struct {
	Address string // as given to Add
	Err     error  // the last failure to get a connection to it
}

// attemptsShown bounds the text of an error over very many hosts; Attempts itself has them all.
const attemptsShown = 32

// Error names the service, the reason, and each address with its cause.
func (e *GetConnError) Error() string {
	var b strings.Builder
	b.WriteString("pooly: ")
	if e.Pool != "" {
		fmt.Fprintf(&b, "pool %s: ", quoteAddress(e.Pool))
	} else {
		fmt.Fprintf(&b, "service %s: ", e.Service)
	}
	b.WriteString(strings.TrimPrefix(e.Reason.Error(), "pooly: "))
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

// Unwrap returns the reason and every attempt's cause.
func (e *GetConnError) Unwrap() []error {
	errs := make([]error, 0, 1+len(e.Attempts))
	errs = append(errs, e.Reason)
	for _, a := range e.Attempts {
		errs = append(errs, a.Err)
	}
	return errs
}

// named says which service or pool an error is about, and says "pooly" once.
func named(kind, name string, err error) error {
	return &namedError{fmt.Sprintf("pooly: %s %s: %s", kind, name, strings.TrimPrefix(err.Error(), "pooly: ")), err}
}

type namedError struct {
	text string
	err  error
}

func (e *namedError) Error() string { return e.text }
func (e *namedError) Unwrap() error { return e.err }

// quoteAddress leaves ordinary addresses as they are and makes empty, spaced or unprintable ones visible.
func quoteAddress(address string) string {
	if q := strconv.Quote(address); address == "" || strings.ContainsRune(address, ' ') || q[1:len(q)-1] != address {
		return q
	}
	return address
}

// recovered turns what a plug-in panicked with into an error, and logs the stack, which no caller would
// otherwise see. It must be called with the value of recover, outside all locks.
func recovered(log *slog.Logger, method string, value any) error {
	log.Error("pooly: plug-in panicked", "method", method, "panic", value, "stack", string(debug.Stack()))
	if err, ok := value.(error); ok {
		return fmt.Errorf("%s panicked: %w", method, err)
	}
	return fmt.Errorf("%s panicked: %v", method, value)
}
