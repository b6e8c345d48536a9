package pooly

import (
	"math"
	"time"
)

// status is what is known of a host's health:
//
//	untried ──► healthy ──► ejected ──► probation ──► healthy
//	   │                       ▲           │
//	   └───────────────────────┴───────────┘
//
// A host is ejected in two cases:
//   - A dial of it fails, unless its leases may come back (see Pool.hopesLocked).
//   - Its leases fail, and neither chance nor the other hosts' failures explain that (see
//     outliers).
//
// The first probe that connects restores the host, on probation. It is healthy again once a lease
// ends well. Only host.become changes the status.
type status uint8

const (
	untried   status = iota // no dial has ended yet
	healthy                 // takes traffic
	ejected                 // takes no traffic, is probed
	probation               // takes traffic again; no lease has ended well yet
)

// health is what a host remembers of its failures. It is guarded by Pool.mu.
type health struct {
	status     status
	byFeedback bool          // ejected because of its leases, so it may well connect
	cause      error         // why it is ejected; nil unless ejected
	ejections  uint64        // in total
	setbacks   int32         // ejections and failed probes since a lease last ended well
	failures   uint32        // of leases, in a row
	suspectAt  uint32        // compare with the other hosts after this many failures in a row
	comparedAt time.Duration // when it was last compared, by the coarse clock
	probe      *time.Timer   // nil unless ejected
	probeAt    time.Duration // when probe fires or has fired
	tally      tally
}

// ejectionJitter is the largest share by which an ejection time is shortened at random.
const ejectionJitter = 0.2

// become changes the host's status and everything that depends on it.
func (h *host) become(to status) {
	from := h.status
	h.status = to
	if from != to {
		h.cluster.changed.ring()
	}
	out, wasOut := to == ejected, from == ejected
	if out == wasOut || h.closed {
		return
	}
	s := h.cluster
	h.barred = out
	if out {
		h.ejections++
		s.up.Add(-1)
	} else {
		h.epoch++
		h.gate.most = 1
		h.forgetLatencyLocked()
		h.cause, h.byFeedback, h.failures, h.doubt.dialBegan = nil, false, 0, 0
		h.suspectAt = 1
		h.stopProbe()
		s.up.Add(1)
		s.gainedAt.Store(int64(s.clock.now()))
	}
	h.allowLocked()
	s.generation.Add(1)
}

// eject ejects the host and closes its idle connections: they are as suspect as the connection that
// failed. The caller must call after without a lock.
func (h *host) eject(cause error, byFeedback bool) (after func()) {
	h.cause, h.byFeedback = cause, byFeedback
	h.doubt.failed = true
	h.become(ejected)
	h.scheduleProbe(!isLocal(cause))
	h.queue.displace(&h.line)
	idle := h.idle.drain()
	return func() {
		h.queue.match()
		if !byFeedback {
			h.cluster.outliers.readmit()
		}
		h.cluster.keeper.hostEjected(h, cause)
		h.destroyAll(idle, forEjection)
	}
}

// restore puts the host on probation.
func (h *host) restore() (after func()) {
	h.become(probation)
	return func() { h.cluster.keeper.hostRestored(h) }
}

// dialEnded implements owner.
func (h *host) dialEnded(d *dial, err error) (after func()) {
	switch {
	case err == nil && h.status == untried:
		h.become(healthy)
	case err == nil && h.status == ejected && (!h.byFeedback || d.began == h.ejections) &&
		(h.checker == nil || d.checked):
		return h.restore() // a dial from before an ejection by feedback would prove nothing
	case err == nil:
	case h.status == ejected:
		h.cause, h.byFeedback = err, false
		if d.probe {
			h.scheduleProbe(!isLocal(err))
		}
	case h.hopesLocked(d) || isLocal(err) && h.idle.length > 0:
		h.pauseDialsLocked()
	default:
		return h.eject(err, false)
	}
	return nil
}

// judge records how a lease ended. The caller must call after without a lock.
func (h *host) judge(c *conn, o outcome) (after func()) {
	switch {
	case h.closed || c.epoch != h.epoch:
		return nil // the lease began before the last restoration
	case !o.failure && !o.well():
		return nil
	case h.status == ejected && o.well() && !h.byFeedback:
		return h.restore() // dials fail, but the host serves
	case h.status == ejected:
		return nil
	case !o.failure:
		h.failures, h.setbacks, h.doubt = 0, 0, doubt{}
		h.suspectAt = h.limitOfFailures()
		h.become(healthy)
		return nil
	}
	first := !h.doubt.failed
	h.doubt.failed = true
	h.tally.bad++
	h.failures++
	limit := h.limitOfFailures()
	if limit == never {
		return nil
	}
	// While hosts fail alike, suspectAt is far away. Others may be well again before that.
	due := time.Duration(h.coarse.Load())-h.comparedAt >= tallyWindow
	suspect := h.failures >= h.suspectAt || h.failures > limit && due
	if !first && !suspect {
		return nil
	}
	var idle []*conn
	if suspect && h.failures == limit {
		idle = h.idle.drain() // the idle connections may be the cause
	}
	return func() {
		if !suspect {
			h.cluster.outliers.refresh()
			return
		}
		h.cluster.outliers.compare(h, o.cause)
		h.destroyAll(idle, forEjection)
	}
}

// pingFailed implements owner. A ping is no trial, so it does not change the score.
func (h *host) pingFailed(c *conn, cause error) (after func()) {
	h.tally.requests++
	return h.judge(c, outcome{failure: true, cause: cause})
}

// never is the value of limitOfFailures if ConsecutiveFailures is negative.
const never = math.MaxUint32

func (h *host) limitOfFailures() uint32 {
	if n := h.cluster.config.ConsecutiveFailures; n > 0 {
		return uint32(min(int64(n), never-1))
	}
	return never
}

// scheduleProbe schedules the next probe of an ejected host. The delay doubles with each setback.
func (h *host) scheduleProbe(setback bool) {
	if setback {
		h.setbacks++
	}
	config := &h.cluster.config
	delay := config.MaxEjectionTime
	if doublings := max(0, h.setbacks-1); config.BaseEjectionTime <= delay>>doublings {
		delay = config.BaseEjectionTime << doublings
	}
	h.probeIn(delay - time.Duration(ejectionJitter*h.cluster.rng.Float64()*float64(delay)))
}

func (h *host) probeIn(delay time.Duration) {
	h.probeAt = later(h.clock.now(), delay)
	if h.probe == nil {
		h.probe = time.AfterFunc(delay, func() { h.dialDown(&dial{probe: true}) })
	} else {
		h.probe.Reset(delay)
	}
}

func (h *host) stopProbe() {
	if h.probe != nil {
		h.probe.Stop()
	}
	h.probe = nil
}

// dialDown dials an ejected host, unless a dial is in flight. It opens a new connection, because
// that is what a request needs. It reports false if there is no dial to wait for: the host is up or
// removed, or its leases take all places.
func (h *host) dialDown(d *dial) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.status != ejected {
		return false
	}
	full := h.open-h.apart >= h.most()
	if h.dialing == 0 && !full {
		d.began = h.ejections
		h.startDialLocked(d)
		return true
	}
	if d.probe {
		h.probeIn(h.cluster.config.BaseEjectionTime)
	}
	return h.dialing > 0
}

// nextProbeLocked returns the time until the next probe. It is 0 if there will be none, or if the
// probe is due.
func (h *host) nextProbeLocked() time.Duration {
	if h.probe == nil {
		return 0
	}
	return max(0, h.probeAt-h.clock.now())
}
