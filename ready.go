package pooly

import (
	"context"
	"errors"
	"fmt"
)

// Ready waits until n hosts are up and have been connected to, and returns nil. It is for the start
// of a program:
//
//	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
//	defer cancel()
//	if err := s.Ready(ctx, 1); err != nil {
//		log.Fatal(err) // each host that is not ready, and why
//	}
//
// ctx says how long to wait. While it lasts, servers may come up and hosts may be added: a host that
// could not be reached is probed with backoff, see ServiceConfig.BaseEjectionTime. To fail at the
// first refusal, use GetConn instead, which fails after GetAttempts rounds.
//
// Ready dials the hosts that were not dialled so far, even if PrespawnConns is negative. Their
// connections become idle, unless DialContext is used. With MaxHosts, the hosts in use count.
// Drained hosts do not. If n is 0 or less, Ready returns nil at once.
//
// Its error is a *GetConnError. Attempts has the cause of each host that is not ready. It wraps one
// of:
//   - ctx.Err() and its cause;
//   - ErrInvalidArg: n is more than MaxHosts;
//   - ErrPoolClosed.
func (s *Service) Ready(ctx context.Context, n int) error {
	if most := s.config.MaxHosts; most > 0 && n > most {
		return s.notReady(fmt.Errorf("%w: Ready of %d hosts, and MaxHosts is %d", ErrInvalidArg, n, most))
	}
	for {
		changed := s.changed.listen()
		if s.isClosed() {
			return s.notReady(ErrPoolClosed)
		}
		ready := s.knock()
		if ready >= n {
			return nil
		}
		select {
		case <-changed:
		case <-s.done:
		case <-ctx.Done():
			return s.notReady(fmt.Errorf("%d of %d hosts are ready: %w", ready, n, contextError(ctx)))
		}
	}
}

// knock dials the hosts that were never dialled, up to roundDials at a time. It returns how many
// hosts are ready.
func (s *Service) knock() (ready int) {
	dialing := 0
	for _, h := range s.all() {
		h.mu.Lock()
		if h.status == untried && h.dialing == 0 && dialing < roundDials && h.mayDialLocked() {
			h.startDialLocked(&dial{})
		}
		if h.status == untried && h.dialing > 0 {
			dialing++
		}
		if h.readyLocked() {
			ready++
		}
		h.mu.Unlock()
	}
	return ready
}

// readyLocked reports whether a host was connected to and is up.
func (h *host) readyLocked() bool {
	return h.status != untried && h.status != ejected
}

// notReady makes the error of Ready.
func (s *Service) notReady(reason error) error {
	e := &GetConnError{Service: s.name, Reason: reason}
	for _, h := range s.all() {
		e.Usage.Hosts++
		h.mu.Lock()
		ready, cause := h.readyLocked(), h.whyLocked()
		h.mu.Unlock()
		switch {
		case ready:
			continue
		case cause == nil:
			cause = errUnanswered
		}
		e.Attempts = append(e.Attempts, Attempt{h.address, cause})
	}
	return e
}

var errUnanswered = errors.New("its first dial has not ended")
