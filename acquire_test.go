package pooly_test

import (
	"testing"
	"testing/synctest"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A call that a host gave a dead connection asked that host again, whatever the strategy said by then.
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
