package pooly

import "time"

// gate says whether a pool may start one more dial. It is guarded by Pool.mu. The zero value is
// open.
type gate struct {
	state gateState
	timer *time.Timer   // opens a paused gate; nil unless paused
	pause time.Duration // how long the last pause was; 0 after a dial has connected
	most  int           // dials in flight at once; 0: one, until the first dial connects
}

type gateState uint8

const (
	gateOpen gateState = iota

	// A dial takes longer than FallbackDelay: the host may swallow connection requests. The end of
	// any dial opens the gate.
	gateSilent

	// A dial failed, although the host serves (see Pool.hopesLocked). Time, a dial that connects,
	// or a connection that is closed opens the gate.
	gatePaused
)

func (g *gate) become(to gateState) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	g.state = to
}

// resume opens a paused gate.
func (g *gate) resume() {
	if g.state == gatePaused {
		g.become(gateOpen)
	}
}

// connected records a dial that connected. all is how many dials may be in flight at most. A host
// that was down gets its dials like TCP's slow start: each connected dial allows one more at a
// time. So the clients of a host that comes back do not overload it together.
func (g *gate) connected(all int) {
	if g.most == 0 {
		g.most = all
	}
	g.most = min(g.most+1, all)
	g.pause = 0
	g.resume()
}

// failed records that the host was down.
func (g *gate) failed() {
	g.most = min(g.most, 1)
}

// mayDialLocked reports whether one more dial may start.
func (p *Pool) mayDialLocked() bool {
	return p.open-p.apart < p.most() && p.allowed > 0 &&
		p.gate.state == gateOpen && p.dialing < max(1, p.gate.most)
}

// pauseDialsLocked lets no dial start for a while: RetryDelay at first, then twice as long each
// time, up to FallbackDelay, until a dial connects. So a server at its own limit of connections is
// not dialled for each lease that it serves.
func (p *Pool) pauseDialsLocked() {
	g := &p.gate
	if g.state == gateSilent {
		return
	}
	g.become(gatePaused)
	g.pause = max(p.config.RetryDelay, min(2*g.pause, p.patience))
	var t *time.Timer
	t = time.AfterFunc(g.pause, func() {
		p.mu.Lock()
		defer p.unlock()
		if g.timer == t {
			g.resume()
			p.settleLocked()
		}
	})
	g.timer = t
}
