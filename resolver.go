package pooly

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"
)

// Resolver finds the hosts of a service, for [Service.Follow]. Package dns has one for DNS. The
// module github.com/3XX0/pooly/etcd has one for etcd.
type Resolver interface {
	// Watch yields the addresses of all hosts, as given to Add: the current list at once, and the
	// whole new list whenever it changes. An empty list says that there are no hosts, so it must
	// not stand for a failed lookup.
	//
	// If a lookup fails, Watch yields the error, pauses as it sees fit, and tries again. Meanwhile
	// the hosts stay as they are. It goes on until yield returns false or ctx ends, and returns
	// soon after. It must not change a slice that it has yielded.
	Watch(ctx context.Context) iter.Seq2[[]string, error]
}

// ResolverFunc is a function that does what Resolver.Watch says.
type ResolverFunc func(ctx context.Context) iter.Seq2[[]string, error]

// Watch implements Resolver.
func (f ResolverFunc) Watch(ctx context.Context) iter.Seq2[[]string, error] {
	return f(ctx)
}

var (
	errNoAnswer      = errors.New("the resolver ended without an answer")
	errWatchReturned = errors.New("the resolver's Watch returned although nothing had ended it")
	errWatchExited   = errors.New("the resolver's Watch ended its goroutine")
)

// The pauses before Watch is called anew: 1 s, then each twice as long as the last, up to 30 s. Up
// to a fifth is cut off at random. After a Watch that ran for longer than the longest pause, the
// next pause is 1 s again.
const (
	rewatchBase   = time.Second
	rewatchCap    = 30 * time.Second
	rewatchJitter = 0.2
)

// following is a resolver that a service follows.
type following struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended and changes no more hosts
}

// Follow lets a resolver decide on the hosts until the service is closed. It returns when the
// resolver's first answer is in effect, so that GetConn has hosts to choose from:
//
//	if err := s.Follow(ctx, dns.NewHost("cache.internal:11211", nil)); err != nil {
//		return err
//	}
//
// Each answer replaces all hosts by SetHosts, also hosts that were added in other ways. While the
// resolver fails, the hosts stay as they are. Each failure is logged as a warning.
//
// An error says that there is no answer yet, and why: the resolver's first failure, or the end of
// ctx. The service follows the resolver all the same: it gets hosts as soon as the resolver finds
// them. There are two exceptions: after ErrPoolClosed, and after ErrInvalidArg for a nil resolver,
// nothing is followed.
//
// ctx bounds only this call, not the following. The resolver gets its values. Another Follow ends
// this one. The hosts stay as they are until the first answer of its resolver.
func (s *Service) Follow(ctx context.Context, r Resolver) error {
	if r == nil {
		return fmt.Errorf("%w: Follow of a nil Resolver", ErrInvalidArg)
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &following{cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		cancel()
		return named("service", s.name, ErrPoolClosed)
	}
	former := s.following
	s.following = f
	s.mu.Unlock()

	first := make(chan error, 1)
	s.tasks.start(func() {
		defer close(f.done)
		defer cancel()
		if former != nil {
			former.cancel()
			<-former.done
		}
		s.follow(watch, r, first)
	})
	var err error
	select {
	case err = <-first:
	case <-ctx.Done():
		err = fmt.Errorf("no answer from the resolver: %w", contextError(ctx))
	case <-s.done:
		err = ErrPoolClosed
	}
	if err == errNoAnswer && s.isClosed() {
		err = ErrPoolClosed
	}
	if err != nil {
		return named("service", s.name, err)
	}
	return nil
}

// follow applies the resolver's answers until ctx ends. It sends to first the first answer's error,
// nil if it was a list.
func (s *Service) follow(ctx context.Context, r Resolver, first chan<- error) {
	answer := func(err error) {
		if err != nil {
			s.log.Warn("pooly: resolver failed, hosts stay as they are", "service", s.name, "error", err)
		}
		select {
		case first <- err:
		default: // not the first
		}
	}
	for pause := rewatchBase; ; pause = min(2*pause, rewatchCap) {
		began := time.Now()
		err := s.watch(ctx, r, answer)
		if ctx.Err() != nil {
			break
		}
		answer(err)
		if time.Since(began) > rewatchCap {
			pause = rewatchBase
		}
		if !sleepJittered(ctx, pause) {
			break
		}
	}
	select {
	case first <- errNoAnswer:
	default:
	}
}

// watch calls Watch once, and returns why it ended. Watch has a goroutine of its own, which it may
// end.
func (s *Service) watch(ctx context.Context, r Resolver, answer func(error)) error {
	ended := make(chan error, 1)
	go func() {
		err := errWatchExited
		defer func() {
			if v := recover(); v != nil {
				err = recovered(s.log, "Watch", v)
			}
			ended <- err
		}()
		answered := false
		for addresses, failure := range r.Watch(ctx) {
			if ctx.Err() != nil {
				break
			}
			if failure == nil {
				s.SetHosts(addresses...)
			}
			answer(failure)
			answered = true
		}
		if err = errWatchReturned; !answered {
			err = errNoAnswer
		}
	}()
	return <-ended
}

// sleepJittered sleeps for d, less up to a fifth. It reports false if ctx ends first.
func sleepJittered(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(time.Duration(float64(d) * (1 - rewatchJitter*rand.Float64())))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Service) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}
