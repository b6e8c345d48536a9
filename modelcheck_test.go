package pooly_test

import (
	"cmp"
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

// check says what must hold once everything that a step set off has happened, and nothing moves but with time.
func (m *model) check() {
	synctest.Wait()
	stats := m.service.Stats()
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.SortFunc(m.leases, func(a, b *modelLease) int { return cmp.Compare(a.call, b.call) })
	pending := m.pendingLocked()
	m.giveUp()

	m.checkReturned(pending)
	m.checkPending(stats, pending)
	m.checkReleases()
	m.checkConns()
	if !m.closed {
		m.checkHosts(stats)
		m.checkQueue(stats, pending)
		m.checkDials(stats, pending)
		m.checkPatience(stats, pending)
	}
	m.checkOrder(stats, pending)
	m.checkClose()
	if stats.Gets != m.gets || stats.Puts != m.puts || stats.GetFailures != m.lost {
		m.failf("Stats count %d gets, %d puts and %d failures, not %d, %d and %d",
			stats.Gets, stats.Puts, stats.GetFailures, m.gets, m.puts, m.lost)
	}
	m.queued = stats.Waiting
}

// checkReturned judges the calls that ended in this step.
func (m *model) checkReturned(pending []*modelCall) {
	for _, c := range m.calls {
		if !c.done || c.checked {
			continue
		}
		c.checked = true
		if c.err == nil {
			m.checkMostRecent(c)
			continue
		}
		elapsed := c.doneAt.Sub(c.began)
		var failure *pooly.GetConnError
		switch {
		case !errors.As(c.err, &failure):
			m.failf("call %d failed with a %T", c.id, c.err)
		case errors.Is(c.err, pooly.ErrPoolClosed):
			if !m.closed {
				m.failf("call %d failed although the service is open: %v", c.id, c.err)
			}
		case errors.Is(c.err, pooly.ErrOpTimeout):
			m.reached.timeouts++
			if m.plan.WaitTimeout == 0 || elapsed < m.plan.WaitTimeout {
				m.failf("call %d timed out after %v: %v", c.id, elapsed, c.err)
			}
		case errors.Is(c.err, context.Canceled) && c.cancelled:
			m.reached.cancels++
		case errors.Is(c.err, context.DeadlineExceeded) && c.patience > 0 && elapsed >= c.patience:
			m.reached.cancels++
		case errors.Is(c.err, pooly.ErrNoHostAvailable):
			m.reached.refused++
			m.checkHopeless(c, failure)
		default:
			m.failf("call %d failed with %v", c.id, c.err)
		}
	}
}

// checkHopeless holds if no host could have served the call: each was dialled while the call went on, and failed.
func (m *model) checkHopeless(c *modelCall, failure *pooly.GetConnError) {
	for _, r := range m.registered() {
		if m.changed(opAdd, opRemove) {
			continue
		}
		if r.failedAt.IsZero() || r.failedAt.Before(c.began) {
			m.failf("call %d failed, but %s was not even asked: %v", c.id, r.address, c.err)
		}
		for _, conn := range r.conns {
			if conn.idle() && !conn.dead && conn.idleStep < m.step {
				m.failf("call %d failed, but %s has an idle connection: %v", c.id, r.address, c.err)
			}
		}
	}
	if len(m.registered()) > 0 && len(failure.Attempts) == 0 && !m.changed(opAdd, opRemove) {
		m.failf("call %d does not say how it failed: %v", c.id, c.err)
	}
}

// changed reports whether this step has an op of such a kind.
func (m *model) changed(kinds ...opKind) bool {
	return slices.ContainsFunc(m.batch, func(o op) bool { return slices.Contains(kinds, o.Kind) })
}

// checkMostRecent holds if a call that found idle connections got the one most recently used.
func (m *model) checkMostRecent(c *modelCall) {
	got := c.lease.conn
	if got.idleStep >= m.step {
		return
	}
	m.reached.reused++
	for _, other := range got.of.conns {
		if other.idle() && !other.dead && other.idleStep > got.idleStep && other.idleStep < m.step {
			m.failf("call %d got connection %d of %s, but %d was used later", c.id, got.id, got.of.address, other.id)
		}
	}
}

// checkPending judges the calls that wait: each within its limits, and for something.
func (m *model) checkPending(stats pooly.ServiceStats, pending []*modelCall) {
	for _, c := range pending {
		waited := time.Since(c.began)
		switch {
		case c.cancelled:
			m.failf("call %d blocks although it is cancelled", c.id)
		case c.patience > 0 && waited >= c.patience:
			m.failf("call %d blocks for %v, past its deadline of %v", c.id, waited, c.patience)
		case m.plan.WaitTimeout > 0 && waited >= m.plan.WaitTimeout:
			m.failf("call %d blocks for %v, past the WaitTimeout of %v", c.id, waited, m.plan.WaitTimeout)
		case m.closed:
			m.failf("call %d blocks after Close", c.id)
		}
	}
	if m.paused() {
		return
	}
	dialing := 0
	for _, r := range m.registered() {
		dialing += m.dialing(r)
	}
	if len(pending) > stats.Waiting+dialing {
		m.failf("%d calls wait, but only %d in the queue and for %d dials", len(pending), stats.Waiting, dialing)
	}
	if stats.Waiting > len(pending) {
		m.failf("%d places in the queue for %d calls", stats.Waiting, len(pending))
	}
	if len(pending) > 0 && len(m.registered()) == 0 {
		m.failf("%d calls wait for no host", len(pending))
	}
}

// paused reports whether a call may be in a pause between two rounds.
func (m *model) paused() bool {
	return m.plan.Attempts > 1 && time.Since(m.lastLoss) < pooly.DefaultRetryDelay
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

// checkConns holds if what should be closed is being closed. That nothing else is, Close of the driver sees.
func (m *model) checkConns() {
	for _, c := range m.conns {
		switch {
		case !c.idle():
		case c.condemned:
			m.failf("connection %d of %s is open after a fatal error", c.id, c.of.address)
		case c.of.left():
			m.failf("connection %d of %s is open after its removal", c.id, c.of.address)
		case m.closed:
			m.failf("connection %d of %s is open after Close", c.id, c.of.address)
		case m.plan.IdleTimeout > 0 && time.Since(c.idleSince) > m.plan.IdleTimeout+100*time.Millisecond,
			m.plan.Lifetime > 0 && time.Since(c.born) > m.plan.Lifetime+100*time.Millisecond:
			m.failf("connection %d of %s is idle although it has expired", c.id, c.of.address)
		}
	}
}

// checkHosts compares each host's figures with the model's.
func (m *model) checkHosts(stats pooly.ServiceStats) {
	registered := m.registered()
	if len(stats.Hosts) != len(registered) {
		m.failf("%d hosts instead of %d", len(stats.Hosts), len(registered))
		return
	}
	for _, r := range registered {
		h := hostOf(stats, r)
		want := pooly.PoolStats{Dialing: m.dialing(r)}
		for _, c := range r.conns {
			if c.holdsPlace() {
				want.Open++
			}
			if c.leased {
				want.InUse++
			}
			if c.idle() {
				want.Idle++
			}
		}
		got := pooly.PoolStats{Dialing: h.Dialing, Open: h.Open, InUse: h.InUse, Idle: h.Idle}
		if got != want {
			m.failf("%s has %+v, not %+v", r.address, got, want)
		}
		m.checkHealth(r, h)
	}
	out := func(h pooly.HostStats) bool { return !h.Ejected }
	if len(registered) > 0 && len(registered) == len(m.places) && !slices.ContainsFunc(stats.Hosts, out) &&
		!slices.ContainsFunc(registered, func(r *registration) bool { return r.failed }) {
		m.failf("all hosts are ejected, and each answers")
	}
}

func hostOf(stats pooly.ServiceStats, r *registration) pooly.HostStats {
	for _, h := range stats.Hosts {
		if h.Address == r.address {
			return h
		}
	}
	return pooly.HostStats{}
}

// checkHealth holds if a host is ejected by a dial that fails or by leases that do, and restored in time.
func (m *model) checkHealth(r *registration, h pooly.HostStats) {
	if h.Ejected {
		m.reached.ejected++
	}
	feedback := m.plan.Fatal > 0 && r.fatals >= m.plan.Fatal
	if h.Ejected && !r.failed {
		m.reached.feedback++
	}
	switch {
	case h.Ejected && !r.failed && !feedback:
		m.failf("%s is ejected after %d fatal errors", r.address, r.fatals)
	case h.Ejected && r.endedOK && !r.endedBad && r.fatals == 0:
		m.failf("%s is ejected although its last dial connected", r.address)
	case r.endedBad && !r.endedOK && !h.Ejected:
		m.failf("%s is not ejected although its last dial failed", r.address)
	}
	back := m.host(r.address)
	if h.Ejected && len(m.batch) == 1 && r.roomBefore && m.dialing(r) == 0 && back.mode.name == "up" && time.Since(m.since) > 11*time.Second &&
		!back.modeSince.After(m.since) {
		m.failf("%s is up for %v, and still ejected", r.address, time.Since(m.since))
	}
}

// checkQueue holds if no call stands in the queue while there is something for it.
func (m *model) checkQueue(stats pooly.ServiceStats, pending []*modelCall) {
	if stats.Waiting == 0 {
		return
	}
	m.reached.queued++
	up := slices.ContainsFunc(stats.Hosts, func(h pooly.HostStats) bool { return !h.Ejected })
	for _, r := range m.registered() {
		h := hostOf(stats, r)
		if h.Ejected && (up || !r.failedAt.Before(pending[0].began)) {
			continue // not for those who have asked it
		}
		room := m.plan.MaxConns - m.occupied(r)
		switch {
		case h.Idle > 0:
			m.failf("%d calls wait although %s has %d idle connections", stats.Waiting, r.address, h.Idle)
		case room > 0 && m.dialing(r) == 0:
			m.failf("%d calls wait although %s has room for %d and dials none", stats.Waiting, r.address, room)
		case room > 0 && r.connected && !r.troubled && !m.slow(r):
			m.failf("%d calls wait although %s has room for %d", stats.Waiting, r.address, room)
		}
	}
}

// checkDials holds if no dial is meant for no one while calls stand in the queue.
func (m *model) checkDials(stats pooly.ServiceStats, pending []*modelCall) {
	recent := func(t time.Time) bool { return m.plan.Fallback < 0 || time.Since(t) < m.plan.Fallback }
	for _, c := range pending {
		if !recent(c.began) {
			return // it may stand in several places
		}
	}
	dials := 0
	for _, r := range m.registered() {
		for _, d := range r.dials {
			if !recent(d.began) || hostOf(stats, r).Ejected {
				return
			}
			if !m.tooLong(d) {
				dials++
			}
		}
	}
	if lines := len(pending) - stats.Waiting; stats.Waiting > 0 && lines < dials && !m.paused() {
		m.failf("%d calls stand in the queue, and %d wait for %d dials", stats.Waiting, lines, dials)
	}
}

// checkPatience holds if no call waits for a dial that takes long while another host could serve it.
func (m *model) checkPatience(stats pooly.ServiceStats, pending []*modelCall) {
	if m.plan.Fallback < 0 || m.paused() {
		return
	}
	for _, r := range m.registered() {
		if slices.ContainsFunc(r.dials, func(d *modelDial) bool { return time.Since(d.began) <= m.plan.Fallback }) {
			return // that may be what it waits for
		}
	}
	const longest = 4 * pooly.DefaultFallbackDelay
	for _, c := range pending {
		if time.Since(c.began) <= longest {
			return
		}
		m.reached.patient++
		for _, r := range m.registered() {
			h := hostOf(stats, r)
			if !h.Ejected && (h.Idle > 0 || m.dialing(r) == 0 && m.occupied(r) < m.plan.MaxConns) {
				m.failf("call %d waits for %v although %s could serve it", c.id, time.Since(c.began), r.address)
			}
		}
	}
}

// slow reports whether a dial of a host takes long.
func (m *model) slow(r *registration) bool {
	return slices.ContainsFunc(r.dials, func(d *modelDial) bool { return d.mode.hangs })
}

// checkOrder holds if no call was served before one that stood in the queue before it, where all did. A call may be passed
// only while it waits for a dial of its own, or tests a connection that it was handed and that turns out to be dead.
func (m *model) checkOrder(stats pooly.ServiceStats, pending []*modelCall) {
	if !m.closed && m.inQueue && !m.scattered() {
		newest, passed := 0, []int(nil)
		for _, c := range m.calls {
			if c.done && c.doneStep == m.step && c.err == nil {
				newest = max(newest, c.earliest)
			}
		}
		for _, c := range pending {
			if c.latest > 0 && c.latest < newest {
				passed = append(passed, c.id)
			}
		}
		elsewhere := m.dialed + m.unfit // each may have kept a call elsewhere while it was passed
		for _, r := range m.places {
			if !r.left() || r.removed == m.step {
				elsewhere += m.dialing(r)
			}
		}
		if newest > 0 && len(pending) > 0 && elsewhere == 0 {
			m.reached.ordered++
		}
		if len(passed) > elsewhere {
			m.failf("calls %v were passed by one of step %d, and only %d were dialled for or handed dead connections",
				passed, newest, elsewhere)
		}
	}

	dialing := 0
	for _, r := range m.registered() {
		dialing += m.dialing(r)
	}
	m.inQueue, m.up = stats.Waiting == len(pending) && dialing == 0, 0
	for _, h := range stats.Hosts {
		if !h.Ejected {
			m.up++
		}
	}
	fresh := 0
	for _, c := range pending {
		if c.step == m.step {
			fresh++
		}
	}
	onlyGets := !slices.ContainsFunc(m.batch, func(o op) bool { return o.Kind != opGet })
	for _, c := range pending {
		switch {
		case c.latest > 0:
		case onlyGets && c.step == m.step && stats.Waiting-m.queued == fresh:
			c.earliest, c.latest = m.step, m.step
		case stats.Waiting == len(pending):
			c.earliest, c.latest = c.step, m.step
		}
	}
}

// scattered reports whether the last host that was up may have gone in this step, or a pause after that have ended.
// All calls in the queue look for another then, each for itself.
func (m *model) scattered() bool {
	if m.plan.Attempts > 1 && !m.lastLoss.Add(pooly.DefaultRetryDelay).Before(m.since) {
		return true
	}
	up := m.up
	for _, o := range m.batch {
		if (o.Kind == opRelease || o.Kind == opReleaseTwice) && outcomes[o.B].closes && m.plan.Fatal > 0 {
			up-- // it may have ejected one
		}
	}
	return up <= 1 && !m.lastLoss.Before(m.since) || m.changed(opRemove)
}

// checkClose holds if Close ends when it should, and says what it found.
func (m *model) checkClose() {
	if !m.closed {
		return
	}
	open, leased, cut, dials := 0, len(m.leases), 0, 0
	for _, c := range m.conns {
		if c.holdsPlace() {
			open++
		}
		if c.cut {
			cut++
		}
	}
	for _, r := range m.places {
		dials += m.dialing(r)
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
	for _, r := range m.places {
		if len(r.dials) > 0 {
			m.failf("at the end, %s has %d dials", r.address, len(r.dials))
		}
	}
	if n := len(m.pendingLocked()); n > 0 {
		m.failf("at the end, %d calls wait", n)
	}
	if !m.closeDone {
		m.failf("at the end, Close has not returned")
	}
}

// coverage counts what the sequences got to see, so that the model does not hold for want of anything to judge.
type coverage struct {
	mu        sync.Mutex
	sequences int

	queued, ordered, reused, timeouts, cancels, refused, ejected, feedback, patient, filled, closed, cut int
}

func (c *coverage) addTo(total *coverage) {
	total.mu.Lock()
	defer total.mu.Unlock()
	total.sequences++
	total.queued += c.queued
	total.ordered += c.ordered
	total.reused += c.reused
	total.timeouts += c.timeouts
	total.cancels += c.cancels
	total.refused += c.refused
	total.ejected += c.ejected
	total.feedback += c.feedback
	total.patient += c.patient
	total.filled += c.filled
	total.closed += c.closed
	total.cut += c.cut
}

func (c *coverage) require(t *testing.T) {
	t.Logf("%d sequences: %d steps with a queue, %d that show its order, %d calls served by an idle connection, %d timed "+
		"out, %d cancelled, %d refused, %d sights of an ejected host, %d of one whose leases failed, %d of a call that waits "+
		"long, %d services filled at the end, %d closed in time, %d not", c.sequences, c.queued, c.ordered, c.reused,
		c.timeouts, c.cancels, c.refused, c.ejected, c.feedback, c.patient, c.filled, c.closed, c.cut)
	if c.sequences < 1000 {
		return
	}
	for _, n := range []int{
		c.queued, c.ordered, c.reused, c.timeouts, c.cancels, c.refused, c.ejected, c.feedback, c.patient,
		c.filled, c.closed, c.cut,
	} {
		require.Positive(t, n)
	}
}
