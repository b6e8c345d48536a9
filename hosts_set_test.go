package pooly_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// inUse returns the addresses of the hosts in use, sorted.
func inUse(s *pooly.Service) []string {
	addresses := []string{}
	for _, h := range s.Stats().Hosts {
		addresses = append(addresses, h.Address)
	}
	slices.Sort(addresses)
	return addresses
}

func TestSetHostsIsInEffectWhenItReturnsAndKeepsPoolsOfHostsThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1})
		for _, a := range []string{"a", "b", "c"} {
			d.slow(a, time.Second) // it must not wait for dials
		}
		began := time.Now()
		s.SetHosts("a", "b", "a", "b", "b")
		require.Equal(t, []string{"a", "b"}, inUse(s))
		require.Zero(t, time.Since(began))
		time.Sleep(time.Second)
		synctest.Wait()
		held := get(t, s)
		stays, goes := held.Address(), "b"
		if stays == "b" {
			goes = "a"
		}
		s.SetHosts(stays, "c")
		require.Equal(t, slices.Sorted(slices.Values([]string{stays, "c"})), inUse(s))
		release(t, held)
		synctest.Wait()
		require.Equal(t, 1, d.host(stays).dials)
		require.Zero(t, d.host(stays).closed, "its pool is the same")
		require.Equal(t, 1, d.host(goes).closed)
		require.Equal(t, 1, d.host("c").dialing, "prespawned")

		s.SetHosts()
		require.Empty(t, inUse(s))
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.NoError(t, s.Close())
		s.SetHosts("a")
		require.Empty(t, s.Status())
	})
}

func TestSetHostsServesCallersThatWaitForAHostThatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		held := get(t, s)
		served := make(chan string)
		go func() {
			c, err := s.GetConn()
			if err != nil {
				served <- err.Error()
				return
			}
			_ = c.Release(nil, pooly.HostUp)
			served <- c.Address()
		}()
		synctest.Wait()
		s.SetHosts("b")
		require.Equal(t, "b", <-served)
		release(t, held)
	})
}

// A call must never find the hosts half changed: none of those before and none of those after.
func TestSetHostsIsOneChange(t *testing.T) {
	s, _ := newService(t, pooly.ServiceConfig{}, "a0")
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !done.Load() {
				if c, err := s.GetConn(); err != nil {
					t.Error(err)
					return
				} else if err := c.Release(nil, pooly.HostUp); err != nil {
					t.Error(err)
				}
				if n := len(s.Status()); n != 1 && n != 5 {
					t.Errorf("%d hosts", n)
				}
			}
		})
	}
	for i := range 300 {
		if i%2 == 0 {
			s.SetHosts("b1", "b2", "b3", "b4", "b5")
		} else {
			s.SetHosts("a" + strconv.Itoa(i))
		}
		runtime.Gosched()
	}
	done.Store(true)
	wg.Wait()
	require.Zero(t, s.Stats().InUse)
}

func TestSetHostsOfManyHostsMakesOneView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bandit := &countingBandit{Bandit: pooly.NewRoundRobin()}
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: bandit})
		addresses := make([]string, 10_000)
		for i := range addresses {
			addresses[i] = strconv.Itoa(i)
		}
		s.SetHosts(addresses...)
		release(t, get(t, s))
		s.SetHosts(addresses[5_000:]...)
		release(t, get(t, s))
		require.Len(t, s.Status(), 5_000)
		require.EqualValues(t, 2, bandit.made.Load())
	})
}

// Calls that find no view share the making of one.
func TestCallersAfterAChangeShareOneRebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowBandit{Bandit: pooly.NewRoundRobin()}
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: slow}, "a", "b")
		release(t, get(t, s))
		slow.made.Store(0)
		s.Add("c")
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { release(t, getApart(t, s)) })
		}
		wg.Wait()
		require.EqualValues(t, 1, slow.made.Load())
	})
}

type slowBandit struct {
	pooly.Bandit
	made atomic.Int32
}

func (b *slowBandit) NewPicker(arms []pooly.Arm) pooly.Picker {
	b.made.Add(1)
	time.Sleep(10 * time.Millisecond)
	return b.Bandit.NewPicker(arms)
}

func fleet(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		addresses[i] = fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255)
	}
	return addresses
}

func TestMaxHostsLimitsTheHostsInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1, MaxHosts: 5})
		hosts := fleet(100)
		for _, a := range hosts {
			s.Add(a)
		}
		for range 1000 {
			release(t, get(t, s))
		}
		synctest.Wait()
		in := inUse(s)
		require.Len(t, in, 5)
		require.Equal(t, 100, s.Stats().Registered)
		for _, a := range hosts {
			h := d.host(a)
			if slices.Contains(in, a) {
				require.Positive(t, h.open)
			} else {
				require.Zero(t, h.open)
			}
		}
		require.NoError(t, s.Close())
		require.Zero(t, s.Stats().Registered)
	})
}

// However the hosts were registered, the subset is the same; and of two clients it is not.
func TestMaxHostsDependsOnTheSeedAndTheHostsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := fleet(50)
		config := pooly.ServiceConfig{MaxHosts: 7, SubsetSeed: 42}
		atOnce, _ := newService(t, config)
		atOnce.SetHosts(hosts...)
		one, _ := newService(t, config)
		shuffled := slices.Clone(hosts)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for _, a := range shuffled {
			one.Add(a)
			one.Add("other " + a)
		}
		for _, a := range shuffled {
			one.Remove("other " + a)
			one.Remove("unknown " + a)
			one.Add(a) // again
		}
		require.Equal(t, inUse(atOnce), inUse(one))
		require.Equal(t, 50, one.Stats().Registered)

		config.SubsetSeed = 43
		other, _ := newService(t, config, hosts...)
		require.NotEqual(t, inUse(atOnce), inUse(other))
		config.SubsetSeed = 0
		random, _ := newService(t, config, hosts...)
		again, _ := newService(t, config, hosts...)
		require.NotEqual(t, inUse(random), inUse(again))
	})
}

func TestMaxHostsChangesLittleWhenHostsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := fleet(100)
		s, _ := newService(t, pooly.ServiceConfig{MaxHosts: 10, SubsetSeed: 1}, hosts...)
		before := inUse(s)
		for _, a := range hosts {
			s.Remove(a)
			after := inUse(s)
			require.Len(t, after, 10)
			kept := 0
			for _, b := range before {
				if slices.Contains(after, b) {
					kept++
				}
			}
			if slices.Contains(before, a) {
				require.Equal(t, 9, kept, "one for one")
			} else {
				require.Equal(t, before, after)
			}
			s.Add(a)
			require.Equal(t, before, inUse(s), "it comes back to its place")
		}
	})
}

func TestMaxHostsLetsMoreInIfTheWholeSubsetIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := fleet(100)
		s, d := newService(t, pooly.ServiceConfig{MaxHosts: 4, GetAttempts: 1}, hosts...)
		subset := inUse(s)
		d.refuse(subset...)
		c := get(t, s)
		require.NotContains(t, subset, c.Address())
		release(t, c)
		require.Len(t, inUse(s), 8)
		require.Subset(t, inUse(s), subset, "probed on")

		d.accept(subset[0])
		time.Sleep(30 * time.Second)
		require.Len(t, inUse(s), 8, "one of four would have to bear it all")
		d.accept(subset[1:]...)
		time.Sleep(30 * time.Second)
		require.Equal(t, subset, inUse(s))
		release(t, get(t, s))
	})
}

func TestMaxHostsDoesNotAskTheWholeFleetInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := fleet(100)
		s, d := newService(t, pooly.ServiceConfig{MaxHosts: 4}, hosts...)
		subset := inUse(s)
		d.refuse(hosts...)
		for range 10 {
			_, err := s.GetConn()
			require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		}
		require.Len(t, inUse(s), 16)
		d.accept(hosts...)
		time.Sleep(30 * time.Second)
		require.Equal(t, subset, inUse(s))

		few, d := newService(t, pooly.ServiceConfig{MaxHosts: 4}, hosts[:6]...)
		d.refuse(hosts...)
		_, err := few.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.Len(t, inUse(few), 6)
		few.SetHosts(hosts[10:20]...)
		d.accept(hosts...)
		release(t, get(t, few))
	})
}

func TestMaxHostsUnderLoadWithHostsThatComeAndGo(t *testing.T) {
	s, d := newService(t, pooly.ServiceConfig{MaxHosts: 3, GetAttempts: 5}, "stays")
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !done.Load() {
				if c, err := s.GetConn(); err == nil {
					_ = c.Release(nil, pooly.HostUp)
				}
			}
		})
	}
	for i := range 300 {
		a := strconv.Itoa(i % 20)
		switch i % 4 {
		case 0:
			d.refuse(a)
			s.Add(a)
		case 1:
			d.accept(a)
			s.Remove(a)
		case 2:
			s.SetHosts("stays", a, strconv.Itoa((i+7)%20), strconv.Itoa((i+9)%20))
		default:
			s.Add(a)
		}
		runtime.Gosched()
	}
	done.Store(true)
	wg.Wait()
	s.SetHosts("stays")
	release(t, get(t, s))
	require.Equal(t, []string{"stays"}, inUse(s))
	require.Zero(t, s.Stats().InUse)
}

func ExampleService_SetHosts() {
	s := pooly.NewService("search", &pooly.ServiceConfig{PrespawnConns: -1})
	defer s.Close()
	s.SetHosts("10.0.0.1:9200", "10.0.0.2:9200") // what discovery says now
	s.SetHosts("10.0.0.2:9200", "10.0.0.3:9200") // and later
	fmt.Println(inUse(s))
	// Output: [10.0.0.2:9200 10.0.0.3:9200]
}

// A rebuild that began before a change does not know of it.
func TestCallersAfterAChangeDoNotShareARebuildOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{
			BanditStrategy: &slowBandit{Bandit: pooly.NewRoundRobin()}, GetAttempts: 1,
		}, "a")
		go func() {
			if c, err := s.GetConn(); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}()
		synctest.Wait() // it is making a view
		s.SetHosts("b")
		c := get(t, s)
		require.Equal(t, "b", c.Address())
		release(t, c)
	})
}

// Both hosts are up all the time. A call that picked one as it was removed finds the other.
func TestGetConnFindsTheNewHostsWhileAllAreReplaced(t *testing.T) {
	for _, attempts := range []int{1, 3} {
		s, _ := newService(t, pooly.ServiceConfig{GetAttempts: attempts}, "a")
		var calling, swapping sync.WaitGroup
		var stop atomic.Bool
		swapping.Go(func() {
			for i := 1; !stop.Load(); i++ {
				s.SetHosts([]string{"a", "b"}[i%2])
				runtime.Gosched()
			}
		})
		for range 4 {
			calling.Go(func() {
				for range 500 {
					c, err := s.GetConn()
					if err != nil {
						t.Errorf("GetAttempts %d: %v", attempts, err)
						return
					}
					_ = c.Release(nil, pooly.HostUp)
				}
			})
		}
		calling.Wait()
		stop.Store(true)
		swapping.Wait()
	}
}
