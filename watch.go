package pooly

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"weak"
)

// watch is what a leakFinder knows of a connection's lease. It is guarded by Pool.mu.
//
// While a lease is watched, conn.lease points to stand. So Release of the lease takes the long way,
// where endLease finds the watch. The fast way need not look for a watch.
type watch struct {
	stand Conn
	lease *Conn              // the lease; nil if none is watched, or if it is weak
	weak  weak.Pointer[Conn] // the lease, once it was reported; its user may have lost it
	lost  runtime.Cleanup    // the cleanup of weak
	count uint64             // how many leases were watched

	began    time.Duration // when the lease began, or was first seen
	cost     time.Duration // what recording its stack took
	stack    stack
	reported bool // it is out longer than LeakTimeout
	logged   bool // it was logged

	seen   *Conn // a lease that is not watched, at the last sweep
	seenAt time.Duration
}

// watchLocked begins to watch a lease.
func (c *conn) watchLocked(l *Conn) *watch {
	if c.watch == nil {
		c.watch = &watch{stand: Conn{conn: c}}
	}
	w := c.watch
	w.lease, w.seen = l, nil
	w.count++
	w.stack.depth, w.cost, w.reported, w.logged = 0, 0, false, false
	c.lease = &w.stand
	return w
}

// holdsLocked reports whether l is the connection's lease.
func (c *conn) holdsLocked(l *Conn) bool {
	return c.lease == l || c.watch != nil && c.lease == &c.watch.stand && c.watch.isOf(l)
}

func (w *watch) isOf(l *Conn) bool {
	return w.lease == l || w.lease == nil && w.weak.Value() == l
}

// stackDepth is how many frames of a stack are kept.
const stackDepth = 32

// stack is where a lease began.
type stack struct {
	frames [stackDepth]uintptr
	depth  int // 0: the lease left no stack
}

// text describes the stack, without this package's own frames at its top.
func (s *stack) text() string {
	if s.depth == 0 {
		return "none: the lease was not in the sample; all leases from now on leave their stack"
	}
	var b strings.Builder
	frames := runtime.CallersFrames(s.frames[:s.depth])
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		if b.Len() == 0 && more && strings.HasPrefix(f.Function, "github.com/3XX0/pooly.") {
			continue
		}
		fmt.Fprintf(&b, "%s\n\t%s:%d\n", f.Function, f.File, f.Line)
	}
	if s.depth == stackDepth {
		b.WriteString("...\n")
	}
	return b.String()
}

// stackSampler draws the leases that leave their stack, so that stacks take at most a hundredth of
// the time of all leases. It draws one lease in n, where n is 100 times what a stack takes, over
// what a lease takes. Both are averages over the leases that were drawn.
type stackSampler struct {
	every atomic.Uint32 // n; 0: not known

	learning     mutex // guards the fields below; nothing is locked under it
	cost, lasted float64
}

const (
	stackShare  = 100  // leases may take this many times as long as their stacks
	sampleDecay = 0.05 // weight of the newest lease in the averages
)

func (s *stackSampler) draw() bool {
	n := s.every.Load()
	return n <= 1 || rand.Uint32N(n) == 0
}

// learn adds a lease that has left its stack.
func (s *stackSampler) learn(cost, lasted time.Duration) {
	s.learning.Lock()
	defer s.learning.Unlock()
	weight := sampleDecay
	if s.every.Load() == 0 {
		weight = 1
	}
	s.cost += weight * (float64(cost) - s.cost)
	s.lasted += weight * (float64(lasted) - s.lasted)
	n := stackShare * s.cost / max(s.lasted, 1)
	s.every.Store(uint32(min(max(n, 1), 1<<20)))
}
