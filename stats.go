package pooly

import "time"

// PoolStats are the figures of one pool, or their sums over several.
type PoolStats struct {
	Open    int // connections: those in use, idle and being closed
	InUse   int // of these, leased
	Idle    int // of these, waiting to be leased
	Dialing int // dials in flight, of a Pool used alone also between their tries; Open+Dialing is at most MaxConns

	Gets         uint64        // leases handed out
	Puts         uint64        // leases released
	Dials        uint64        // dials that ended, in the background too
	Failures     uint64        // dials that failed, those that were tried again included
	Waits        uint64        // times a caller found no idle connection and waited, in vain or not
	WaitDuration time.Duration // the time that callers waited, together
}

func (s *PoolStats) add(t PoolStats) {
	s.InUse += t.InUse
	s.Idle += t.Idle
	s.Dialing += t.Dialing
	s.Open += t.Open
	s.Gets += t.Gets
	s.Puts += t.Puts
	s.Dials += t.Dials
	s.Failures += t.Failures
	s.Waits += t.Waits
	s.WaitDuration += t.WaitDuration
}

// HostStats are the figures of one host.
type HostStats struct {
	Address string

	// Score is the host's quality in [0, 1], as the strategy sees it: memoized, and passed through the
	// ScoreCalculator. It is 0.5 before anything was released.
	Score float64

	// Trials is the number of Releases behind the score, each weighted by its age (see Arm).
	Trials float64

	// Latency is the peak EWMA of lease times; 0 unless the strategy asks for it (see Arm.Latency).
	Latency time.Duration

	// Ejected says that the last dial of the host failed, so that it takes no traffic until one connects.
	Ejected bool

	// Cause is what that dial failed with; nil unless Ejected.
	Cause error

	PoolStats
}

// ServiceStats is a snapshot of a service. The figures of each host are of one instant.
type ServiceStats struct {
	// PoolStats are the totals. Counters go on over hosts that were removed, and so do connections that are still
	// leased there.
	PoolStats

	// Waiting is how many callers wait because no host has room.
	Waiting int

	// GetFailures is how many GetConn calls returned an error.
	GetFailures uint64

	// Hosts are those registered, in no particular order.
	Hosts []HostStats
}

// counts are what a pool counts under its lock.
type counts struct {
	gets, puts, dials, failures uint64
}
