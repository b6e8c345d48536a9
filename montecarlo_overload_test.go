//go:build montecarlo_simulation

package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
)

// The overload simulations show what becomes of a whole service when its hosts or callers are in trouble for a while:
// during the trouble, and after it. Calls come at random times (Poisson) to hosts that are alike, each works on a few
// requests at once, and the others wait in line there.
//
// A host drops a request that its client gave up while it waited in line, and finishes one that it has begun. So work is
// wasted when requests are begun too late, as with real servers.
//
// The clients run in goroutines, so the figures differ a little from run to run, unlike those of the queueing scenario.
type overloadCase struct {
	name     string // in messages
	hosts    int
	slots    int                 // requests that a host works on at once
	work     time.Duration       // for one request
	load     float64             // share of what the hosts can do for this client, see capacity
	deadline time.Duration       // of a call
	maxConns int                 // 0: the default
	strategy func() pooly.Bandit // nil: the default
	parts    bool                // GetConn and Release instead of Do
	tries    int                 // more than 1: calls are tried again elsewhere, with Do and Retry
	try      time.Duration       // how long one of these may take at its host; 0: as long as the call
	callers  int                 // if not 0, there are so many, each with a pause between its calls, and load is not used
	pause    time.Duration       // on average, before each of their calls
	crowd    int                 // if not 0, so many calls come at the time from, all at once, and no others

	from, to time.Duration // the time of the trouble
	last     time.Duration // calls are counted that come before this; they go on coming until these have ended

	// The trouble.
	slow   float64 // work that begins takes so many times as long; 0: no longer
	frozen bool    // hosts accept connections, and do nothing
	refuse bool    // hosts close their connections, and refuse others
	bad    int     // so many hosts accept connections, and fail each request at once
	wrong  bool    // for each good call another comes that every host answers by closing the connection at once
	peak   float64 // load meanwhile; 0: no different
}

// capacity returns how many requests the hosts can do in a second, for a client that uses MaxConns
// connections at most.
func (c *overloadCase) capacity() float64 {
	return float64(c.hosts*min(c.slots, c.conns())) / c.work.Seconds()
}

func (c *overloadCase) conns() int {
	if c.maxConns == 0 {
		return pooly.DefaultMaxConns
	}
	return c.maxConns
}

// possible returns which share of the calls the hosts can serve during the trouble.
func (c *overloadCase) possible() float64 {
	switch {
	case c.frozen || c.refuse:
		return 0
	case c.slow > 0:
		return min(1, 1/(c.load*c.slow))
	case c.peak > 0:
		return min(1, 1/c.peak)
	case c.crowd > 0:
		return min(1, c.capacity()*c.deadline.Seconds()/float64(c.crowd))
	}
	return 1
}

var (
	errReset   = fmt.Errorf("simulated: %w", syscall.ECONNRESET)
	errRefuses = fmt.Errorf("simulated: %w", syscall.ECONNREFUSED)
)

// How long it takes to connect or to learn that a host refuses, and to fail a request at once.
const overloadRoundTrip = time.Millisecond

// An overloadWorld is the hosts of one run, and their network. It is pooly's driver for them. It
// must be used in a bubble.
type overloadWorld struct {
	overloadCase
	names         []string
	servers       map[string]*overloadServer
	began         time.Time
	dials         atomic.Int64
	dialsMeantime atomic.Int64 // those that began during the trouble
}

// An overloadServer is a simulated host.
type overloadServer struct {
	world *overloadWorld
	slots chan struct{} // who cannot send waits in line: senders are served in their order
	bad   bool
}

// An overloadConn is a connection to a simulated host.
type overloadConn struct {
	server *overloadServer
	opened time.Duration
}

func newOverloadWorld(c overloadCase) *overloadWorld {
	w := &overloadWorld{overloadCase: c, servers: make(map[string]*overloadServer), began: time.Now()}
	for i := range c.hosts {
		name := fmt.Sprint("host", i)
		w.names = append(w.names, name)
		w.servers[name] = &overloadServer{world: w, slots: make(chan struct{}, c.slots), bad: i < c.bad}
	}
	return w
}

func (w *overloadWorld) now() time.Duration { return time.Since(w.began) }

func (w *overloadWorld) inTrouble(at time.Duration) bool { return w.from <= at && at < w.to }

func (w *overloadWorld) dial(address string) (*overloadConn, error) {
	w.dials.Add(1)
	if w.inTrouble(w.now()) {
		w.dialsMeantime.Add(1)
	}
	time.Sleep(overloadRoundTrip)
	if w.refuse && w.inTrouble(w.now()) {
		return nil, errRefuses
	}
	return &overloadConn{w.servers[address], w.now()}, nil
}

// alive returns an error if the host has closed the connection.
func (c *overloadConn) alive() error {
	if w := c.server.world; w.refuse && c.opened < w.from && w.from <= w.now() {
		return errReset
	}
	return nil
}

// Dial implements pooly.Driver.
func (w *overloadWorld) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	c, err := w.dial(address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(c), nil
}

func (*overloadWorld) Close(*pooly.Conn)                {}
func (*overloadWorld) TestOnBorrow(c *pooly.Conn) error { return c.Interface().(*overloadConn).alive() }
func (*overloadWorld) Temporary(error) bool             { return false }

// lasts returns how long work takes that begins now.
func (w *overloadWorld) lasts() time.Duration {
	at := w.now()
	switch {
	case w.frozen && at < w.to && at+w.work > w.from:
		return w.work + w.to - max(at, w.from)
	case w.slow > 0 && w.inTrouble(at):
		return time.Duration(float64(w.work) * w.slow)
	}
	return w.work
}

// request sends one request and waits for the answer until ctx ends.
func (c *overloadConn) request(ctx context.Context, wrong bool) error {
	s, w := c.server, c.server.world
	if err := c.alive(); err != nil {
		return err
	}
	if wrong || s.bad && w.inTrouble(w.now()) {
		time.Sleep(overloadRoundTrip)
		return errReset
	}
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	done := make(chan struct{})
	time.AfterFunc(w.lasts(), func() {
		<-s.slots
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call makes one call of the service's user.
func (w *overloadWorld) call(client overloadClient, wrong bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), w.deadline)
	defer cancel()
	return client.call(ctx, func(c *overloadConn) error {
		if w.try == 0 {
			return c.request(ctx, wrong)
		}
		ctx, cancel := context.WithTimeout(ctx, w.try)
		defer cancel()
		return c.request(ctx, wrong)
	})
}

// overloadStep is the time for which successes are counted together.
const overloadStep = 250 * time.Millisecond

// An overloadOutcome is what one client reached in one case: the sum of its runs.
type overloadOutcome struct {
	overloadCase
	mu           sync.Mutex // guards the fields below during a run
	all, good    []int      // good calls that came, and that succeeded, by the step in which they came
	failed       int        // that came during the trouble
	refused      int        // of these, with an error that says that a host refuses connections
	noHost       int        // of these, with an error that says that no host is available
	calls        int        // of any kind
	dials        int
	dialMeantime int   // during the trouble
	firstServed  sum   // of each run: seconds from the end of the trouble to the next success
	closed       error // what Close said
}

func newOverloadOutcome(c overloadCase) *overloadOutcome {
	steps := int(c.last / overloadStep)
	return &overloadOutcome{overloadCase: c,
		all: make([]int, steps), good: make([]int, steps)}
}

// add counts a call that came at the given time and has ended.
func (o *overloadOutcome) add(came time.Duration, wrong bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls++
	if wrong || came >= o.last {
		return
	}
	o.all[came/overloadStep]++
	if err == nil {
		o.good[came/overloadStep]++
		return
	}
	if o.from <= came && came < o.to {
		o.failed++
		if errors.Is(err, syscall.ECONNREFUSED) {
			o.refused++
		}
		if errors.Is(err, pooly.ErrNoHostAvailable) {
			o.noHost++
		}
	}
}

func (o *overloadOutcome) merge(p *overloadOutcome) {
	for i := range o.all {
		o.all[i] += p.all[i]
		o.good[i] += p.good[i]
	}
	o.failed += p.failed
	o.refused += p.refused
	o.noHost += p.noHost
	o.calls += p.calls
	o.dials += p.dials
	o.dialMeantime += p.dialMeantime
	o.firstServed.merge(p.firstServed)
	o.closed = errors.Join(o.closed, p.closed)
}

// share returns the share of the good calls that succeeded, of those that came in a part of the
// time.
func (o *overloadOutcome) share(from, to time.Duration) float64 {
	all, good := 0, 0
	for i := int(from / overloadStep); i < int(to/overloadStep); i++ {
		all, good = all+o.all[i], good+o.good[i]
	}
	return float64(good) / float64(max(1, all))
}

// settle is what hosts and clients are given after each change before anything is measured: one
// second from the beginning of the trouble on, and two from its end.
const settle = time.Second

func (o *overloadOutcome) during() float64 { return o.share(o.from+settle, o.to) }
func (o *overloadOutcome) after() float64  { return o.share(o.to+2*settle, o.last) }

func (o *overloadOutcome) dialsPerCall() float64 { return float64(o.dials) / float64(o.calls) }

// dialsPerFailure is of the time of the trouble.
func (o *overloadOutcome) dialsPerFailure() float64 {
	return float64(o.dialMeantime) / float64(max(1, o.failed))
}

// play runs a case once, and adds to o. It must be called in a bubble.
func (o *overloadOutcome) play(c overloadContender, seed uint64) {
	w := newOverloadWorld(o.overloadCase)
	client := c.make(w, seed)
	var back atomic.Int64 // when the first call after the trouble was served
	back.Store(int64(w.last))
	call := func(came time.Duration, wrong bool) {
		err := w.call(client, wrong)
		now := w.now()
		o.add(came, wrong, err)
		if err == nil && !wrong && now >= w.to {
			back.CompareAndSwap(int64(w.last), int64(now))
		}
	}
	var calls sync.WaitGroup
	if w.callers > 0 {
		for i := range w.callers {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			calls.Go(func() {
				for {
					time.Sleep(time.Duration(rng.ExpFloat64() * float64(w.pause)))
					came := w.now()
					if came >= w.last+w.deadline {
						return
					}
					call(came, false)
				}
			})
		}
	} else {
		w.arrivals(seed, func(came time.Duration, wrong bool) {
			calls.Go(func() { call(came, wrong) })
		})
	}
	calls.Wait()
	o.closed = errors.Join(o.closed, client.close())
	o.dials += int(w.dials.Load())
	o.dialMeantime += int(w.dialsMeantime.Load())
	o.firstServed.add((time.Duration(back.Load()) - w.to).Seconds())
}

// arrivals calls start for each call, at its time: the same times for each client.
func (w *overloadWorld) arrivals(seed uint64, start func(came time.Duration, wrong bool)) {
	if w.crowd > 0 {
		time.Sleep(w.from)
		for range w.crowd {
			start(w.from, false)
		}
		return
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	at := time.Duration(0)
	for {
		trouble := w.inTrouble(at)
		rate := w.load * w.capacity()
		if trouble && w.peak > 0 {
			rate = w.peak * w.capacity()
		}
		if trouble && w.wrong {
			rate *= 2
		}
		at += time.Duration(rng.ExpFloat64() / rate * float64(time.Second))
		if at >= w.last+w.deadline {
			return
		}
		time.Sleep(at - w.now())
		start(at, w.wrong && w.inTrouble(at) && rng.IntN(2) == 0)
	}
}

// simulateOverload runs each client through each case, n times, and returns their outcomes by case
// and client.
func simulateOverload(t *testing.T, cases []overloadCase, n int) [][]*overloadOutcome {
	t.Helper()
	clients := len(overloadContenders)
	parts := make([]*overloadOutcome, len(cases)*clients*n)
	inParallel(t, len(parts), func(_ *testing.T, _ int, job uint64) {
		i := int(uint32(job)) // inParallel numbers its runs in the lower half of their seeds
		o := newOverloadOutcome(cases[i/n/clients])
		o.play(overloadContenders[i/n%clients], *seed<<32+uint64(i%n))
		parts[i] = o
	})
	all := make([][]*overloadOutcome, len(cases))
	for i, part := range parts {
		if i%n == 0 {
			all[i/n/clients] = append(all[i/n/clients], part)
		} else {
			all[i/n/clients][i/n%clients].merge(part)
		}
	}
	return all
}
