package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// check says what must hold once everything that a step set off has happened, and nothing moves but
// with time.
func (m *model) check() {
	synctest.Wait()
	stats := m.service.Stats()
	synctest.Wait()
	in := pooly.LookInside(m.service)
	rounds := pooly.RoundsRun(m.service)
	m.mu.Lock()
	defer m.mu.Unlock()
	pending := m.pendingLocked()
	m.giveUp()
	for _, h := range m.hosts {
		m.touch(h)
	}

	if in.Fault != "" {
		m.failf("%s", in.Fault)
	}
	if !rounds {
		m.failf("callers wait, no host is up, and no round runs")
	}
	m.checkReturned(in)
	m.checkPending(in, pending)
	m.checkReleases()
	m.checkConns()
	m.checkMostRecent()
	m.checkCounts(stats, in)
	if !m.closed {
		m.checkHosts(stats, in)
		m.checkLiveness(in, pending)
		m.checkDials(in)
	}
	m.checkClose()
	m.inside, m.waited = in, in.Queued+in.Lines
	if in.Queued > 0 {
		m.reached.queued++
	}
}

// checkReturned judges the calls that ended in this step.
func (m *model) checkReturned(in pooly.Inside) {
	for _, c := range m.calls {
		if !c.done || c.checked {
			continue
		}
		c.checked = true
		if c.err == nil {
			m.reached.served++
			continue
		}
		var failure *pooly.GetConnError
		elapsed := c.doneAt.Sub(c.waits)
		switch {
		case errors.Is(c.err, errPanicked):
		case c.kind == opDo && c.runs > 0 && c.last != nil && m.isItsOwn(c, c.err):
		case !errors.As(c.err, &failure):
			m.failf("call %d failed with a %T: %v", c.id, c.err, c.err)
		case errors.Is(c.err, pooly.ErrPoolClosed):
			if !m.closed {
				m.failf("call %d failed although the service is open: %v", c.id, c.err)
			}
		case errors.Is(c.err, pooly.ErrOpTimeout):
			m.reached.timeouts++
			if m.plan.WaitTimeout == 0 || elapsed < m.plan.WaitTimeout {
				m.failf("call %d timed out after %v: %v", c.id, elapsed, c.err)
			}
		case errors.Is(failure.Reason, context.Canceled) && c.cancelled:
			m.reached.cancels++
		case errors.Is(c.err, pooly.ErrOverloaded):
			m.reached.overloads++
			if m.plan.MaxWaiting == 0 && c.kind != opDial && !(c.kind == opDo && c.patience > 0) {
				m.failf("call %d was turned away without a limit or deadline: %v", c.id, c.err)
			}
		case errors.Is(failure.Reason, context.DeadlineExceeded) && c.patience > 0 && c.doneAt.Sub(c.began) >= c.patience:
			m.reached.cancels++
		case errors.Is(failure.Reason, pooly.ErrNoHostAvailable):
			m.reached.refused++
			m.checkHopeless(c, failure, in)
		default:
			m.failf("call %d failed with %v", c.id, c.err)
		}
		if c.kind == opDo && failure != nil && c.runs > 0 && !m.closed && !errors.Is(c.err, unmarked(c.last)) {
			m.failf("call %d could not run again, and does not say what it failed with before: %v", c.id, c.err)
		}
	}
}

// isItsOwn reports whether an error of Do is that of its function, or says that its context ended.
func (m *model) isItsOwn(c *modelCall, err error) bool {
	var failure *pooly.GetConnError
	return errors.Is(err, unmarked(c.last)) && !errors.As(err, &failure)
}

// unmarked returns the error that a function marked with Retry.
func unmarked(err error) error {
	for _, known := range []error{errTemporary, errFatal, errTimeout} {
		if errors.Is(err, known) {
			return known
		}
	}
	return err
}

// checkHopeless holds if no host could have served the call, which made all its rounds.
func (m *model) checkHopeless(c *modelCall, failure *pooly.GetConnError, in pooly.Inside) {
	if len(m.want) == 0 || m.changed(opAdd, opRemove, opSet, opDrain, opResume) {
		return
	}
	alone := !slices.ContainsFunc(m.calls, func(other *modelCall) bool { // or it has the diagnosis of an earlier one
		return other != c && other.done && other.err != nil && other.doneAt.Equal(c.doneAt)
	})
	for _, h := range m.hosts {
		alone = alone && !(h.endedStep == m.step && h.endedOK) // and no host came back before it was made
	}
	if alone && m.plan.MaxHosts == 0 && len(failure.Attempts) == 0 {
		m.failf("call %d does not say how it failed: %v", c.id, c.err)
	}
	const grace = pooly.DefaultRetryDelay // rounds count that began so much earlier
	if least := time.Duration(m.plan.Attempts-1)*pooly.DefaultRetryDelay - grace; c.doneAt.Sub(c.waits) < least {
		m.failf("call %d gave up after %v, before its rounds were over: %v", c.id, c.doneAt.Sub(c.waits), c.err)
	}
	for address, host := range in.Hosts {
		h := m.host(address)
		if before := m.inside.Hosts[address]; c.kind == opDial && (host.Ejected || before == nil || before.Ejected) {
			continue // while another is up, DialContext does not ask it
		}
		if host.InUse && m.plan.MaxHosts == 0 && h.good && h.goodSince.Before(c.waits) && h.troubled.Before(c.waits.Add(-grace)) {
			m.failf("call %d failed although %s answers: %v", c.id, address, c.err)
		}
	}
}

// changed reports whether this step has an op of such a kind.
func (m *model) changed(kinds ...opKind) bool {
	return slices.ContainsFunc(m.batch, func(o op) bool { return slices.Contains(kinds, o.Kind) })
}

// checkMostRecent holds if calls that found idle connections got the ones most recently used: none
// that stayed idle was used later. The reaper's tests, which begin after a second, may change the
// order.
func (m *model) checkMostRecent() {
	for _, g := range m.granted {
		if g.idleStep >= m.step || time.Since(m.born) >= time.Second || g.conn.of.churned || m.plan.MaxHosts > 0 {
			continue
		}
		m.reached.reused++
		for _, other := range g.conn.of.conns {
			if other.idle() && !other.dead && other.idleStep > g.idleStep && other.idleStep < m.step {
				m.failf("a call got connection %d of %s, but %d was used later", g.conn.id, g.conn.of.address, other.id)
			}
		}
	}
	m.granted = nil
}

// checkOther holds if Do runs its function again on a host that the call has not used, where one
// has a connection idle. Only where nothing else happens it can be said which.
func (m *model) checkOther(c *modelCall, got *modelConn) {
	if c.runs < 2 {
		return
	}
	m.reached.again++
	if len(m.batch) != 1 || m.waited > 0 || !c.waits.Equal(m.since) || !slices.Contains(c.used, got.of) {
		return
	}
	for _, other := range m.conns {
		h := m.inside.Hosts[other.of.address]
		if other.idle() && !other.dead && other.idleStep < m.step && h != nil && h.InUse && !h.Ejected && !h.Full &&
			!slices.Contains(c.used, other.of) && len(m.pendingLocked()) == 1 && m.plan.IdleTimeout+m.plan.Lifetime == 0 {
			m.failf("call %d runs again with %s, and %s has a connection idle", c.id, got.of.address, other.of.address)
		}
	}
}

// checkPending judges the calls that wait: each within its limits, and in one line.
func (m *model) checkPending(in pooly.Inside, pending []*modelCall) {
	waiting, closing := 0, 0
	for _, c := range pending {
		if c.inside {
			continue // a function heeds its context
		}
		if c.busy() {
			closing++ // or it waits, and another has closed its former connection
			continue
		}
		if c.kind != opDial {
			waiting++
		}
		switch waited := c.waited(time.Now()); {
		case c.cancelled:
			m.failf("call %d blocks although it is cancelled", c.id)
		case c.patience > 0 && time.Since(c.began) >= c.patience:
			m.failf("call %d blocks for %v, past its deadline of %v", c.id, time.Since(c.began), c.patience)
		case m.plan.WaitTimeout > 0 && waited >= m.plan.WaitTimeout && c.kind != opDial:
			m.failf("call %d blocks for %v, past the WaitTimeout of %v", c.id, waited, m.plan.WaitTimeout)
		case m.closed:
			m.failf("call %d blocks after Close", c.id)
		case len(m.want) == 0 && (c.kind != opDial || time.Since(m.changedAt) > m.lastDial()):
			m.failf("call %d waits for no host", c.id)
		}
	}
	if n := in.Queued + in.Lines; n < waiting || n > waiting+closing {
		m.failf("%d calls wait, and %d stand in the queue and %d in lines", waiting, in.Queued, in.Lines)
	}
}

// lastDial returns how long a call of DialContext may take to find out that no host is left.
func (m *model) lastDial() time.Duration {
	for _, h := range m.hosts {
		if len(h.dials) > 0 { // one that does not heed its context
			return m.plan.DialTimeout + time.Second + pooly.DefaultRetryDelay
		}
	}
	return pooly.DefaultRetryDelay
}

func (m *model) checkReleases() {
	for _, l := range m.ended {
		if l.calls == 0 {
			continue
		}
		if len(l.results) < l.calls {
			if time.Since(l.endedAt) > time.Second {
				m.failf("Release of lease %d blocks", l.call)
			}
			continue
		}
		taken := 0
		for _, err := range l.results {
			switch {
			case errors.Is(err, pooly.ErrConnReleased):
				taken++
			case !errors.Is(err, l.wants):
				m.failf("Release of lease %d returned %v, not %v", l.call, err, l.wants)
			}
		}
		if taken != l.calls-1 {
			m.failf("%d of %d Releases of lease %d had no effect", taken, l.calls, l.call)
		}
		l.calls = 0
	}
}

// checkConns holds if what should be closed is being closed. That nothing else is, Close of the
// driver sees.
func (m *model) checkConns() {
	for _, c := range m.conns {
		switch {
		case !c.idle():
		case c.condemned:
			m.failf("connection %d of %s is open after a fatal error", c.id, c.of.address)
		case c.evicted:
			m.failf("connection %d of %s is open after Evict", c.id, c.of.address)
		case !m.want[c.of.address]:
			m.failf("connection %d of %s is open after its removal", c.id, c.of.address)
		case m.closed:
			m.failf("connection %d of %s is open after Close", c.id, c.of.address)
		case m.plan.IdleTimeout > 0 && time.Since(c.idleSince) > m.plan.IdleTimeout+100*time.Millisecond,
			m.plan.Lifetime > 0 && time.Since(c.born) > m.plan.Lifetime+100*time.Millisecond:
			m.failf("connection %d of %s is idle although it has expired", c.id, c.of.address)
		}
	}
}

// checkCounts compares what the service counts with what callers and servers have seen.
func (m *model) checkCounts(stats pooly.ServiceStats, in pooly.Inside) {
	if stats.Gets != m.gets || stats.Puts != m.puts || stats.GetFailures != m.lost || stats.Retries != m.retries && !m.doing1() {
		m.failf("Stats count %d gets, %d puts, %d failures and %d retries, not %d, %d, %d and %d",
			stats.Gets, stats.Puts, stats.GetFailures, stats.Retries, m.gets, m.puts, m.lost, m.retries)
	}
	if m.plan.MaxHosts > 0 && m.deaf() {
		return // its host may have left the subset, so that it was given up earlier
	}
	if !m.raced && stats.Dials != uint64(m.dials) {
		m.failf("Stats count %d dials, and %d have ended", stats.Dials, m.dials)
	}
	if stats.Waiting != in.Queued {
		m.failf("Stats count %d callers in the queue, and %d are", stats.Waiting, in.Queued)
	}
	var total pooly.PoolStats
	for i := range modelHosts {
		h := m.host(hostName(i))
		var want, got pooly.InsideHost
		if host := in.Hosts[h.address]; host != nil {
			got = pooly.InsideHost{Leased: host.Leased, Idle: host.Idle, Conns: host.Conns, Dialing: host.Dialing}
		}
		want.Dialing = m.dialing(h)
		for _, c := range h.conns {
			if c.holdsPlace() {
				want.Conns++
			}
			if c.leased && !c.cut {
				want.Leased++
			}
			if c.idle() {
				want.Idle++
			}
		}
		if got != want {
			m.failf("%s has %+v, not %+v", h.address, got, want)
		}
		total.InUse += want.Leased
		total.Idle += want.Idle
		total.Open += want.Conns
		total.Dialing += want.Dialing
	}
	if got := (pooly.PoolStats{InUse: stats.InUse, Idle: stats.Idle, Open: stats.Open, Dialing: stats.Dialing}); got != total {
		m.failf("the service has %+v, not %+v", got, total)
	}
}

// deaf reports whether a dial is in flight that heeds no context.
func (m *model) deaf() bool {
	for _, h := range m.hosts {
		if slices.ContainsFunc(h.dials, func(d *modelDial) bool { return d.mode.deaf }) {
			return true
		}
	}
	return false
}

// doing1 reports whether some call of Do is under way, whose retries are not counted yet.
func (m *model) doing1() bool {
	return slices.ContainsFunc(m.calls, func(c *modelCall) bool { return c.kind == opDo && !c.done })
}

// checkHosts holds if the hosts in use are those that should be, and none is ejected without a
// failure.
func (m *model) checkHosts(stats pooly.ServiceStats, in pooly.Inside) {
	drained := 0
	for address, registered := range m.drained {
		if m.service.Has(address) != registered {
			m.failf("%s is drained, and Has says that it is registered: %v", address, !registered)
		}
		if registered {
			drained++
		}
	}
	if stats.Registered != len(m.want)+drained {
		m.failf("%d hosts are registered, not %d and %d drained", stats.Registered, len(m.want), drained)
	}
	stats.Hosts = slices.DeleteFunc(stats.Hosts, func(s pooly.HostStats) bool {
		if s.Draining {
			drained--
		}
		return s.Draining
	})
	if drained != 0 {
		m.failf("%d drained hosts are missing in Stats", drained)
	}
	least, most := len(m.want), len(m.want)
	if n := m.plan.MaxHosts; n > 0 {
		least, most = min(least, n), min(most, 4*n)
	}
	if n := len(stats.Hosts); n < least || n > most {
		m.failf("%d hosts are in use, not %d to %d", n, least, most)
	}
	for _, s := range stats.Hosts {
		h := m.host(s.Address)
		if !m.want[s.Address] {
			m.failf("%s is in use, and not registered", s.Address)
		}
		host := in.Hosts[s.Address]
		if s.Ejected {
			m.reached.ejected++
		}
		if s.Ejected && h.failedAt.IsZero() {
			m.reached.feedback++
		}
		switch {
		case s.Ejected != host.Ejected:
			m.failf("%s: Stats say that ejected is %v", s.Address, s.Ejected)
		case s.Ejected && h.troubled.IsZero():
			m.failf("%s is ejected, and nothing has failed", s.Address)
		case !s.Ejected && h.endedStep == m.step && h.endedBad && !h.endedOK && host.Conns == 0 && m.nothingWasLeased(s.Address) &&
			m.plan.MaxHosts == 0 && h.addedStep < m.step && !m.changed(opSleep, opAdd, opSet, opRemove, opDrain, opResume):
			m.failf("%s is not ejected although its last dial failed", s.Address)
		}
	}
}

// nothingWasLeased reports whether a host had no connection when the step began.
func (m *model) nothingWasLeased(address string) bool {
	h := m.inside.Hosts[address]
	return h != nil && h.Conns == 0 && h.Dialing == 0 && !m.raced
}

// checkLiveness holds if nobody waits for longer than is promised. The bounds are explained in
// docs/MODEL.md.
func (m *model) checkLiveness(in pooly.Inside, pending []*modelCall) {
	const (
		pause    = pooly.DefaultRetryDelay
		slack    = time.Millisecond
		longest  = pooly.DefaultMaxEjectionTime + 2*pooly.DefaultBaseEjectionTime
		refusing = 30 * time.Millisecond // as long as a host takes to refuse
	)
	line := m.plan.Fallback // how long a caller may stand in a line
	hopes := line           // and how long a host may be paused
	if line < 0 {
		line, hopes = m.plan.DialTimeout+time.Second, pooly.DefaultFallbackDelay
	}
	ready := line + hopes + pause + slack
	rounds := line + pause + slack
	refused := hopes + time.Duration(modelHosts+m.plan.Attempts+1)*(refusing+pause) + slack
	race := longest + 2*(time.Duration(modelHosts)*line+m.plan.DialTimeout+time.Second+pause)

	refuse := time.Since(m.busyAt) >= refused && time.Since(m.changedAt) >= refused
	for address := range m.want {
		h := m.host(address)
		refuse = refuse && h.mode.err != nil && time.Since(h.modeSince) >= refused
	}
	for _, c := range pending {
		waited := c.waited(time.Now())
		if c.busy() {
			continue
		}
		m.reached.oldest = max(m.reached.oldest, waited)
		if refuse && waited >= refused {
			m.failf("call %d waits for %v although all hosts refuse", c.id, waited)
		}
		for address, host := range in.Hosts {
			good := m.goodFor(m.host(address))
			if !host.InUse || good == 0 {
				continue
			}
			switch {
			case c.kind == opDial:
				if good >= race && waited >= race {
					m.failf("call %d of DialContext waits for %v although %s answers", c.id, waited, address)
				}
			case host.Full || time.Since(m.unfitAt) < ready:
			case !host.Ejected && good >= ready && waited >= ready:
				m.failf("call %d waits for %v although %s is up and has room", c.id, waited, address)
			case in.Up == 0 && m.plan.Fallback > 0 && good >= rounds && waited >= rounds:
				m.failf("call %d waits for %v although %s answers and no host is up", c.id, waited, address)
			}
		}
	}
	for address, host := range in.Hosts {
		if good := m.goodFor(m.host(address)); host.InUse && host.Ejected && good > longest {
			m.failf("%s answers since %v, and is still ejected", address, good)
		}
	}
}

// checkDials holds if no more dials began than callers waited. It can be said of steps in which no
// time passes and no dial fails. Of several hosts, another may begin one at the moment when a dial
// ends that is about to serve the caller.
func (m *model) checkDials(in pooly.Inside) {
	if m.upset || in.Up == 0 || m.inside.Up != in.Up ||
		m.changed(opSleep, opAdd, opRemove, opSet, opDrain, opResume, opEvict, opResize, opClose, opSettle, opKill, opMode) || len(m.batch) == 0 {
		return
	}
	callers := m.waited
	for _, c := range m.calls {
		switch {
		case c.done && c.doneStep < m.step:
		case c.kind == opDo:
			callers += m.plan.Attempts // it may wait before each run
		case c.kind == opDial || c.step == m.step:
			callers++
		}
	}
	if m.started > 0 {
		m.reached.counted++
	}
	if m.started > callers+in.Up-1 {
		m.failf("%d dials began for %d callers", m.started, callers)
	}
}

// unlimited reports whether no host has a limit below MaxConns.
func (m *model) unlimited() bool {
	for _, h := range m.inside.Hosts {
		if h.InUse && h.Limited {
			return false
		}
	}
	return true
}

// checkClose holds if Close ends when it should, and says what it found.
func (m *model) checkClose() {
	if !m.closed {
		return
	}
	open, leased, cut, dials := 0, len(m.leases)+len(m.sockets), 0, 0
	for _, c := range m.conns {
		if c.holdsPlace() {
			open++
		}
		if c.cut {
			cut++
		}
	}
	for _, h := range m.hosts {
		dials += m.dialing(h)
	}
	elapsed := time.Since(m.closeBegan)
	if !m.closeDone {
		switch {
		case open == 0 && dials == 0:
			m.failf("Close waits for nothing")
		case elapsed > modelCloseDeadline+time.Second:
			m.failf("Close takes %v", elapsed)
		}
		return
	}
	elapsed = m.closedAt.Sub(m.closeBegan)
	if m.closeErr == nil {
		m.reached.closed = 1
	} else {
		m.reached.cut = 1
	}
	switch {
	case m.closeErr == nil:
		if open+leased+dials > 0 {
			m.failf("Close returned, but %d connections are open, %d leased and %d dials in flight", open, leased, dials)
		}
		if !pooly.NothingIsLeft(m.service) {
			m.failf("Close returned, and something is left")
		}
	case !errors.Is(m.closeErr, pooly.ErrOpTimeout) || elapsed < modelCloseDeadline:
		m.failf("Close returned after %v: %v", elapsed, m.closeErr)
	case cut > 0 && !strings.Contains(m.closeErr.Error(), fmt.Sprintf(" %d connections", cut)):
		m.failf("Close closed %d leased connections, and says: %v", cut, m.closeErr)
	}
	if elapsed > modelCloseDeadline+time.Second {
		m.failf("Close took %v", elapsed)
	}
}

// checkEnd holds if every connection was closed, once, and every call has returned.
func (m *model) checkEnd() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.conns {
		if c.closes != 1 {
			m.failf("at the end, connection %d of %s was closed %d times", c.id, c.of.address, c.closes)
		}
	}
	for _, h := range m.hosts {
		if len(h.dials) > 0 {
			m.failf("at the end, %s has %d dials", h.address, len(h.dials))
		}
	}
	if n := len(m.pendingLocked()); n > 0 {
		m.failf("at the end, %d calls wait", n)
	}
	if !m.closeDone {
		m.failf("at the end, Close has not returned")
	}
	if !pooly.NothingIsLeft(m.service) {
		m.failf("at the end, something is left of the service")
	}
}

// coverage counts what the sequences got to see, so that the model does not hold for want of
// anything to judge.
type coverage struct {
	mu        sync.Mutex
	sequences int
	oldest    time.Duration

	queued, served, reused, timeouts, cancels, overloads, refused, ejected, feedback, again, counted, filled, closed, cut int
}

// counts are the figures that must not be zero.
func (c *coverage) counts() []*int {
	return []*int{
		&c.queued, &c.served, &c.reused, &c.timeouts, &c.cancels, &c.overloads, &c.refused, &c.ejected, &c.feedback,
		&c.again, &c.counted, &c.filled, &c.closed, &c.cut,
	}
}

func (c *coverage) addTo(total *coverage) {
	total.mu.Lock()
	defer total.mu.Unlock()
	total.sequences++
	total.oldest = max(total.oldest, c.oldest)
	for i, n := range c.counts() {
		*total.counts()[i] += *n
	}
}

func (c *coverage) require(t *testing.T) {
	t.Logf("%d sequences: %d steps with a queue, %d calls served, %d of them by an idle connection, %d timed out, %d cancelled, "+
		"%d turned away, %d refused, %d sights of an ejected host, %d of one whose leases failed, %d runs again, %d steps whose "+
		"dials were counted, %d services filled at the end, %d closed in time, %d not, the longest wait %v",
		c.sequences, c.queued, c.served, c.reused, c.timeouts, c.cancels, c.overloads, c.refused, c.ejected, c.feedback, c.again,
		c.counted, c.filled, c.closed, c.cut, c.oldest)
	if c.sequences < 1000 {
		return
	}
	for _, n := range c.counts() {
		require.Positive(t, *n)
	}
}
