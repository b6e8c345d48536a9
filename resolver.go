package pooly

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

// Resolver finds the hosts of a service, for [Service.Follow]. Package dns in this module has one for DNS, and the
// module github.com/3XX0/pooly/etcd one for etcd.
type Resolver interface {
	// Watch yields the addresses of all hosts, as given to Add: those of now at first, and all of them anew whenever
	// they change. A list that is empty says that there are no hosts, so it must not stand for a lookup that failed.
	//
	// When it cannot tell, it yields an error instead, pauses as it sees fit, and tries again: the hosts stay as they
	// are. It goes on until yield returns false or ctx ends, and then it returns soon. It keeps no slice that it has
	// yielded.
	Watch(ctx context.Context) iter.Seq2[[]string, error]
}

// ResolverFunc is a function that does what Resolver's Watch says.
type ResolverFunc func(ctx context.Context) iter.Seq2[[]string, error]

// Watch implements Resolver.
func (f ResolverFunc) Watch(ctx context.Context) iter.Seq2[[]string, error] {
	return f(ctx)
}

var errNoAnswer = errors.New("the resolver ended without an answer")

// following is a resolver at work for a service.
type following struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended, and changes no host any more
}

// Follow lets a resolver decide on the hosts, from now on until the service is closed. It returns when the
// resolver's first answer is in effect, so that GetConn has hosts to choose from:
//
//	if err := s.Follow(ctx, dns.NewHost("cache.internal:11211", nil)); err != nil {
//		return err
//	}
//
// Each answer replaces the hosts by SetHosts, those included that were added otherwise. While the resolver fails,
// the hosts stay as they are; each failure is logged as a warning.
//
// An error says that there is no answer yet, and why: the resolver's first failure, or the end of ctx. Both are mere
// news, and Follow goes on: a caller may give up and close the service, or carry on and have the hosts as soon as
// the resolver finds them. Only after ErrPoolClosed, and ErrInvalidArg for a nil resolver, nothing is followed.
//
// Like that of a dial, ctx bounds this call and not what it begins, and passes its values on. Another Follow ends
// the one before; the hosts stay until its own first answer.
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
		limit := newLimit(ctx, 0)
		err = fmt.Errorf("no answer from the resolver: %w", limit.err())
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

// follow takes the resolver's answers until ctx ends, and sends what the first of them was, nil or an error.
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
	defer func() {
		if v := recover(); v != nil {
			answer(recovered(s.log, "Watch", v))
		}
	}()
	for addresses, err := range r.Watch(ctx) {
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			s.SetHosts(addresses...)
		}
		answer(err)
	}
	select {
	case first <- errNoAnswer:
	default:
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
