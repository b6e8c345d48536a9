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
	switch {
	case s.isClosed():
		e.Reason = ErrPoolClosed
		return e
	case errors.Is(reason, context.Canceled): // the caller's own wish
		return e
	case s.size.Load() == 0:
		if reason == ErrNoHostAvailable {
			e.Reason = s.noHost()
		}
		return e
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

// noHost returns the error of a call that finds no host in use.
func (s *Service) noHost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, registered := range s.drained {
		if registered {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%w: all %d hosts are drained", ErrNoHostAvailable, n)
	}
	return fmt.Errorf("%w: no host is registered", ErrNoHostAvailable)
}

func (s *Service) diagnose() (attempts []Attempt, usage Usage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.order {
		h.mu.Lock()
		h.useLocked(&usage)
		cause := h.whyLocked()
		h.mu.Unlock()
		if cause != nil {
			attempts = append(attempts, Attempt{h.address, cause})
		}
	}
	return attempts, usage
}

// whyLocked returns why a host cannot be reached, nil if nothing tells that it cannot.
func (h *host) whyLocked() error {
	switch {
	case h.cause != nil:
		return h.cause
	case h.dialErr == nil && h.gate.state == gateSilent:
		return errSilent
	}
	return h.dialErr
}

// errSilent is the cause given for a host that swallows connection requests.
var errSilent = fmt.Errorf("a dial has had no answer for longer than FallbackDelay: %w",
	context.DeadlineExceeded)
