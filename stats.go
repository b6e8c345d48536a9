package pooly

import (
	"encoding/json"
	"iter"
	"time"
)

// PoolStats are the figures of one pool, or the sums over several pools.
type PoolStats struct {
	Open    int // connections: in use, idle or being closed
	InUse   int // leased connections
	Idle    int // connections waiting to be leased
	Dialing int // dials in flight; in a Pool used alone, also while a dial waits to be tried again

	// MaxConns bounds Open and Dialing together. Limit bounds InUse: it is MaxConns, or less after
	// requests have timed out. Connections of DialContext are not subject to Limit. If the pool is
	// closed, both are 0.
	MaxConns, Limit int

	// OldestLease is how long the oldest lease has lasted so far, to within about 100 ms. In the
	// sums of several pools it is the longest. It is 0 if no lease is out, and for a Pool used
	// alone.
	OldestLease time.Duration

	// Leaked is how many leases are out longer than LeakTimeout. It is 0 if LeakTimeout is off.
	Leaked int

	Gets         uint64        // leases handed out
	Puts         uint64        // leases released
	Dials        uint64        // dials that ended, background dials included
	Failures     uint64        // dials that failed
	Pings        uint64        // pings of idle connections that ended, see Pinger
	PingFailures uint64        // pings that failed
	Waits        uint64        // times a caller found no idle connection and waited, also in vain
	WaitDuration time.Duration // time that callers waited, all together

	// Closed counts the connections that were closed, by reason. Connections that are still being
	// closed count in Open. So Dials - Failures is Open plus Closed.Total(), at any time.
	Closed ClosedStats
}

// ClosedStats counts connections that were closed, by reason. Each counts once.
type ClosedStats struct {
	Idle     uint64 // they were idle for ConnIdleTimeout
	Lifetime uint64 // they were older than MaxConnLifetime
	Failed   uint64 // their leases ended with fatal errors, or the client that they shared failed
	Unfit    uint64 // the driver's TestOnBorrow or Ping, or a hook, rejected them
	Ejected  uint64 // their host was ejected, or about to be
	Evicted  uint64 // Evict or CloseIdle closed them
	Surplus  uint64 // nobody needed them: beyond MaxIdle, after Resize, or with DialContext
	Asked    uint64 // CloseOnRelease was called, or a client of DialContext closed them
	Removed  uint64 // their host was removed or drained, or the service was closed
}

// Total returns how many connections were closed for any reason.
func (s ClosedStats) Total() (n uint64) {
	for _, closed := range s.All() {
		n += closed
	}
	return n
}

// All yields the name of each reason, in the order of the fields, and how many connections were
// closed for it. The names are the names of the fields in lower case.
func (s ClosedStats) All() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for i, n := range s.counters() {
			if !yield(reasonNames[i], *n) {
				return
			}
		}
	}
}

var reasonNames = [...]string{
	"idle", "lifetime", "failed", "unfit", "ejected", "evicted", "surplus", "asked", "removed",
}

func (s *ClosedStats) counters() [len(reasonNames)]*uint64 {
	return [...]*uint64{&s.Idle, &s.Lifetime, &s.Failed, &s.Unfit, &s.Ejected, &s.Evicted, &s.Surplus,
		&s.Asked, &s.Removed}
}

func (s *ClosedStats) add(t ClosedStats) {
	from := t.counters()
	for i, n := range s.counters() {
		*n += *from[i]
	}
}

// reason is why a connection is closed, the place of its counter plus one. 0: it is not.
type reason uint8

const (
	forIdle reason = 1 + iota
	forLifetime
	forFailure
	forUnfit
	forEjection
	forEviction
	forSurplus
	forRequest
	forRemoval
)

func (s *ClosedStats) count(why reason) {
	*s.counters()[why-1]++
}

func (s *PoolStats) add(t PoolStats) {
	s.InUse += t.InUse
	s.Idle += t.Idle
	s.Dialing += t.Dialing
	s.Open += t.Open
	s.MaxConns += t.MaxConns
	s.Limit += t.Limit
	s.OldestLease = max(s.OldestLease, t.OldestLease)
	s.Leaked += t.Leaked
	s.Gets += t.Gets
	s.Puts += t.Puts
	s.Dials += t.Dials
	s.Failures += t.Failures
	s.Pings += t.Pings
	s.PingFailures += t.PingFailures
	s.Waits += t.Waits
	s.WaitDuration += t.WaitDuration
	s.Closed.add(t.Closed)
}

// HostStats are the figures of one host.
type HostStats struct {
	Address string

	// Score is the host's quality in [0, 1], as the strategy sees it: memoized, and mapped by the
	// ScoreCalculator. Without a ScoreCalculator it is 0.5 before the first Release.
	Score float64

	// Trials is the number of Releases and Rates in the score, each weighted by its age (see Arm).
	Trials float64

	// Latency is the peak EWMA of lease times. It is 0 unless the strategy asks for it (see
	// Arm.Latency).
	Latency time.Duration

	// Draining says that the host is drained (see Service.Drain). It is empty once Open and Dialing
	// are 0. The score is then 0, and the counters are about the connections that are left.
	Draining bool

	// OtherRequests is how many requests of other clients the host had in flight when it last told
	// its load (see Conn.ReportLoad and Prober). It is 0 if that is unknown, or older than 10 s.
	OtherRequests int

	// Ejected says that the host takes no traffic until a probe connects. Either a dial of it
	// failed, or its leases failed more often than the leases of the other hosts (see
	// ServiceConfig.ConsecutiveFailures).
	Ejected bool

	// Cause is the error of the last dial that failed, or of the lease that ejected the host. It is
	// nil unless Ejected.
	Cause error

	// NextProbe is the time until the host is dialled again. It is 0 unless Ejected, and while a
	// probe is due or in flight.
	NextProbe time.Duration

	// Ejections is how often the host was ejected since it was added.
	Ejections uint64

	PoolStats
}

// MarshalJSON writes Cause as its message, because not every error can be encoded.
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
	// PoolStats are the totals. Counters include hosts that were removed. Open and InUse include
	// connections that are still leased there.
	PoolStats

	// Waiting is how many callers wait in the queue. Callers who wait for a dial of the host that
	// the strategy picked do not count.
	Waiting int

	// Shed is how many callers that had to wait got ErrOverloaded: MaxWaiting callers waited
	// already, or too little time was left. Calls of TryLease do not count.
	Shed uint64

	// Retries is how many times Do ran a function again, and how many retries Lease let pass.
	// RetriesRefused is how many were refused because the budget was spent.
	Retries, RetriesRefused uint64

	// Panic says that hosts have failed alike in the last two seconds. Meanwhile none is ejected
	// because of its leases.
	Panic bool

	// GetFailures is how many GetConn calls returned an error, calls of Lease and TryLease
	// included. Refused retries do not count.
	GetFailures uint64

	// Registered is how many hosts are registered, drained ones included. With MaxHosts, that may be
	// more than are in use.
	Registered int

	// Strategy is what the strategy's String method returns, or else its type.
	Strategy string

	// Hosts are the hosts in use, in no particular order: all registered hosts, or with MaxHosts
	// the subset. Drained hosts are among them.
	Hosts []HostStats
}
