package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/3XX0/pooly"
)

// model is what must be true of a service, by what was done to it. Everything in it is guarded by
// mu while a step is under way, and belongs to play between two steps.
type model struct {
	plan    plan
	service *pooly.Service
	born    time.Time

	mu     sync.Mutex
	fault  string // the first promise that was broken
	step   int
	batch  []op         // what happens in this step
	since  time.Time    // when it began
	inside pooly.Inside // what the service looked like after the last step
	waited int          // callers that waited after the last step

	hosts   map[string]*modelHost
	want    map[string]bool // the addresses that are registered and not drained
	drained map[string]bool // the addresses that are drained, and whether they are registered
	most    int             // MaxConns
	former  int             // the most that it was in this step
	shrunk  int             // the step in which it last became less
	conns   []*modelConn
	calls   []*modelCall
	leases  []*modelLease // held by callers of GetConn
	ended   []*modelLease
	sockets []*modelSocket // open, of callers of DialContext

	granted []grant // connections that callers of GetConn and Do got in this step

	puts    uint64
	gets    uint64
	lost    uint64 // calls that failed
	retries uint64 // of Do

	raced     bool      // DialContext was called
	dials     int       // dials that ended or were given up
	started   int       // dials that began in this step
	upset     bool      // in this step a dial failed or was given up, or a connection was found dead
	failed    bool      // a lease has failed, so a limit may be below MaxConns
	unfitAt   time.Time // when a caller last found a connection dead
	busyAt    time.Time // when a connection, or a dial that takes long, was last seen
	changedAt time.Time // when hosts were last added or removed

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
	address    string
	mode       mode
	modeSince  time.Time
	closeDelay time.Duration
	evicted    int  // the step in which Evict was last called
	churned    bool // it was removed once, so that a former pool may have connections
	removed    int  // the step in which it was last removed
	addedStep  int
	dials      []*modelDial
	conns      []*modelConn

	troubled  time.Time // when a dial or a lease last failed; zero: never
	failedAt  time.Time // when a dial last failed
	good      bool      // it answers at once and has room
	goodSince time.Time
	gaveBack  time.Time // when a lease last ended
	endedStep int       // in which dials ended last,
	endedOK   bool
	endedBad  bool
}

// mode is how a server takes dials.
type mode struct {
	name  string
	delay time.Duration
	err   error
	hangs bool // until settled, or the context ends
	deaf  bool // to its context
}

func (m mode) instant() bool { return m.delay == 0 && m.err == nil && !m.hangs }

var (
	errRefused = syscall.ECONNREFUSED
	errNoFiles = fmt.Errorf("socket: %w", syscall.EMFILE)
)

type modelDial struct {
	of      *modelHost
	mode    mode
	began   time.Time
	settle  chan bool
	givenUp bool      // by the pool, after DialTimeout and a second
	hurried time.Time // when its host was removed, or the service closed
	evicted bool
	surplus bool
}

// modelConn is a connection, as both the driver and its user see it.
type modelConn struct {
	id        int
	of        *modelHost
	born      time.Time
	leased    bool
	outside   bool // DialContext's
	dead      bool
	died      int  // the step
	condemned bool // its last lease ended so that it must be closed
	late      bool // its dial had been given up
	evicted   bool // Evict was called since its dial began
	surplus   bool // Resize made MaxConns less since its dial began
	cut       bool // closed under its lease
	idleStep  int  // when its last lease ended or it was dialled
	idleSince time.Time
	closes    int
	closing   time.Time
	closed    bool
	closedAt  time.Time
	model     *model
	net.Conn  // nil: only the methods below are called
}

type modelCall struct {
	id        int
	kind      opKind
	step      int
	began     time.Time
	patience  time.Duration
	cancel    context.CancelFunc
	cancelled bool

	script doScript
	runs   int
	inside bool         // its function runs
	used   []*modelHost // that it has run with
	last   error        // of its function
	waits  time.Time    // when it began to wait, for the first time or again

	done     bool
	doneStep int
	doneAt   time.Time
	conn     *modelConn // the last that it got
	err      error
	checked  bool
}

func (c *modelCall) end(step int, err error) {
	c.done, c.doneStep, c.doneAt, c.err = true, step, time.Now(), err
}

// busy reports whether a call of Do runs its function, or may wait for the driver to close the
// connection that it had.
func (c *modelCall) busy() bool {
	return c.inside || c.closes() && c.conn.holdsPlace()
}

// closes reports whether the connection that a call had was closed as its function returned.
func (c *modelCall) closes() bool {
	return c.conn != nil && c.conn.closes > 0 && c.conn.closing.Equal(c.waits)
}

// waited returns for how long a call has waited at the given time.
func (c *modelCall) waited(at time.Time) time.Duration {
	since := c.waits
	if c.closes() {
		end := c.conn.closing.Add(time.Second)
		if c.conn.closed && c.conn.closedAt.Before(end) {
			end = c.conn.closedAt
		}
		if end.After(since) {
			since = end
		}
	}
	return at.Sub(since)
}

type grant struct {
	conn     *modelConn
	idleStep int // before
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

// modelSocket is what DialContext returned.
type modelSocket struct {
	conn  net.Conn
	under *modelConn
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
	m.batch, m.since, m.started, m.upset, m.former = batch, time.Now(), 0, false, m.most
}

func (m *model) host(address string) *modelHost {
	if m.hosts[address] == nil {
		m.hosts[address] = &modelHost{address: address, mode: modes[0], modeSince: time.Now()}
	}
	return m.hosts[address]
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

// over returns the leases that have ended.
func (m *model) over() []*modelLease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.ended)
}

// open returns the connections that callers of DialContext have.
func (m *model) open() []*modelSocket {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.sockets)
}

// hanging returns the dials that only an op ends.
func (m *model) hanging() (list []*modelDial) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range modelHosts {
		for _, d := range m.host(hostName(i)).dials {
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
	return list
}

// touch takes note of a change at a host: whether it answers at once and has room. A dial that
// takes long, or that is not over by its own fault, makes that uncertain.
func (m *model) touch(h *modelHost) {
	now := time.Now()
	occupied := 0
	for _, c := range h.conns {
		if c.holdsPlace() {
			occupied++
			m.busyAt = now
		} else if end := c.closing.Add(time.Second); !c.closed && !c.late && end.After(m.busyAt) {
			m.busyAt = end // its place came free, although it is not closed
		}
	}
	good := m.want[h.address] && h.mode.instant()
	for _, d := range h.dials {
		occupied++
		if !d.mode.instant() {
			good = false
		}
		if d.mode.hangs {
			m.busyAt = now
		}
	}
	good = good && occupied < m.most
	if good && !h.good {
		h.goodSince = now
	}
	h.good = good
}

// goodFor returns for how long a host has answered at once, had room and not failed. Where a limit
// may be below MaxConns, there may have been no room for a lease until the last one ended.
func (m *model) goodFor(h *modelHost) time.Duration {
	if !h.good {
		return 0
	}
	good := min(time.Since(h.goodSince), time.Since(h.troubled))
	if m.failed {
		good = min(good, time.Since(h.gaveBack))
	}
	return good
}

func (c *modelConn) holdsPlace() bool {
	return !c.late && (c.closes == 0 || !c.closed && time.Since(c.closing) < time.Second)
}

// idle reports whether a connection waits to be leased.
func (c *modelConn) idle() bool { return !c.leased && c.closes == 0 && !c.late }

// dialing returns how many dials are in flight.
func (m *model) dialing(h *modelHost) (n int) {
	for _, d := range h.dials {
		if !m.tooLong(d) {
			n++
		}
	}
	return n
}

// tooLong reports whether a dial takes so long that its place is given away.
func (m *model) tooLong(d *modelDial) bool {
	if !d.hurried.IsZero() {
		return time.Since(d.hurried) >= time.Second
	}
	return time.Since(d.began) >= m.plan.DialTimeout+time.Second
}

// hurryLocked takes note that a host's dials have a second to return, since the host is gone.
func (m *model) hurryLocked(h *modelHost) {
	for _, d := range h.dials {
		if d.hurried.IsZero() && !m.tooLong(d) {
			d.hurried = time.Now()
		}
	}
}

// giveUp takes note of the dials that take too long.
func (m *model) giveUp() {
	for _, h := range m.hosts {
		for _, d := range h.dials {
			if !d.givenUp && m.tooLong(d) {
				d.givenUp = true
				m.dialEnded(h, errDead)
			}
		}
	}
}

// dialEnded takes note of the end of a dial.
func (m *model) dialEnded(h *modelHost, err error) {
	m.dials++
	if h.endedStep != m.step {
		h.endedStep, h.endedOK, h.endedBad = m.step, false, false
	}
	if err == nil {
		h.endedOK = true
		return
	}
	m.upset = true
	h.troubled, h.failedAt = time.Now(), time.Now()
	h.endedBad = h.endedBad || !errors.Is(err, errNoFiles) && !errors.Is(err, context.Canceled)
}

func (m *model) add(address string) {
	m.mu.Lock()
	m.registerLocked(address, true)
	m.mu.Unlock()
	m.service.Add(address)
}

// registerLocked registers an address or not. Drained hosts are not in use in either case.
func (m *model) registerLocked(address string, registered bool) {
	_, drained := m.drained[address]
	switch {
	case m.closed && m.closeStep < m.step:
	case drained:
		m.drained[address] = registered
	case registered:
		m.joinLocked(address)
	default:
		m.leaveLocked(address)
	}
}

func (m *model) drain(address string) {
	m.mu.Lock()
	known := m.want[address] || m.drained[address]
	if m.want[address] {
		m.leaveLocked(address)
		m.drained[address] = true
	}
	m.mu.Unlock()
	m.operated("Drain", m.service.Drain(address), known)
}

func (m *model) resume(address string) {
	m.mu.Lock()
	registered, drained := m.drained[address]
	known := m.want[address] || drained
	delete(m.drained, address)
	if registered {
		m.joinLocked(address)
	}
	m.mu.Unlock()
	m.operated("Resume", m.service.Resume(address), known)
}

func (m *model) evict(address string) {
	m.mu.Lock()
	h := m.host(address)
	known := m.want[address] || m.drained[address]
	if m.want[address] {
		h.evicted = m.step
		for _, c := range h.conns {
			c.evicted = true
		}
		for _, d := range h.dials {
			d.evicted = true
		}
	}
	m.mu.Unlock()
	m.operated("Evict", m.service.Evict(address), known)
}

func (m *model) resize(most int) {
	m.mu.Lock()
	m.former = max(m.former, m.most)
	if most < m.most {
		m.shrunk = m.step
		for _, h := range m.hosts {
			for _, c := range h.conns {
				c.surplus = true
			}
			for _, d := range h.dials {
				d.surplus = true
			}
		}
	}
	m.most = most
	for _, h := range m.hosts {
		m.touch(h)
	}
	m.mu.Unlock()
	m.operated("Resize", m.service.Resize(most), true)
}

// operated checks what an operation returned.
func (m *model) operated(name string, err error, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
	case known && err != nil:
		m.failf("%s fails: %v", name, err)
	case !known && !errors.Is(err, pooly.ErrInvalidArg):
		m.failf("%s of an unknown address returned %v", name, err)
	}
}

func (m *model) joinLocked(address string) {
	h := m.host(address)
	if !m.want[address] && (!m.closed || m.closeStep == m.step) {
		m.want[address], h.addedStep, m.changedAt = true, m.step, time.Now()
		h.good = false
		m.touch(h)
	}
}

func (m *model) leaveLocked(address string) {
	h := m.host(address)
	if m.want[address] {
		delete(m.want, address)
		h.churned, h.removed, m.changedAt = true, m.step, time.Now()
		m.hurryLocked(h)
		m.touch(h)
	}
}

func (m *model) remove(address string) {
	m.mu.Lock()
	delete(m.drained, address)
	m.leaveLocked(address)
	m.mu.Unlock()
	m.service.Remove(address)
}

func (m *model) set(addresses []string) {
	m.mu.Lock()
	for i := range modelHosts {
		m.registerLocked(hostName(i), slices.Contains(addresses, hostName(i)))
	}
	m.mu.Unlock()
	m.service.SetHosts(addresses...)
}

func (m *model) mode(address string, to mode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.host(address)
	h.mode, h.modeSince = to, time.Now()
	m.touch(h)
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

func (m *model) cancel(c *modelCall) {
	m.mu.Lock()
	c.cancelled = true
	m.mu.Unlock()
	c.cancel()
}

func (m *model) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	m.closed, m.closeStep, m.closeBegan = true, m.step, time.Now()
	for _, h := range m.hosts {
		m.hurryLocked(h)
	}
	go func() {
		err := m.service.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.closeDone, m.closedAt, m.closeErr = true, time.Now(), err
	}()
}

// leased takes note of a connection that a call gets. It requires m.mu.
func (m *model) leased(c *modelCall, value any, address string) *modelConn {
	m.gets++
	mc := value.(*modelConn)
	switch {
	case mc.leased:
		m.failf("connection %d of %s is leased twice", mc.id, mc.of.address)
	case mc.closes > 0 && !m.mayCut():
		m.failf("connection %d of %s is leased although it is closed", mc.id, mc.of.address)
	case mc.dead && mc.died < m.step && c.kind != opDial:
		m.failf("connection %d of %s is leased although its peer is gone", mc.id, mc.of.address)
	case mc.condemned:
		m.failf("connection %d of %s is leased after a fatal error", mc.id, mc.of.address)
	case c.kind != opDial && m.plan.IdleTimeout > 0 && time.Since(mc.idleSince) >= m.plan.IdleTimeout,
		c.kind != opDial && m.plan.Lifetime > 0 && time.Since(mc.born) >= m.plan.Lifetime && mc.idleSince.Before(time.Now()):
		m.failf("connection %d of %s is leased although it has expired", mc.id, mc.of.address)
	case mc.outside:
		m.failf("connection %d of %s is leased after DialContext had it", mc.id, mc.of.address)
	case c.kind == opDial && mc.idleStep < m.step && mc.born.Before(c.began):
		m.failf("DialContext returned connection %d, which is older than the call", mc.id)
	case !m.want[mc.of.address] && mc.of.removed < m.step:
		m.failf("%s is leased after its removal", mc.of.address)
	case m.closed && m.closeStep < m.step:
		m.failf("%s is leased after Close", mc.of.address)
	case address != mc.of.address:
		m.failf("a lease of %s says %s", mc.of.address, address)
	}
	if c.kind != opDial {
		m.granted = append(m.granted, grant{mc, mc.idleStep})
	}
	mc.leased, mc.outside = true, c.kind == opDial
	c.conn = mc
	return mc
}

// unlease takes note that a lease ends. fatal says that its connection must be closed, and failed
// that something is said against the host. It requires m.mu.
func (m *model) unlease(c *modelConn, fatal, failed bool) {
	c.leased, c.idleStep, c.idleSince = false, m.step, time.Now()
	if c.cut {
		return
	}
	m.puts++
	c.of.gaveBack = time.Now()
	c.condemned = c.condemned || fatal || c.outside
	if fatal || failed {
		c.of.troubled = time.Now()
		m.failed = true
	}
}

// release ends a lease, once or by two calls at the same time.
func (m *model) release(l *modelLease, o outcome, twice bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leases = slices.DeleteFunc(m.leases, func(other *modelLease) bool { return other == l })
	m.ended = append(m.ended, l)
	l.step, l.endedAt, l.wants, l.calls = m.step, time.Now(), o.wants, 1
	if l.conn.cut {
		l.wants = pooly.ErrPoolClosed
	}
	m.unlease(l.conn, o.closes, false)
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

// talk has the client of DialContext ask and wait for the answer.
func (m *model) talk(s *modelSocket) {
	go func() {
		if _, err := s.conn.Write([]byte("ping")); err == nil {
			_, _ = s.conn.Read(make([]byte, 1))
		}
	}()
}

// hangUp closes a connection of DialContext.
func (m *model) hangUp(s *modelSocket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sockets = slices.DeleteFunc(m.sockets, func(other *modelSocket) bool { return other == s })
	m.unlease(s.under, false, false)
	go func() { _ = s.conn.Close() }()
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
	switch {
	case ctx.Err() != nil: // begun before Remove or Close
		m.dials++
		m.mu.Unlock()
		return nil, ctx.Err()
	case !m.want[address] && h.removed < m.step:
		m.failf("%s is dialled, but not registered", address)
	case m.closed && m.closeStep < m.step:
		m.failf("%s is dialled after Close", address)
	}
	dial := &modelDial{of: h, mode: h.mode, began: time.Now(), settle: make(chan bool, 1)}
	h.dials = append(h.dials, dial)
	m.started++
	occupied := m.dialing(h)
	for _, c := range h.conns {
		if c.holdsPlace() {
			occupied++
		}
	}
	if occupied > max(m.most, m.former) && !h.churned && m.plan.MaxHosts == 0 {
		m.failf("%d connections and dials at %s", occupied, address)
	}
	m.touch(h)
	m.mu.Unlock()

	err := dial.run(ctx)

	m.mu.Lock()
	defer m.mu.Unlock()
	h.dials = slices.DeleteFunc(h.dials, func(other *modelDial) bool { return other == dial })
	defer m.touch(h)
	late := m.tooLong(dial)
	if !dial.givenUp {
		if late && err == nil {
			err = errDead
		}
		m.dialEnded(h, err)
	}
	if err != nil && !late {
		return nil, err
	}
	c := &modelConn{
		id: len(m.conns), of: h, born: time.Now(), idleStep: m.step, idleSince: time.Now(), late: late, model: m,
		evicted: dial.evicted, surplus: dial.surplus,
	}
	h.conns = append(h.conns, c)
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
		t := time.NewTimer(d.mode.delay)
		defer t.Stop()
		after = t.C
	case !d.mode.hangs:
		return d.mode.err
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
		return d.mode.err
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
	case !m.mayClose(c):
		m.failf("connection %d of %s is closed although nothing is wrong with it", c.id, c.of.address)
	}
	delay := c.of.closeDelay
	m.mu.Unlock()
	if delay > 0 {
		time.Sleep(delay)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.closed, c.closedAt = true, time.Now()
	m.busyAt = time.Now()
	m.touch(c.of)
}

// mayClose reports whether there is a reason to close a connection: its own, or one of its host or
// service.
func (m *model) mayClose(c *modelConn) bool {
	p := m.plan
	return c.dead || c.condemned || c.late || c.evicted || c.surplus || // its own
		m.shrunk == m.step || c.of.evicted == m.step ||
		p.IdleTimeout > 0 && time.Since(c.idleSince) >= p.IdleTimeout ||
		p.Lifetime > 0 && time.Since(c.born) >= p.Lifetime*9/10 ||
		m.raced || // DialContext takes the place of idle ones, and closes those that come too late
		!c.of.troubled.IsZero() || // its host may have been ejected
		m.closed || c.of.churned || p.MaxHosts > 0
}

func (d *modelDriver) TestOnBorrow(handle *pooly.Conn) error {
	m := (*model)(d)
	c := handle.Interface().(*modelConn)
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.closes > 0 && !m.closed && !c.of.churned && m.plan.MaxHosts == 0 {
		m.failf("connection %d of %s is tested after it was closed", c.id, c.of.address)
	}
	if c.dead {
		m.unfitAt, m.upset = time.Now(), true
		return errDead
	}
	return nil
}

func (d *modelDriver) Temporary(err error) bool { return errors.Is(err, errTemporary) }

// Write fails if the peer is gone.
func (c *modelConn) Write(b []byte) (int, error) {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	if c.dead {
		c.of.troubled = time.Now()
		return 0, syscall.EPIPE
	}
	return len(b), nil
}

// Read answers at once.
func (c *modelConn) Read(b []byte) (int, error) {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	if c.dead {
		c.of.troubled = time.Now()
		return 0, io.EOF
	}
	return 1, nil
}

// Close is how Do interrupts a function.
func (c *modelConn) Close() error {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	c.condemned = true
	c.of.troubled = time.Now()
	return nil
}
