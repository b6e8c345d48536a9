package poolyhttp

import "time"

// Known returns how many hosts a driver remembers.
func (d *Driver) Known() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.hosts)
}

// Hedge estimates when to send a second copy.
type Hedge struct{ *hedge }

func NewHedge() Hedge                       { return Hedge{newHedge(HedgeAtP95)} }
func (h Hedge) Learn(elapsed time.Duration) { h.learn(elapsed, true) }
func (h Hedge) Estimate() time.Duration     { return h.delay() }
