package pooly

import (
	"math/rand/v2"
	"time"
)

// How a pool keeps MinIdle connections. The reaper looks once a second, and more often while
// connections are missing. Each look may begin one dial.

const (
	fillLook  = time.Second            // between two looks at pools that lack nothing
	fillRest  = 200 * time.Millisecond // between two dials of a pool, at most
	fillPause = 10 * time.Second       // after a dial that failed
	fillLead  = 10 * time.Second       // how early connections that expire are replaced
	fillShare = 8                      // the lead is at most this part of what connections live

	// fillJitter is the largest share by which fillRest is shortened at random.
	fillJitter = 0.5
)

// fillLocked starts a dial if too few connections are idle. It returns when to look again, or
// forever if that can wait until the reaper's next round.
func (p *Pool) fillLocked(now time.Duration) (next time.Duration) {
	switch {
	case p.config.MinIdle == 0 || p.direct.Load() || p.missingLocked(now) <= 0:
		return forever
	case now < p.fillAt:
		return p.fillAt
	case p.dialing > 0 || !p.mayDialLocked():
		return forever // a dial that connects asks for a look, see watchLocked
	case p.limiter.limit > 0:
		return forever // requests time out: handshakes would add to the load
	case p.dialErr != nil && now-p.failedAt < fillPause:
		return forever // the server may be at its own limit of connections
	}
	p.fillAt = later(now, shortened(fillRest, fillJitter))
	p.startDialLocked(&dial{})
	return p.fillAt
}

// missingLocked returns how many idle connections are missing. A connection that expires soon does
// not count, so that its replacement is there before.
func (p *Pool) missingLocked(now time.Duration) int {
	idle := p.idle.length + p.borrowed
	if p.config.MaxIdle > 0 && idle >= p.config.MaxIdle {
		return 0
	}
	if p.ages {
		lead := fillLead
		for _, age := range [...]time.Duration{p.config.ConnIdleTimeout, p.config.MaxConnLifetime} {
			if age > 0 {
				lead = min(lead, age/fillShare)
			}
		}
		for c := range p.idle.all() {
			if p.expiry(c) <= later(now, lead) {
				idle--
			}
		}
	}
	return p.config.MinIdle - idle
}

// shortened returns d, less up to a share of it at random.
func shortened(d time.Duration, share float64) time.Duration {
	return d - time.Duration(share*rand.Float64()*float64(d))
}
