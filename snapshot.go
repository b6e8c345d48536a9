package pooly

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"
)

// snapshot is what GetConn needs to choose a host: the hosts that are up, and the picker that the
// strategy made from them. It is immutable, so calls read it without locks. A change of hosts or
// scores replaces it.
type snapshot struct {
	hosts  []*host // indexed as by the picker
	picker Picker  // nil if there are no hosts
	fast   bool    // the strategy is one of this package's, and there is no PrepareConn
	err    error   // why there is no picker; nil if there is one or no host is up
}

// pick asks the strategy for a host. The snapshot must have one. A strategy of the user's may panic
// or return an index out of range.
func (v *snapshot) pick(s *Service) (h *host, err error) {
	if v.fast {
		return v.hosts[v.picker.Pick(s.rng)], nil
	}
	defer func() {
		if r := recover(); r != nil {
			method := fmt.Sprintf("bandit %T: Pick", s.config.BanditStrategy)
			h, err = nil, recovered(s.log, method, r)
		}
	}()
	i := v.picker.Pick(s.rng)
	if uint(i) >= uint(len(v.hosts)) {
		return nil, fmt.Errorf("bandit %T: Pick returned %d for %d hosts",
			s.config.BanditStrategy, i, len(v.hosts))
	}
	return v.hosts[i], nil
}

// isOwn reports whether a strategy is of a type of this package. The type of the picker does not
// tell: a user's strategy may have given other arms to one of ours.
func isOwn(b Bandit) bool {
	t := reflect.TypeOf(b)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == reflect.TypeFor[snapshot]().PkgPath()
}

// pickerPatience is how long a call waits for a new snapshot. A NewPicker that takes longer, or
// that calls the service itself, does not hold up calls: they use the last snapshot, or wait in the
// queue.
const pickerPatience = 100 * time.Millisecond

// current returns the snapshot to use now. If the service was idle, the scores are computed first.
// It returns nil if there is no snapshot in time.
func (s *Service) current(ctx context.Context) *snapshot {
	due := !s.busy.Load() && s.wake()
	if v := s.snapshot.Load(); v != nil && !due {
		return v
	}
	b := s.rebuild(due)
	if b == nil {
		return nil
	}
	return b.wait(ctx)
}

// build is one computation of a snapshot, shared by all callers that need it. Builds run in the
// background, one at a time.
type build struct {
	service *Service
	record  bool // compute the scores, too
	done    chan struct{}

	generation uint64 // guarded by service.mu; the service's generation when the build began

	result *snapshot // set before done is closed
}

// wait returns the result, or nil if it takes longer than pickerPatience.
func (b *build) wait(ctx context.Context) *snapshot {
	select {
	case <-b.done:
		return b.result
	default:
	}
	t := time.NewTimer(pickerPatience)
	defer t.Stop()
	select {
	case <-b.done:
		return b.result
	case <-ctx.Done():
	case <-t.C:
	case <-b.service.done:
	}
	return nil
}

// rebuild requests a snapshot of the current hosts, with new scores if record is set. It returns
// nil if the service is closed.
func (s *Service) rebuild(record bool) *build {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if b := s.runningBuild; b != nil && b.generation == s.generation.Load() && (b.record || !record) {
		return b
	}
	if s.nextBuild == nil {
		s.nextBuild = &build{service: s, done: make(chan struct{})}
		if s.runningBuild == nil {
			s.tasks.start(s.runBuilds)
		}
	}
	s.nextBuild.record = s.nextBuild.record || record
	return s.nextBuild
}

// runBuilds builds until no build is requested.
func (s *Service) runBuilds() {
	for {
		s.mu.Lock()
		b := s.nextBuild
		s.runningBuild, s.nextBuild = b, nil
		if b == nil {
			s.mu.Unlock()
			return
		}
		began := s.clock.now()
		at := moment{slot: s.slotAt(began), now: began}
		b.generation = s.generation.Load()
		v := &snapshot{hosts: slices.Clone(s.order)}
		if b.record {
			s.refreshed = began
			s.slot.Store(at.slot)
		}
		s.mu.Unlock()
		s.build(b, v, at)
	}
}

// build fills a snapshot and puts it in effect.
func (s *Service) build(b *build, v *snapshot, at moment) {
	v.err = errBuildExited
	defer func() {
		s.mu.Lock()
		if s.generation.Load() == b.generation && !s.closed {
			s.snapshot.Store(v)
		}
		if b.record {
			s.took[0], s.took[1] = s.took[1], s.clock.now()-at.now
		}
		b.result = v
		close(b.done)
		s.mu.Unlock()
		if v.err == errBuildExited { // this goroutine ends
			s.tasks.start(s.runBuilds)
		}
	}()
	s.fill(v, b.record, at)
}

var errBuildExited = errors.New(
	"the strategy or the ScoreCalculator ended the goroutine that called it")

// fill makes the arms and the picker of a snapshot whose hosts are all hosts in use.
func (s *Service) fill(v *snapshot, record bool, at moment) {
	all := v.hosts
	if record {
		s.record(all, at)
	}
	v.hosts = all[:0]
	arms := make([]Arm, 0, len(all))
	for _, h := range all {
		h.mu.Lock()
		out := h.status == ejected
		arm := Arm{Address: h.address, Trials: h.trials, mean: h.mean, recent: h.recent.Segment,
			learnt: h.learnt.Segment, host: h, cluster: &s.cluster}
		h.mu.Unlock()
		if out {
			continue
		}
		arm.Score = h.score.Load()
		v.hosts = append(v.hosts, h)
		arms = append(arms, arm)
	}
	clear(all[len(v.hosts):])
	if len(arms) == 0 {
		v.err = nil
		return
	}
	v.picker, v.err = s.newPicker(arms)
	v.fast = v.err == nil && isOwn(s.config.BanditStrategy) &&
		s.config.Hooks.PrepareConn == nil
}

func (s *Service) newPicker(arms []Arm) (p Picker, err error) {
	method := fmt.Sprintf("bandit %T: NewPicker", s.config.BanditStrategy)
	returned := false
	defer func() {
		if returned {
			return
		}
		if r := recover(); r != nil {
			p, err = nil, recovered(s.log, method, r)
		}
	}()
	p = s.config.BanditStrategy.NewPicker(arms)
	returned = true
	if p == nil {
		return nil, fmt.Errorf("%s returned nil", method)
	}
	return p, nil
}

// staleLocked has the next call request a new snapshot. The caller must hold the service's lock.
func (s *Service) staleLocked() {
	s.generation.Add(1)
	s.snapshot.Store(nil)
}

// sharedSource is the runtime's random source, which needs no lock.
type sharedSource struct{}

func (sharedSource) Uint64() uint64 { return rand.Uint64() }
