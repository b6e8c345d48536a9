package pooly

import (
	"math"
	"sync/atomic"
	"time"
)

// latencyDecay is the time constant with which a latency peak is forgotten, Finagle's default for
// its peak EWMA.
const latencyDecay = 10 * time.Second

// How fast a loadCurve forgets.
const (
	curveMemory  = time.Second // the time constant with which leases lose weight
	curveMinKeep = 0.9         // each lease keeps at least this much of its weight at the next one
)

// loadCurve says how long a host's leases last, given how many are in use when they begin. A plain
// mean would send traffic to the wrong host: it is high for a host that was crowded and is empty
// now, and low for a host that is filling up.
//
// The curve is a line, latency = base + slope · leases in use, fitted by least squares to the
// leases that ended lately. While all of them began under the same load, they say little about the
// slope. Then the line leans towards a line through the origin: twice the leases take twice the
// time, as in any queue. Neither base nor slope is negative.
//
// latency is one atomic load and locks nothing. Leases are recorded only once a strategy has asked.
type loadCurve struct {
	line atomic.Uint64 // base and slope in nanoseconds, each a float32; 0 before the first lease

	// Guarded by Pool.mu. The sums are over the recorded leases, of which newer ones weigh more.
	at      time.Duration // of the last change
	fadedAt time.Duration // of the last refresh
	weight  float64       // Σ 1
	x, y    float64       // Σ load, Σ latency
	xx, xy  float64       // Σ load², Σ load·latency
}

// observeLocked records a lease that ends now and lasted elapsed. load is how many leases were in
// use when it began, including itself.
func (c *loadCurve) observeLocked(load int, elapsed, now time.Duration) {
	keep := max(curveMinKeep, math.Exp(-float64(now-c.at)/float64(curveMemory)))
	x, y := float64(load), float64(max(1, elapsed))
	c.at = now
	c.weight = keep*c.weight + 1
	c.x = keep*c.x + x
	c.y = keep*c.y + y
	c.xx = keep*c.xx + x*x
	c.xy = keep*c.xy + x*y
	c.fitLocked()
}

// fadeLocked lowers the curve of a host that was not used since the last refresh, so that the host
// is tried again.
func (c *loadCurve) fadeLocked(now time.Duration, keep float64) {
	used := c.at > c.fadedAt
	c.fadedAt = now
	if used {
		keep = 1
	}
	if !used {
		c.at = now
	}
	c.y *= keep
	c.xy *= keep
	c.fitLocked()
}

// fitLocked computes the line from the sums.
func (c *loadCurve) fitLocked() {
	meanX, meanY := c.x/c.weight, c.y/c.weight
	variance := c.xx/c.weight - meanX*meanX
	covariance := c.xy/c.weight - meanX*meanY
	throughOrigin := meanY / meanX
	// Pull the slope towards the line through the origin, as leases on that line would if their
	// loads had a variance of 1.
	slope := (covariance + throughOrigin) / (max(0, variance) + 1)
	slope = min(max(0, slope), throughOrigin)
	base := meanY - slope*meanX
	c.publish(base, slope)
}

// meanLocked returns the mean latency, whatever the load. There must have been a lease.
func (c *loadCurve) meanLocked() time.Duration {
	return max(1, time.Duration(c.y/c.weight))
}

// publish sets what strategies read.
func (c *loadCurve) publish(base, slope float64) {
	high, low := math.Float32bits(float32(base)), math.Float32bits(float32(slope))
	c.line.Store(uint64(high)<<32 | uint64(low))
}

// latency returns how long a lease should last if load leases are in use, including itself. It is 0
// if nothing is known.
func (c *loadCurve) latency(load int) time.Duration {
	line := c.line.Load()
	base, slope := math.Float32frombits(uint32(line>>32)), math.Float32frombits(uint32(line))
	return time.Duration(min(float64(base)+float64(slope)*float64(load), math.MaxInt64/2))
}
