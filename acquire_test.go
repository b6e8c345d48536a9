package pooly_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A call that a host gave a dead connection asked that host again, whatever the strategy said by
// then.
func TestGetConnThatWasGivenADeadConnectionFollowsTheStrategyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
		held := []*pooly.Conn{get(t, s), get(t, s)}
		d.test = func(*fakeConn) error { return errDead } // a second new connection is not tested
		held = append(held, get(t, s))
		require.Equal(t, 2, d.host("a").dials)
		require.Equal(t, 2, d.host("b").dials, "round-robin")
		for _, c := range held {
			release(t, c)
		}
	})
}

// Of the connections that were dialled for a call, all but the first are given to it untested; but
// only these.
func TestUsedConnectionThatDiedIsNotHandedToACallWhoseDialWasVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1, PoolConfig: pooly.PoolConfig{MaxConns: 2}})
		s.Add("a")
		synctest.Wait()
		used := get(t, s)
		first := used.Interface().(*fakeConn)
		d.test = func(c *fakeConn) error {
			if c != first && c.id == 1 {
				return errDead
			}
			return nil
		}
		d.slow("a", 100*time.Millisecond)
		got := make(chan *pooly.Conn, 1)
		go func() {
			c, _ := s.GetConn()
			got <- c
		}()
		time.Sleep(150 * time.Millisecond) // its first dial was in vain, its second goes on
		first.die()
		release(t, used)
		c := <-got
		require.NotNil(t, c)
		require.NotSame(t, first, c.Interface())
		release(t, c)
	})
}
