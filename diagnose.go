package pooly

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// diagnosis says why calls fail. Looking at each host costs a lock of each, so calls that fail at
// about the same time share one diagnosis.
type diagnosis struct {
	mu       mutex // guards the fields below; taken before Service.mu and Pool.mu
	at, took time.Duration
	attempts []Attempt // immutable
	usage    Usage
}

// diagnosisRest says how long a diagnosis is used: this many times as long as it took.
const diagnosisRest = 20

// explain makes the error of a call that failed for the given reason.
func (s *Service) explain(reason error) error {
	e := &GetConnError{Service: s.name, Reason: reason}
	if s.isClosed() {
		e.Reason = ErrPoolClosed
		return e
	}
	if s.size.Load() == 0 {
		if reason == ErrNoHostAvailable {
			e.Reason = fmt.Errorf("%w: no host is registered", ErrNoHostAvailable)
		}
		return e
	}
	if errors.Is(reason, context.Canceled) {
		return e // the caller's own wish
	}
	d := &s.diagnosis
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := s.clock.now(); d.at == 0 || now-d.at > diagnosisRest*d.took {
		d.attempts, d.usage = s.diagnose()
		d.at, d.took = now, s.clock.now()-now
	}
	e.Attempts, e.Usage = d.attempts, d.usage
	e.Usage.Waiting = int(s.queue.length.Load())
	return e
}

func (s *Service) diagnose() (attempts []Attempt, total Usage) {
	for _, h := range s.all() {
		h.mu.Lock()
		u := h.usageLocked()
		cause := h.troubleLocked()
		h.mu.Unlock()
		total.MaxConns = u.MaxConns
		total.Hosts++
		total.Ejected += u.Ejected
		total.Leased += u.Leased
		total.Dialing += u.Dialing
		total.OldestLease = max(total.OldestLease, u.OldestLease)
		if cause != nil {
			attempts = append(attempts, Attempt{h.address, cause})
		}
	}
	return attempts, total
}

// troubleLocked returns why the host cannot be reached, nil if nothing is known to be wrong.
func (h *host) troubleLocked() error {
	switch {
	case h.cause != nil:
		return h.cause
	case h.counts.cause == nil && h.silent:
		return errSilent
	}
	return h.counts.cause
}

// errSilent is the cause given for a host that swallows connection requests.
var errSilent = fmt.Errorf("a dial has had no answer for longer than FallbackDelay: %w", context.DeadlineExceeded)
