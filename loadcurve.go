package pooly

import (
	"math"
	"sync/atomic"
	"time"
)

// How fast a loadCurve forgets: leases weigh less with this time constant, but where there are few of them, an
// older one weighs at least nine tenths of the next.
const (
	curveMemory  = time.Second
	curveMinKeep = 0.9
)

// loadCurve says how long a host's leases last, given how many are out when they begin. A plain mean cannot:
// it is high for a host that was crowded and is empty now, low for one that is being crowded, and so sends
// traffic to the wrong one.
//
// The curve is a line, latency = base + slope · leases out, fitted by least squares to the leases that ended
// lately. While they say little about the slope, because all began under the same load, it leans towards the line
// through the origin: twice the leases, twice the time, as in any queue. Neither base nor slope is negative.
//
// Reading is one atomic load. Recording takes about 20 ns, under the pool's lock, and only once a strategy has asked for it.
type loadCurve struct {
	line atomic.Uint64 // base and slope in nanoseconds, each a float32; 0 before the first lease

	// Guarded by Pool.mu; over the leases recorded, newer ones weighing more.
	at     time.Duration // when last changed
	weight float64       // Σ 1
	x, y   float64       // Σ load, Σ latency
	xx, xy float64       // Σ load², Σ load·latency
}

// observeLocked takes in a lease that ends now, lasted elapsed, and was one of load leases when it began.
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

// fadeLocked lets the curve of a host that is not used sink, with the same time constant as its Latency, so that
// it is tried again.
func (c *loadCurve) fadeLocked(now time.Duration) {
	keep := math.Exp(-float64(now-c.at) / float64(latencyDecay))
	c.at = now
	c.y *= keep
	c.xy *= keep
	c.fitLocked()
}

func (c *loadCurve) fitLocked() {
	meanX, meanY := c.x/c.weight, c.y/c.weight
	variance := c.xx/c.weight - meanX*meanX
	covariance := c.xy/c.weight - meanX*meanY
	throughOrigin := meanY / meanX
	slope := (covariance + throughOrigin) / (max(0, variance) + 1) // as if a load variance of 1 had shown the origin
	slope = min(max(0, slope), throughOrigin)
	base := meanY - slope*meanX
	c.line.Store(uint64(math.Float32bits(float32(base)))<<32 | uint64(math.Float32bits(float32(slope))))
}

// latency returns how long a lease should last that makes load leases out, 0 if nothing is known.
func (c *loadCurve) latency(load int) time.Duration {
	line := c.line.Load()
	base, slope := math.Float32frombits(uint32(line>>32)), math.Float32frombits(uint32(line))
	return time.Duration(min(float64(base)+float64(slope)*float64(load), math.MaxInt64/2))
}
