package pooly

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// bigDriver has connections that hold memory.
type bigDriver struct {
	stubDriver
	last weak.Pointer[[1 << 16]byte]
}

func (d *bigDriver) Dial(context.Context, string) (*Conn, error) {
	big := new([1 << 16]byte)
	d.last = weak.Make(big)
	return NewConn(big), nil
}

func TestPoolKeepsNothingOfAConnectionThatWasClosed(t *testing.T) {
	for name, idleTimeout := range map[string]time.Duration{"after a fatal error": 0, "after its idle timeout": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := new(bigDriver)
				p := NewPool("a", &PoolConfig{Driver: d, ConnIdleTimeout: idleTimeout})
				defer p.Close()
				use := func(outcome error) {
					c, err := p.Get()
					require.NoError(t, err)
					require.NoError(t, c.Release(outcome, HostUp))
				}
				use(nil)
				runtime.GC()
				require.NotNil(t, d.last.Value())
				if idleTimeout == 0 {
					use(context.DeadlineExceeded)
				}
				time.Sleep(time.Hour)
				require.Zero(t, p.Stats().Open)
				runtime.GC()
				require.Nil(t, d.last.Value())
			})
		})
	}
}
