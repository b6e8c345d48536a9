package pooly

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// Waiters of Do that avoid a host stood before all others there, and each pair at it looked at
// every one of them.
func TestManyWaitersThatAvoidAHostDoNotSlowItDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(newClock(), 0)
		avoided, other := new(line), new(line)
		push := func(avoid ...*line) *waiter {
			w := q.spare.Get().(*waiter)
			w.avoid, w.deadline = avoid, forever
			require.NoError(t, q.push(w, false))
			return w
		}
		pick := func(p *line) *waiter {
			q.mu.Lock()
			defer q.mu.Unlock()
			return q.pickLocked(p)
		}
		var first *waiter
		for n := range skipMost {
			w := push(avoided)
			if n == 0 {
				first = w
			}
			require.Nil(t, pick(avoided), "few are spared")
		}
		open := push()
		require.Same(t, open, pick(avoided), "who does not mind is found behind a few")
		require.Same(t, first, pick(other))
		q.mu.Lock()
		open.line.remove(open)
		q.mu.Unlock()
		for range 10_000 {
			push(avoided)
		}
		push()
		require.Same(t, first, pick(avoided), "it looks no further than at a few")
	})
}
