package pooly_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A dial for DialContext serves nobody else: a caller that counted on it would wait in vain.
func TestGetConnBesideADialForDialContextIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := slowPipes(time.Millisecond * 100)
		s := pooly.NewService("mixed", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: ours}, PrespawnConns: -1,
		})
		defer s.Close()
		s.Add("a")
		go func() {
			c, err := s.DialContext(t.Context(), "", "")
			if err == nil {
				defer c.Close()
			}
			time.Sleep(time.Minute)
		}()
		time.Sleep(10 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := s.GetConnContext(ctx)
		require.NoError(t, err)
		release(t, c)
		time.Sleep(2 * time.Minute)
	})
}

// slowPipes returns a driver whose dials take some time.
func slowPipes(delay time.Duration) pooly.Driver {
	d := pooly.NewNetDriver("tcp")
	d.SetDialContext(func(ctx context.Context, network, address string) (net.Conn, error) {
		time.Sleep(delay)
		a, _ := net.Pipe()
		return a, nil
	})
	return d
}
