package pooly

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Load is what a host says of itself, see Conn.ReportLoad and Prober.
type Load struct {
	// InFlight is how many requests the host works on or has in line now, from all its clients.
	InFlight int
}

// mostInFlight stands for any larger number of requests, so that sums with it do not overflow.
const mostInFlight = 1 << 30

func (l Load) validate() error {
	if l.InFlight < 0 {
		return negative("Load.InFlight", l.InFlight)
	}
	return nil
}

// loadReport is what a host last said of its load. Its fields may be of two reports for an instant,
// which does no harm. The zero value stands for no report.
type loadReport struct {
	at     atomic.Int64 // by the pool's clock; 0: there is none
	others atomic.Int32 // requests in flight of other clients
}

// set records a report. own is how many of the requests are this service's.
func (r *loadReport) set(l Load, own int, now time.Duration) {
	r.others.Store(int32(min(max(0, l.InFlight-own), mostInFlight)))
	r.at.Store(int64(now))
}

// How long a report counts.
const (
	reportAges = 4 // times the host's mean latency is the time constant with which it loses weight
	reportEnds = 10 * time.Second
)

// isNew reports whether there is a report that still counts.
func (r *loadReport) isNew(now time.Duration) bool {
	at := time.Duration(r.at.Load())
	return at != 0 && now-at < reportEnds
}

// known returns how many requests of other clients there are, 0 if that is unknown.
func (r *loadReport) known(now time.Duration) int {
	if !r.isNew(now) {
		return 0
	}
	return int(r.others.Load())
}

// weight returns how much a report tells of the load now, in [0, 1]. latency is the host's. In
// about that time the host has answered the requests that the report counted.
func (r *loadReport) weight(latency, now time.Duration) float64 {
	if latency <= 0 || !r.isNew(now) {
		return 0
	}
	age := max(0, now-time.Duration(r.at.Load()))
	return math.Exp(-float64(age) / (reportAges * float64(latency)))
}

// ReportLoad tells how loaded the host of a lease is, by its own account. [LeastLatency] uses it.
// Call it before Release, when a reply says how many requests the host has in flight. The number
// includes the request that is answered.
//
// A report is worth most while it is fresh. With many clients, each client gets few replies of one
// host, and its last report is old. See [Prober] for the remedy.
//
// ReportLoad locks nothing. It may be called concurrently, and at any time in a lease. After the
// lease it does no harm. It returns ErrInvalidArg if the number is negative. A Pool used alone
// makes no use of reports.
func (c *Conn) ReportLoad(l Load) error {
	if c.conn == nil || c.conn.pool == nil {
		return fmt.Errorf("%w: ReportLoad of a Conn that came from no pool", ErrInvalidArg)
	}
	if err := l.validate(); err != nil {
		return err
	}
	if h := hostOf(c); h != nil {
		h.reported(l)
	}
	return nil
}

// reported records what the host says of its load.
func (h *host) reported(l Load) {
	own := h.load.Load() - h.line.length.Load()
	h.report.set(l, int(own), h.clock.now())
}

// probeEvery is the pause after each probe of a host.
const probeEvery = 10 * time.Millisecond

// probing bounds the probes of one host: one at a time, and a pause after each. The zero value is
// ready for use.
type probing struct {
	next atomic.Int64 // when the next may begin, by the pool's clock
}

// begin reports whether a probe may begin, and has it begin then.
func (p *probing) begin(now time.Duration) bool {
	next := p.next.Load()
	return time.Duration(next) <= now && p.next.CompareAndSwap(next, int64(forever))
}

func (p *probing) end(now time.Duration) {
	p.next.Store(int64(now + probeEvery))
}
