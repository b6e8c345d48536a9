package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// limited is a fake network whose hosts refuse more connections than most.
func limited(most int) *rogueDriver {
	fake := newFakeDriver()
	return &rogueDriver{Driver: fake, dial: func(ctx context.Context, address string) (*pooly.Conn, error) {
		if fake.host(address).open >= most {
			return nil, syscall.ECONNREFUSED
		}
		return fake.Dial(ctx, address)
	}}
}

// A server at its own limit of connections refuses new ones, and serves those that it has.
func TestHostAtItsOwnLimitOfConnectionsServesItsCallers(t *testing.T) {
	for _, hosts := range []int{0, 1, 2} { // 0: a Pool used alone
		t.Run(fmt.Sprint(hosts), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := pooly.PoolConfig{Driver: limited(3), MaxConns: 10}
				get, closeIt := (func() (*pooly.Conn, error))(nil), (func() error)(nil)
				var s *pooly.Service
				if hosts == 0 {
					p := pooly.NewPool("h0", &config)
					get, closeIt = p.Get, p.Close
				} else {
					s = pooly.NewService("test", &pooly.ServiceConfig{PoolConfig: config})
					s.SetHosts(names(hosts)...)
					get, closeIt = s.GetConn, s.Close
				}
				var wg sync.WaitGroup
				var failed atomic.Int32
				for range 20 {
					wg.Go(func() {
						for range 100 {
							c, err := get()
							if err != nil {
								failed.Add(1)
								continue
							}
							time.Sleep(10 * time.Millisecond)
							_ = c.Release(nil, pooly.HostUp)
						}
					})
				}
				wg.Wait()
				require.Zero(t, failed.Load())
				if s != nil {
					for _, h := range s.Stats().Hosts {
						require.Zero(t, h.Ejections)
					}
				}
				require.NoError(t, closeIt())
			})
		})
	}
}

// Each lease that ended well once made the next dials come 10 ms apart again: three dials for each
// request.
func TestServerAtItsOwnLimitIsNotDialledForEachLeaseThatItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := limited(1)
		var dials atomic.Int32
		dial := d.dial
		d.dial = func(ctx context.Context, address string) (*pooly.Conn, error) {
			dials.Add(1)
			return dial(ctx, address)
		}
		s := pooly.NewService("test", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}})
		s.Add("a")
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for range 20 {
					c, err := s.GetConn()
					if err != nil {
						t.Error(err)
						return
					}
					time.Sleep(50 * time.Millisecond)
					_ = c.Release(nil, pooly.HostUp)
				}
			})
		}
		wg.Wait()
		require.Less(t, dials.Load(), int32(60), "of 200 requests in ten seconds")
		require.NoError(t, s.Close())
	})
}

// Leases that do not end for longer than FallbackDelay give no hope. The first that does end
// restores the host.
func TestLeaseThatEndsWellRestoresAHostWhoseDialsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour, GetAttempts: 1 << 30,
		}, "a")
		held := get(t, s)
		d.refuse("a")
		served := make(chan *pooly.Conn, 1)
		go func() {
			c, err := s.GetConn()
			if err != nil {
				t.Error(err)
			}
			served <- c
		}()
		time.Sleep(pooly.DefaultFallbackDelay - 50*time.Millisecond)
		require.False(t, hostStats(t, s, "a").Ejected)
		time.Sleep(pooly.DefaultFallbackDelay)
		require.True(t, hostStats(t, s, "a").Ejected)
		require.Positive(t, hostStats(t, s, "a").NextProbe)
		release(t, held)
		require.False(t, hostStats(t, s, "a").Ejected)
		require.Zero(t, hostStats(t, s, "a").NextProbe)
		c := <-served
		require.Same(t, fakeOf(held), fakeOf(c))
		release(t, c)
	})
}

// A client without file descriptors must not blame its hosts, and needs its idle connections more
// than ever.
func TestWantOfDescriptorsTellsNothingOfTheHost(t *testing.T) {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM,
	} {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
			d.on("b", func(h *fakeHost) { h.err = fmt.Errorf("dial: %w", errno) })
			for range 4 {
				release(t, get(t, s))
			}
			time.Sleep(time.Minute)
			require.True(t, hostStats(t, s, "b").Ejected)
			at := d.host("b").at
			require.LessOrEqual(t, at[len(at)-1].Sub(at[len(at)-2]), pooly.DefaultBaseEjectionTime, "no setback")
			d.accept("b")
			time.Sleep(pooly.DefaultBaseEjectionTime)
			require.False(t, hostStats(t, s, "b").Ejected)
			release(t, get(t, s))
			release(t, get(t, s))

			idle(t, s, 6)
			for _, address := range []string{"a", "b"} {
				d.on(address, func(h *fakeHost) { h.err = errno })
			}
			var leases []*pooly.Conn
			for range 6 {
				leases = append(leases, get(t, s))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for range 3 {
				release(t, leases[0])
				leases = leases[1:]
			}
			more := make(chan error, 8)
			for range 8 { // for more than there are
				go func() {
					c, err := s.GetConnContext(ctx)
					if err == nil {
						time.Sleep(10 * time.Millisecond)
						err = c.Release(nil, pooly.HostUp)
					}
					more <- err
				}()
			}
			for range 8 {
				require.NoError(t, <-more)
			}
			require.Equal(t, 6, s.Stats().Open)
			for _, c := range leases {
				release(t, c)
			}
		})
	}
}

// A dial that fails for want of descriptors ends when all that was leased is idle again.
func TestWantOfDescriptorsClosesNoIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		c := get(t, s)
		d.on("a", func(h *fakeHost) { h.delay, h.err = 100*time.Millisecond, syscall.EMFILE })
		served := make(chan struct{})
		go func() {
			defer close(served)
			if c, err := s.GetConn(); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
		}()
		synctest.Wait()
		release(t, c)
		<-served
		time.Sleep(time.Second)
		require.False(t, hostStats(t, s, "a").Ejected)
		require.EqualValues(t, 1, s.Stats().Failures)
		again := get(t, s)
		require.Same(t, fakeOf(c), fakeOf(again))
		release(t, again)
	})
}

// Those who wait at a black hole for longest must not be forgotten for the dials of those who came
// later.
func TestWaitersOfAPoolAtABlackHoleLearnOfItTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{ConnRetries: 1, DialTimeout: 10 * time.Second})
		held, err := p.Get()
		require.NoError(t, err)
		d.slow("a", time.Hour)
		began := time.Now()
		const callers = 5
		ended := make(chan time.Duration, callers)
		errs := make(chan error, callers)
		for range callers {
			go func() {
				_, err := p.Get()
				errs <- err
				ended <- time.Since(began)
			}()
			time.Sleep(time.Second)
		}
		for range callers {
			err := <-errs
			require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 14*time.Second, <-ended, "when the last of their dials has failed")
		}
		require.Equal(t, 1+callers, d.host("a").dials)
		release(t, held)
		c, err := p.Get()
		require.NoError(t, err)
		require.Same(t, fakeOf(held), fakeOf(c))
		release(t, c)
	})
}

// What waits for a dial is load, or a strategy that weighs load sends a rush to the host that is
// slow to connect.
func TestDialCountsAsLoad(t *testing.T) {
	for name, strategy := range map[string]func() pooly.Bandit{
		"P2C":          func() pooly.Bandit { return pooly.NewPowerOfTwo() },
		"peak EWMA":    func() pooly.Bandit { return pooly.NewPeakEWMA(2) },
		"hot and cold": func() pooly.Bandit { return pooly.NewHotCold(5, 0.84) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{BanditStrategy: strategy()}, "slow", "fast")
				for range 100 {
					c := get(t, s)
					time.Sleep(20 * time.Millisecond)
					release(t, c)
				}
				before := hostStats(t, s, "slow").Gets
				d.slow("slow", 200*time.Millisecond)
				var wg sync.WaitGroup
				for range 40 {
					wg.Go(func() {
						c, err := s.GetConn()
						if err != nil {
							t.Error(err)
							return
						}
						time.Sleep(20 * time.Millisecond)
						_ = c.Release(nil, pooly.HostUp)
					})
					synctest.Wait() // so that each sees the load of those before
				}
				wg.Wait()
				require.LessOrEqual(t, int(hostStats(t, s, "slow").Gets-before), 24, "of 40")
			})
		})
	}
}

// A host that is at its limit and whose leases all fail is no host that is at its limit.
func TestHostWhoseLeasesFailGivesNoHope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"a", "b"}}, "a", "b")
		held := get(t, s)
		require.Equal(t, "a", held.Address())
		d.refuse("a")
		require.NoError(t, held.Release(errFatal, pooly.HostDown))
		c := get(t, s)
		require.Equal(t, "b", c.Address())
		require.True(t, hostStats(t, s, "a").Ejected)
		require.True(t, errors.Is(hostStats(t, s, "a").Cause, syscall.ECONNREFUSED))
		release(t, c)
	})
}

// Each try has its own DialTimeout. All of them together once had one, and then the driver was
// blamed.
func TestPoolAloneAtABlackHoleTriesAsOftenAsItSaysAndNamesTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, d := newPool(t, pooly.PoolConfig{DialTimeout: 10 * time.Second, ConnRetries: 3})
		d.slow(p.Address(), time.Hour)
		began := time.Now()
		_, err := p.Get()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3, d.host(p.Address()).dials)
		require.Equal(t, 30*time.Second+2*pooly.DefaultRetryDelay, time.Since(began))
	})
}
