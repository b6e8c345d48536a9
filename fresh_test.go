package pooly_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// Of the connections that were dialled for a call, all but the first are given to it untested; but only these.
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
