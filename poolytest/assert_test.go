package poolytest_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolytest"
	"github.com/stretchr/testify/require"
)

// failures is a test that notes how it fails.
type failures []string

func (f *failures) Helper() {}
func (f *failures) Errorf(format string, args ...any) {
	*f = append(*f, fmt.Sprintf(format, args...))
}

func TestNoLeasesNamesTheHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, poolytest.NewNet(), poolytest.Script("a", "b", "b"), "a", "b")
		poolytest.NoLeases(t, s)
		var leases []*pooly.Conn
		for range 3 {
			c, err := s.GetConn()
			require.NoError(t, err)
			leases = append(leases, c)
		}
		var f failures
		poolytest.NoLeases(&f, s)
		require.Equal(t, failures{"service test: 3 leases are out, 1 of a, 2 of b"}, f)
		s.Remove("a")
		f = nil
		poolytest.NoLeases(&f, s)
		require.Equal(t, failures{"service test: 3 leases are out, 2 of b, 1 of removed hosts"}, f)
		for _, c := range leases {
			require.NoError(t, c.Release(nil, pooly.HostUp))
		}
		poolytest.NoLeases(t, s)
	})
}

func TestNoConnsNamesTheHosts(t *testing.T) {
	n := poolytest.NewNet()
	poolytest.NoConns(t, n)
	b, a := dial(t, n, "b"), dial(t, n, "a")
	dial(t, n, "a")
	n.Reset("a")
	var f failures
	poolytest.NoConns(&f, n)
	require.Equal(t, failures{"2 connections to a are open", "1 connections to b are open"}, f)
	require.NoError(t, a.Close())
	require.NoError(t, b.Close())
	f = nil
	poolytest.NoConns(&f, n)
	require.Equal(t, failures{"1 connections to a are open"}, f)
}
