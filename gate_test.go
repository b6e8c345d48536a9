package pooly

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func gateOf(p *Pool) gateState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gate.state
}

// pauseOf pauses a pool's dials and returns for how long.
func pauseOf(p *Pool) time.Duration {
	p.mu.Lock()
	p.pauseDialsLocked()
	p.mu.Unlock()
	began := time.Now()
	for gateOf(p) == gatePaused {
		time.Sleep(time.Millisecond)
		synctest.Wait()
	}
	return time.Since(began)
}

func TestPausesOfDialsDoubleUntilOneConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("a", &PoolConfig{Driver: stubDriver{}, RetryDelay: 30 * time.Millisecond})
		defer p.Close()
		for range 2 {
			for _, ms := range []time.Duration{30, 60, 120, 240, 250, 250} {
				require.Equal(t, ms*time.Millisecond, pauseOf(p))
			}
			p.mu.Lock()
			p.gate.connected(30)
			p.mu.Unlock()
		}
	})
}

func TestDialOrClosedConnectionEndsThePauseOfDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("a", &PoolConfig{Driver: stubDriver{}})
		defer p.Close()
		for _, end := range []func(*gate){(*gate).resume, func(g *gate) { g.connected(30) }} {
			p.mu.Lock()
			p.pauseDialsLocked()
			require.False(t, p.mayDialLocked())
			end(&p.gate)
			require.True(t, p.mayDialLocked())
			p.mu.Unlock()
		}
		p.mu.Lock()
		p.pauseDialsLocked()
		p.gate.resume()
		p.pauseDialsLocked() // for twice as long
		p.mu.Unlock()
		time.Sleep(p.config.RetryDelay * 3 / 2)
		require.Equal(t, gatePaused, gateOf(p), "the timer of the first pause must not end the second")
		time.Sleep(p.config.RetryDelay)
		require.Equal(t, gateOpen, gateOf(p))
	})
}

// A host that swallows connection requests is not dialled again because time passes.
func TestSilentHostIsNotDialledUntilADialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("a", &PoolConfig{Driver: stubDriver{}})
		defer p.Close()
		p.mu.Lock()
		p.gate.become(gateSilent)
		p.pauseDialsLocked()
		p.gate.resume()
		require.False(t, p.mayDialLocked())
		p.mu.Unlock()
		time.Sleep(time.Minute)
		require.Equal(t, gateSilent, gateOf(p))
		p.mu.Lock()
		p.startDialLocked(&dial{})
		p.mu.Unlock()
		synctest.Wait()
		require.Equal(t, gateOpen, gateOf(p))
	})
}

func TestDialsAtOnceAreOneAtFirstThenAllThenFewAfterAFailure(t *testing.T) {
	var g gate
	p := &Pool{group: new(group), allowed: 4}
	p.maxConns.Store(4)
	atOnce := func() (n int) {
		p.gate, p.dialing = g, 0
		for p.mayDialLocked() {
			p.dialing++
			n++
			require.LessOrEqual(t, n, 4)
		}
		return n
	}
	require.Equal(t, 1, atOnce())
	g.failed()
	require.Equal(t, 1, atOnce())
	g.connected(4)
	require.Equal(t, 4, atOnce(), "it was never down")
	g.failed()
	for _, n := range []int{1, 2, 3, 4, 4} {
		require.Equal(t, n, atOnce())
		g.connected(4)
	}
}
