package poolytest_test

import (
	"sync"
	"testing"
	"testing/synctest"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolytest"
	"github.com/stretchr/testify/require"
)

func newService(
	t *testing.T, n *poolytest.Net, strategy pooly.Bandit, addresses ...string,
) *pooly.Service {
	t.Helper()
	s := pooly.NewService("test", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: n.Driver()},
		PrespawnConns:  -1,
		BanditStrategy: strategy,
	})
	t.Cleanup(func() { _ = s.Close() })
	s.SetHosts(addresses...)
	return s
}

func lease(t *testing.T, s *pooly.Service) string {
	t.Helper()
	c, err := s.GetConn()
	require.NoError(t, err)
	require.NoError(t, c.Release(nil, pooly.HostUp))
	return c.Address()
}

func TestScriptDecidesWhoServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		script := poolytest.Script("b", "a", "b")
		s := newService(t, n, script, "a", "b", "c")
		var got []string
		for range 6 {
			got = append(got, lease(t, s))
		}
		want := []string{"b", "a", "b", "b", "a", "b"}
		require.Equal(t, want, got)
		require.Equal(t, want, script.Picks())
		require.Len(t, script.Arms(), 3)

		s.Remove("b")
		require.Equal(t, "a", lease(t, s), "b cannot be picked")
		s.Remove("a")
		require.Equal(t, "c", lease(t, s), "nobody of the script is left")
		arms := script.Arms()
		require.Len(t, arms, 1)
		require.Equal(t, "c", arms[0].Address)
	})
	require.Panics(t, func() { poolytest.Script() })
}

func TestRecordPicksAsTheOtherStrategyDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		record := poolytest.Record(pooly.NewRoundRobin())
		s := newService(t, n, record, "a", "b")
		first, second := lease(t, s), lease(t, s)
		require.NotEqual(t, first, second)
		require.Equal(t, []string{first, second}, record.Picks())
		require.Len(t, record.Arms(), 2)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if c, err := s.GetConn(); err == nil {
					_ = c.Release(nil, pooly.HostUp)
				}
			})
		}
		wg.Wait()
		require.Len(t, record.Picks(), 12)
	})
	require.Panics(t, func() { poolytest.Record(nil) })
	require.Nil(t, poolytest.Record(idler{}).NewPicker(nil), "the error is the strategy's own")
}

// idler is a strategy that returns no picker.
type idler struct{}

func (idler) NewPicker([]pooly.Arm) pooly.Picker { return nil }
