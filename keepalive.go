package pooly

import (
	"context"
	"time"
)

// How idle connections are checked, besides the test before each lease:
//   - While leases flow, unused connections are tested about once a second. Otherwise connections
//     that the server has closed would stay half closed at the bottom of their stacks while fewer
//     connections are in use.
//   - Connections that were idle for KeepAlive are tested, and pinged if the driver is a Pinger.
//
// One connection at a time is taken out of its pool for this.

// testPeriod is how often idle connections are tested while leases flow. testMost is how many are
// tested at a time.
const (
	testPeriod = time.Second
	testMost   = 256
)

// test tests connections that have been idle for some time. Without it, connections that the server
// has closed would stay half closed at the bottom of their stacks while fewer connections are in
// use.
func (r *reaper) test() {
	r.testing.Store(false)
	left := testMost
	for p := range r.pools {
		left -= p.testIdle(left)
		if left <= 0 {
			return
		}
	}
}

// testIdle tests up to most connections that have been idle for a while, except the one on top. It
// returns how many it has tested.
func (p *Pool) testIdle(most int) (tested int) {
	for ; tested < most; tested++ {
		c := p.borrowUntested()
		if c == nil {
			break
		}
		why := reason(0)
		if p.testUnused(c) != nil {
			why = forUnfit
		}
		p.returnIdle(c, why)
	}
	return tested
}

// borrowUntested takes out a connection to test, one that has neither been used nor tested lately.
// It returns nil if there is none.
func (p *Pool) borrowUntested() *conn {
	p.mu.Lock()
	defer p.unlock()
	now := p.clock.now()
	for c := range p.idle.all() {
		recent := now-max(time.Duration(c.since), c.tested) < testPeriod/2
		if c == p.idle.top || recent {
			continue
		}
		c.tested = now
		p.borrowLocked(c)
		return c
	}
	return nil
}

// borrowLocked takes out an idle connection to look at. returnIdle ends that.
func (p *Pool) borrowLocked(c *conn) {
	p.idle.remove(c)
	p.borrowed++
	c.epoch = p.epoch
}

// returnIdle puts a connection back that was looked at, below all others. It closes the connection
// if why is not 0, or if the pool wants no connection from before. It waits for the place of a
// connection that it closes, so that a dial that checks the host has room.
func (p *Pool) returnIdle(c *conn, why reason) {
	p.mu.Lock()
	p.borrowed--
	switch {
	case why != 0:
	case c.epoch != p.epoch:
		why = forEjection
	default:
		why = p.unfitLocked(c, 0)
	}
	if why == 0 {
		p.idle.pushBottom(c)
		if p.ages {
			p.reaper.expect(p.expiry(c))
		}
	}
	p.settleLocked()
	p.unlock()
	if why != 0 {
		freed := make(chan struct{})
		p.destroyFor(c, why, freed)
		<-freed
	}
}

// testUnused tests a connection that was taken out. A test that hangs is given up, also without a
// TestTimeout: the connection's place must come back, and the others must be tested.
func (p *Pool) testUnused(c *conn) error {
	timeout := p.config.TestTimeout
	if timeout == 0 {
		timeout = min(p.config.DialTimeout, pingMost)
	}
	return p.callWithin(p.ctx, timeout, "Driver.TestOnBorrow",
		func(context.Context) error { return p.config.Driver.TestOnBorrow(&c.origin) })
}

// watchLocked has the reaper look at a new connection in time. If there are too few connections for
// MinIdle, that is soon.
func (p *Pool) watchLocked(c *conn) {
	c.kept = p.clock.now()
	if p.config.KeepAlive > 0 {
		p.reaper.expect(later(c.kept, p.config.KeepAlive))
	}
	if p.config.MinIdle > 0 {
		p.reaper.expect(max(c.kept, p.fillAt))
	}
}

// A connection may be looked at early by 1/keepShare of KeepAlive, so that one sweep serves many
// connections.
const keepShare = 8

// keepLocked starts keepAlive if connections have been idle for KeepAlive. It returns when the next
// sweep is due.
func (p *Pool) keepLocked(now time.Duration) (next time.Duration) {
	every := p.config.KeepAlive
	if every < 0 || p.closed || len(p.conns) <= int(p.outside) {
		return forever
	}
	next = later(now, every) // for connections that are leased
	for c := range p.idle.all() {
		next = min(next, p.keepAt(c))
	}
	if next <= later(now, every/keepShare) {
		next = later(now, every/keepShare)
		if !p.keeping {
			p.keeping = true
			go p.keepAlive()
		}
	}
	return next
}

// keepAt returns when an idle connection needs a sign of life. A Pool used alone does not know when
// a connection was last used, so it looks at each one once per KeepAlive.
func (p *Pool) keepAt(c *conn) time.Duration {
	return later(max(time.Duration(c.since), c.kept), p.config.KeepAlive)
}

// keepAlive looks at the connections that have been idle for KeepAlive, one after the other. If one
// does not answer its ping, a new connection shows whether the host is to blame.
func (p *Pool) keepAlive() {
	suspect := false
	for {
		c := p.borrowCold()
		if c == nil {
			return
		}
		if _, broken := p.look(c); broken && !suspect {
			suspect = true
			p.dialToCheck()
		}
	}
}

// borrowCold takes out a connection that has been idle for KeepAlive. If there is none, it records
// that keepAlive ends, and returns nil. It begins at the top: since connections go back to the
// bottom, they keep their order.
func (p *Pool) borrowCold() *conn {
	p.mu.Lock()
	defer p.unlock()
	now := p.clock.now()
	for c := range p.idle.all() {
		if p.keepAt(c) > later(now, p.config.KeepAlive/keepShare) {
			continue
		}
		c.kept = now
		if c.share != nil {
			c.share.kept(p.conns, now) // one ping is enough for all places at a client
		}
		p.borrowLocked(c)
		return c
	}
	p.keeping = false
	return nil
}

// kept records that all places at a client were kept alive.
func (s *Share) kept(conns []*conn, now time.Duration) {
	for _, c := range conns {
		if c.share == s {
			c.kept = now
		}
	}
}

// look tests and pings a connection that was taken out, and puts it back or closes it. broken says
// that it did not answer its ping.
func (p *Pool) look(c *conn) (fit, broken bool) {
	fit = p.testUnused(c) == nil
	if fit && p.pinger != nil {
		err := p.callPing(c)
		broken = err != nil && !p.excusesPing(c, err)
		fit = !broken
	}
	why := reason(0)
	if !fit {
		why = forUnfit
	}
	p.returnIdle(c, why)
	return fit, broken
}

// excusesPing reports whether a shared client survives a ping that failed: it timed out, while the
// host serves others over the same client. Otherwise no lease gets the client any more.
func (p *Pool) excusesPing(c *conn, err error) bool {
	if c.share == nil {
		return false
	}
	p.mu.Lock()
	defer p.unlock()
	excused := p.excusesLocked(outcome{timeout: isTimeout(err)})
	if !excused && c.spent == 0 {
		c.spent = forFailure
	}
	return excused
}

// checkIdle finds out, by a ping of a connection that was taken out, whether the host works.
func (p *Pool) checkIdle(c *conn) {
	if fit, _ := p.look(c); !fit {
		p.dialToCheck()
	}
}

// dialToCheck finds out, by a new connection, whether the host works.
func (p *Pool) dialToCheck() {
	p.mu.Lock()
	defer p.unlock()
	if p.dialing == 0 && p.mayDialLocked() {
		p.startDialLocked(&dial{check: true})
	}
}

// checkNew pings a new connection that was dialled to check the host, and that was taken out. If it
// does not answer, the host is to blame. Without a Pinger, the connection has done its service, and
// is kept only if others are missing.
func (p *Pool) checkNew(c *conn) {
	var err error
	if p.pinger != nil {
		err = p.callPing(c)
	}
	p.mu.Lock()
	wanted := !p.direct.Load() && (p.pinger != nil || p.idle.length < max(1, p.config.MinIdle))
	var after func()
	if err != nil && p.owner != nil && !p.closed {
		after = p.owner.pingFailed(c, err)
	}
	p.unlock()
	if after != nil {
		after()
	}
	why := reason(0)
	switch {
	case err != nil:
		why = forUnfit
	case !wanted:
		why = forSurplus
	}
	p.returnIdle(c, why)
}
