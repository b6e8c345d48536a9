package pooly

import (
	"encoding/json"
	"time"
)

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

	// Ejected says that the last dial of the host failed, or ConsecutiveFailures leases in a row, so that it takes no
	// traffic until a probe connects.
	Ejected bool

	// Cause is what that dial or the last of these leases failed with; nil unless Ejected.
	Cause error

	// NextProbe is how long it takes until the host is dialled again; 0 unless Ejected, and while a probe is due or
	// in flight.
	NextProbe time.Duration

	// Ejections is how often the host was ejected since it was added.
	Ejections uint64

	PoolStats
}

// MarshalJSON writes Cause as its message: errors are of any type, and some cannot be written, or would be with all that
// hangs on them.
func (s HostStats) MarshalJSON() ([]byte, error) {
	type fields HostStats
	shown := struct {
		fields
		Cause string `json:",omitempty"`
	}{fields: fields(s)}
	if s.Cause != nil {
		shown.Cause = s.Cause.Error()
	}
	return json.Marshal(shown)
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

	// Registered is how many hosts are registered. With MaxHosts set, that may be more than are in use.
	Registered int

	// Strategy names the service's strategy: what its String method says, else its type.
	Strategy string

	// Hosts are those in use, in no particular order: all that are registered, or with MaxHosts the subset.
	Hosts []HostStats
}

// counts are what a pool counts under its lock.
type counts struct {
	dials, failures uint64
	cut             uint64 // leases that Close has ended
}
