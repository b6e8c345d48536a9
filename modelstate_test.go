package pooly_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/3XX0/pooly"
)

// model is what must be true of a service, by what was done to it. Everything in it is guarded by mu while a step is
// under way, and belongs to play between two steps.
type model struct {
	plan    plan
	service *pooly.Service

	mu      sync.Mutex
	fault   string // the first promise that was broken
	step    int
	batch   []op      // what happens in this step
	since   time.Time // when it began
	queued  int       // callers in the queue when it began
	inQueue bool      // all calls that waited when it began stood in the queue
	up      int       // hosts that were not ejected when it began
	dialed  int       // dials that ended in it, or were cut short
	unfit   int       // connections that callers tested in it and found dead

	hosts  map[string]*modelHost
	places []*registration
	conns  []*modelConn
	calls  []*modelCall
	leases []*modelLease // held
	ended  []*modelLease
	puts   uint64
	gets   uint64
	lost   uint64 // calls that failed

	lastLoss time.Time // when a dial failed, or a host was removed

	closed     bool
	closeStep  int
	closeBegan time.Time
	closeDone  bool
	closedAt   time.Time
	closeErr   error

	reached coverage
}

// modelHost is a server.
type modelHost struct {
	mode       mode
	modeSince  time.Time
	closeDelay time.Duration
	current    *registration // nil: it is not registered
}

// mode is how a server takes dials.
type mode struct {
	name  string
	delay time.Duration
	fails bool
	hangs bool // until settled, or the context ends
	deaf  bool // to its context
}

// registration is a host from Add to Remove.
type registration struct {
	address string
	leaving bool // Remove was called
	removed int  // the step; -1: it is registered
	dials   []*modelDial
	conns   []*modelConn

	connected  bool      // some dial has
	troubled   bool      // some dial, or some lease, has failed
	failed     bool      // some dial has
	fatals     int       // leases that ended with a fatal error
	failedAt   time.Time // the last dial that failed
	endedStep  int       // in which dials ended last,
	endedOK    bool      // of which one connected
	endedBad   bool      // and one failed
	roomBefore bool      // when the step began
}

// left reports whether it has been removed.
func (r *registration) left() bool { return r.removed >= 0 }

type modelDial struct {
	of      *registration
	mode    mode
	began   time.Time
	settle  chan bool
	givenUp bool // by the pool, after DialTimeout and a second
}

type modelConn struct {
	id        int
	of        *registration
	born      time.Time
	leased    bool
	dead      bool
	died      int  // the step
	condemned bool // its last lease ended so that it must be closed
	late      bool // its dial had been given up
	cut       bool // closed under its lease
	idleStep  int  // when its last lease ended or it was dialled
	idleSince time.Time
	closes    int
	closing   time.Time
	closed    bool
}

type modelCall struct {
	id        int
	step      int
	began     time.Time
	patience  time.Duration
	cancel    context.CancelFunc
	cancelled bool

	earliest, latest int // the steps between which it took its place in the queue; 0: it is not sure to stand there

	done     bool
	doneStep int
	doneAt   time.Time
	lease    *modelLease
	err      error
	checked  bool
}

type modelLease struct {
	call    int
	handle  *pooly.Conn
	conn    *modelConn
	step    int // in which it ended
	endedAt time.Time
	calls   int // of Release
	wants   error
	results []error
}

func (m *model) failf(format string, args ...any) {
	if m.fault == "" {
		m.fault = fmt.Sprintf("step %d: ", m.step) + fmt.Sprintf(format, args...)
	}
}

// begin begins a step, at a time when nothing moves.
func (m *model) begin(batch []op) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batch, m.since, m.dialed, m.unfit = batch, time.Now(), 0, 0
	for _, r := range m.registered() {
		r.roomBefore = m.occupied(r) < m.plan.MaxConns
	}
}

func (m *model) host(address string) *modelHost {
	if m.hosts[address] == nil {
		m.hosts[address] = &modelHost{mode: modes[0]}
	}
	return m.hosts[address]
}

func (m *model) registered() (list []*registration) {
	for _, r := range m.places {
		if r.removed < 0 {
			list = append(list, r)
		}
	}
	return list
}

func (m *model) pending() (list []*modelCall) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pendingLocked()
}

func (m *model) pendingLocked() (list []*modelCall) {
	for _, c := range m.calls {
		if !c.done {
			list = append(list, c)
		}
	}
	return list
}

// held returns the leases.
func (m *model) held() []*modelLease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.leases)
}

// hanging returns the dials that only an op ends.
func (m *model) hanging() (list []*modelDial) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.places {
		for _, d := range r.dials {
			if d.mode.hangs && len(d.settle) == 0 {
				list = append(list, d)
			}
		}
	}
	return list
}

// alive returns the connections whose peer may die.
func (m *model) alive() (list []*modelConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		if !c.dead && c.closes == 0 {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b *modelConn) int { return cmp.Compare(a.id, b.id) })
	return list
}

// occupied returns how many of a host's places are taken: by dials, and by connections until they are closed or the
// driver has taken too long over it.
func (m *model) occupied(r *registration) int {
	n := m.dialing(r)
	for _, c := range r.conns {
		if c.holdsPlace() {
			n++
		}
	}
	return n
}

func (c *modelConn) holdsPlace() bool {
	return !c.late && (c.closes == 0 || !c.closed && time.Since(c.closing) < time.Second)
}

// idle reports whether a connection waits to be leased.
func (c *modelConn) idle() bool { return !c.leased && c.closes == 0 && !c.late }

// dialing returns how many dials are in flight.
func (m *model) dialing(r *registration) (n int) {
	for _, d := range r.dials {
		if !m.tooLong(d) {
			n++
		}
	}
	return n
}

// tooLong reports whether a dial takes so long that its place is given away.
func (m *model) tooLong(d *modelDial) bool {
	return time.Since(d.began) >= m.plan.DialTimeout+time.Second
}

// giveUp takes note of the dials that take too long.
func (m *model) giveUp() {
	for _, r := range m.places {
		for _, d := range r.dials {
			if !d.givenUp && m.tooLong(d) {
				d.givenUp = true
				m.dialEnded(r, errDead)
			}
		}
	}
}

// dialEnded takes note of the end of a dial.
func (m *model) dialEnded(r *registration, err error) {
	m.dialed++
	if r.endedStep != m.step {
		r.endedStep, r.endedOK, r.endedBad = m.step, false, false
	}
	if err != nil {
		r.endedBad, r.troubled, r.failed = true, true, true
		r.failedAt, m.lastLoss = time.Now(), time.Now()
		return
	}
	r.endedOK, r.connected = true, true
}

func (m *model) add(address string) {
	m.mu.Lock()
	h := m.host(address)
	if h.current == nil && (!m.closed || m.closeStep == m.step) {
		h.current = &registration{address: address, removed: -1}
		m.places = append(m.places, h.current)
	}
	m.mu.Unlock()
	m.service.Add(address)
}

func (m *model) remove(address string) {
	m.mu.Lock()
	h := m.host(address)
	r := h.current
	if r != nil {
		r.leaving = true
	}
	m.mu.Unlock()
	m.service.Remove(address)
	if r != nil {
		m.mu.Lock()
		r.removed, h.current, m.lastLoss = m.step, nil, time.Now()
		m.mu.Unlock()
	}
}

func (m *model) mode(address string, to mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.host(address)
	h.mode, h.modeSince = to, time.Now()
}

func (m *model) slowClose(address string, delay time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.host(address).closeDelay = delay
}

func (m *model) kill(c *modelConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.dead, c.died = true, m.step
}

func (m *model) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed, m.closeStep, m.closeBegan = true, m.step, time.Now()
	go func() {
		err := m.service.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closeDone, m.closedAt, m.closeErr = true, time.Now(), err
	}()
}

// returned takes note of the end of a call.
func (m *model) returned(c *modelCall, l *pooly.Conn, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c.done, c.doneStep, c.doneAt, c.err = true, m.step, time.Now(), err
	if err != nil {
		m.lost++
		return
	}
	m.gets++
	mc := l.Interface().(*modelConn)
	switch {
	case mc.leased:
		m.failf("connection %d of %s is leased twice", mc.id, mc.of.address)
	case mc.closes > 0 && !m.mayCut():
		m.failf("connection %d of %s is leased although it is closed", mc.id, mc.of.address)
	case mc.dead && mc.died < m.step:
		m.failf("connection %d of %s is leased although its peer is gone", mc.id, mc.of.address)
	case mc.condemned:
		m.failf("connection %d of %s is leased after a fatal error", mc.id, mc.of.address)
	case mc.of.left() && mc.of.removed < m.step:
		m.failf("%s is leased after its removal", mc.of.address)
	case m.closed && m.closeStep < m.step:
		m.failf("%s is leased after Close", mc.of.address)
	case l.Address() != mc.of.address:
		m.failf("a lease of %s says %s", mc.of.address, l.Address())
	}
	mc.leased = true
	c.lease = &modelLease{call: c.id, handle: l, conn: mc}
	m.leases = append(m.leases, c.lease)
}

// release ends a lease, once or by two calls at the same time.
func (m *model) release(l *modelLease, o outcome, twice bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases = slices.DeleteFunc(m.leases, func(other *modelLease) bool { return other == l })
	m.ended = append(m.ended, l)
	c := l.conn
	c.leased, c.idleStep, c.idleSince = false, m.step, time.Now()
	l.step, l.endedAt, l.wants, l.calls = m.step, time.Now(), o.wants, 1
	if c.cut {
		l.wants = pooly.ErrPoolClosed
	} else {
		m.puts++
		c.condemned = o.closes
		if o.closes {
			c.of.fatals++
			c.of.troubled = true
		}
	}
	if twice {
		l.calls = 2
	}
	for range l.calls {
		go func() {
			err := o.release(l.handle)
			m.mu.Lock()
			defer m.mu.Unlock()
			l.results = append(l.results, err)
		}()
	}
}

// releaseAgain releases a lease that has ended.
func (m *model) releaseAgain(l *modelLease) {
	m.mu.Lock()
	ended := l.step < m.step
	m.mu.Unlock()
	if !ended {
		return
	}
	go func() {
		err := l.handle.Release(errFatal, pooly.HostDown)
		m.mu.Lock()
		defer m.mu.Unlock()
		if !errors.Is(err, pooly.ErrConnReleased) {
			m.failf("a second Release returned %v", err)
		}
	}()
}

// mayCut reports whether Close may close leased connections by now.
func (m *model) mayCut() bool {
	return m.closed && time.Since(m.closeBegan) >= modelCloseDeadline
}

// modelDriver is the network of a model.
type modelDriver model

func (d *modelDriver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	m := (*model)(d)
	m.mu.Lock()
	h := m.host(address)
	r := h.current
	switch {
	case ctx.Err() != nil: // begun before Remove or Close
		m.mu.Unlock()
		return nil, ctx.Err()
	case r == nil:
		m.failf("%s is dialled, but not registered", address)
		m.mu.Unlock()
		return nil, syscall.ECONNREFUSED
	case m.closed && m.closeStep < m.step:
		m.failf("%s is dialled after Close", address)
	}
	dial := &modelDial{of: r, mode: h.mode, began: time.Now(), settle: make(chan bool, 1)}
	r.dials = append(r.dials, dial)
	if n := m.occupied(r); n > m.plan.MaxConns {
		m.failf("%d connections and dials at %s", n, address)
	}
	m.mu.Unlock()

	err := dial.run(ctx)

	m.mu.Lock()
	defer m.mu.Unlock()
	r.dials = slices.DeleteFunc(r.dials, func(other *modelDial) bool { return other == dial })
	late := m.tooLong(dial)
	if !dial.givenUp {
		if late && err == nil {
			err = errDead
		}
		m.dialEnded(r, err)
	}
	if err != nil && !late {
		return nil, err
	}
	c := &modelConn{id: len(m.conns), of: r, born: time.Now(), idleStep: m.step, idleSince: time.Now(), late: late}
	r.conns = append(r.conns, c)
	m.conns = append(m.conns, c)
	return pooly.NewConn(c), nil
}

// run waits until the dial is over.
func (d *modelDial) run(ctx context.Context) error {
	done := ctx.Done()
	if d.mode.deaf {
		done = nil
	}
	var after <-chan time.Time
	switch {
	case d.mode.delay > 0:
		after = time.After(d.mode.delay)
	case !d.mode.hangs:
		closed := make(chan time.Time)
		close(closed)
		after = closed
	}
	select {
	case <-done:
		return ctx.Err()
	case ok := <-d.settle:
		if ok {
			return nil
		}
		return syscall.ECONNRESET
	case <-after:
		if d.mode.fails {
			return syscall.ECONNREFUSED
		}
		return nil
	}
}

func (d *modelDriver) Close(handle *pooly.Conn) {
	m := (*model)(d)
	c := handle.Interface().(*modelConn)
	m.mu.Lock()
	c.closes++
	c.closing = time.Now()
	switch {
	case c.closes > 1:
		m.failf("connection %d of %s is closed twice", c.id, c.of.address)
	case c.leased && !m.mayCut():
		m.failf("connection %d of %s is closed under its lease", c.id, c.of.address)
	case c.leased:
		c.cut = true
	case !c.dead && !c.condemned && !c.late && !c.of.leaving && !m.closed && !m.expired(c):
		m.failf("connection %d of %s is closed although nothing is wrong with it", c.id, c.of.address)
	}
	delay := m.host(c.of.address).closeDelay
	m.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.closed = true
}

// expired reports whether an idle connection is so old that it may be closed.
func (m *model) expired(c *modelConn) bool {
	p := m.plan
	return p.IdleTimeout > 0 && time.Since(c.idleSince) >= p.IdleTimeout ||
		p.Lifetime > 0 && time.Since(c.born) >= p.Lifetime*9/10
}

func (d *modelDriver) TestOnBorrow(handle *pooly.Conn) error {
	m := (*model)(d)
	c := handle.Interface().(*modelConn)
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.closes > 0 && !m.closed && !c.of.leaving {
		m.failf("connection %d of %s is tested after it was closed", c.id, c.of.address)
	}
	if c.dead {
		m.unfit++
		return errDead
	}
	return nil
}

func (d *modelDriver) Temporary(err error) bool { return errors.Is(err, errTemporary) }
