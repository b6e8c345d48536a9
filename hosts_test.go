package pooly_test

import (
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func TestAddAndRemoveAreInEffectWhenTheyReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1})
		d.slow("a", time.Hour) // no Add or Remove may wait for a dial
		began := time.Now()
		s.Add("a")
		s.Add("b")
		s.Remove("a")
		for range 10 {
			c := get(t, s)
			require.Equal(t, "b", c.Address())
			release(t, c)
		}
		s.Add("c")
		s.Remove("b")
		for range 10 {
			c := get(t, s)
			require.Equal(t, "c", c.Address())
			release(t, c)
		}
		require.Zero(t, time.Since(began))
		require.Len(t, s.Status(), 1)
		synctest.Wait()
		require.Zero(t, d.host("a").dialing, "the dial in flight was called off")
		require.Zero(t, d.host("b").open)
	})
}

func TestRemoveLetsLeasesFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		idle, held := get(t, s), get(t, s)
		release(t, idle)
		s.Remove("a")
		synctest.Wait()
		require.True(t, fakeOf(idle).isClosed())
		require.False(t, fakeOf(held).isClosed())
		require.Equal(t, 1, s.Stats().InUse, "still counted")
		require.Empty(t, s.Stats().Hosts)

		s.Add("a") // again, while a lease of its former life is out
		again := get(t, s)
		release(t, held)
		synctest.Wait()
		require.True(t, fakeOf(held).isClosed())
		require.False(t, fakeOf(again).isClosed())
		release(t, again)
		require.Equal(t, 1, d.host("a").open)
		require.EqualValues(t, 3, s.Stats().Gets, "counters go on")
		require.EqualValues(t, 3, s.Stats().Puts)
	})
}

func TestAddOfAKnownAndRemoveOfAnUnknownAddressDoNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		c := get(t, s)
		s.Add("a")
		s.Remove("b")
		release(t, c)
		require.Len(t, s.Stats().Hosts, 1)
		require.Same(t, fakeOf(c), fakeOf(get(t, s)), "the pool is the same")
		require.Equal(t, 1, d.host("a").dials)
	})
}

func TestAddOfGarbageHarmsNoOther(t *testing.T) {
	for _, garbage := range []string{"", " ", "no port", ":::", "127.0.0.1:99999", "\x00\xff", "127.0.0.1:0"} {
		s := pooly.NewService("garbage", nil)
		s.Add(garbage)
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable, "%q", garbage)
		var failure *pooly.GetConnError
		require.ErrorAs(t, err, &failure)
		require.Equal(t, garbage, failure.Attempts[0].Address)
		require.NotEmpty(t, failure.Attempts[0].Err.Error())

		good := listen(t, echo)
		s.Add(good)
		for range 10 {
			c := get(t, s)
			require.Equal(t, good, c.Address())
			release(t, c)
		}
		require.NoError(t, s.Close())
	}
}

func TestHostsMayComeAndGoUnderLoad(t *testing.T) {
	s, d := newService(t, pooly.ServiceConfig{
		PrespawnConns:  2,
		BanditStrategy: pooly.NewSoftMax(0.1),
		PoolConfig:     pooly.PoolConfig{MaxConns: 2},
	}, "stays")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := s.GetConn()
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.Release(nil, pooly.HostUp); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 500 {
		address := strconv.Itoa(i % 10)
		if i%10 == 3 {
			d.refuse(address)
		}
		s.Add(address)
		runtime.Gosched()
		s.Remove(address)
	}
	close(stop)
	wg.Wait()
	stats := s.Stats()
	require.Equal(t, stats.Gets, stats.Puts)
	require.Zero(t, stats.InUse)
	require.NoError(t, s.Close())
	for i := range 10 {
		require.Zero(t, d.host(strconv.Itoa(i)).open)
	}
}

func TestStatusAndStatsTellTheConnectionsOfEachHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
		require.Equal(t, "test", s.Name())
		a, b, a2 := get(t, s), get(t, s), get(t, s)
		release(t, b)
		d.slow("b", time.Second)
		require.Equal(t, map[string]int32{"a": 2, "b": 1}, s.Status())
		stats := s.Stats()
		require.Len(t, stats.Hosts, 2)
		sum := 0
		for _, h := range stats.Hosts {
			require.Equal(t, h.Open, h.InUse+h.Idle)
			sum += h.Open
		}
		require.Equal(t, 3, sum)
		require.Equal(t, 3, stats.Open)
		require.Equal(t, 2, stats.InUse)
		require.Equal(t, 2, hostStats(t, s, "a").InUse)
		require.Equal(t, 1, hostStats(t, s, "b").Idle)
		require.EqualValues(t, 3, stats.Dials)
		release(t, a)
		release(t, a2)
		require.NoError(t, s.Close())
		require.Empty(t, s.Status())
		require.EqualValues(t, 3, s.Stats().Gets, "the totals outlive Close")
	})
}

// Every change of hosts makes the view stale; the next call makes one anew, so adding many costs no
// more each.
func TestAddAndRemoveOfManyHostsIsLinear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bandit := &countingBandit{Bandit: pooly.NewRoundRobin()}
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: bandit})
		for i := range 10_000 {
			s.Add(strconv.Itoa(i))
		}
		release(t, get(t, s))
		for i := range 9_999 {
			s.Remove(strconv.Itoa(i))
		}
		c := get(t, s)
		require.Equal(t, "9999", c.Address())
		release(t, c)
		require.EqualValues(t, 2, bandit.made.Load())
	})
}

func TestGetConnErrorTellsEachCause(t *testing.T) {
	s := pooly.NewService("netcat", nil)
	defer func() { require.NoError(t, s.Close()) }()
	refused := closedPort(t)
	s.Add(refused)
	s.Add("")
	_, err := s.GetConn()
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.ErrorContains(t, err, "pooly: service netcat: no host available: ")
	require.ErrorContains(t, err, refused+" (dial tcp "+refused+": connect: connection refused)")
	require.ErrorContains(t, err, `"" (dial tcp: missing address)`)
}
