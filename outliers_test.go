package pooly_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// servers are hosts that serve some requests at a time, each in the order of its coming.
type servers struct {
	slots map[string]chan struct{}
	work  atomic.Int64 // nanoseconds that a request takes
}

func newServers(slots int, work time.Duration, addresses ...string) *servers {
	v := &servers{slots: make(map[string]chan struct{})}
	for _, a := range addresses {
		v.slots[a] = make(chan struct{}, slots)
	}
	v.work.Store(int64(work))
	return v
}

// serve does a request. The server goes on with what it has begun when the client gives up.
func (v *servers) serve(ctx context.Context, c *pooly.Conn) error {
	slot := v.slots[c.Address()]
	select {
	case slot <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	work := time.Duration(v.work.Load())
	done := make(chan struct{})
	go func() {
		time.Sleep(work)
		<-slot
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func names(n int) (addresses []string) {
	for i := range n {
		addresses = append(addresses, fmt.Sprint("h", i))
	}
	return addresses
}

// All hosts become slow for a while. When they are well again, so is the service, and meanwhile it
// does what they can.
func TestBrownOutDoesNotOutliveItsCause(t *testing.T) {
	for _, tt := range []struct {
		name     string
		slots    int
		work     time.Duration
		load     float64
		slower   int
		maxConns int
		parts    bool // GetConn and Release instead of Do
	}{
		{"a long queue at the host", 4, 20 * time.Millisecond, 0.7, 2, 30, false},
		{"few connections", 4, 20 * time.Millisecond, 0.4, 3, 4, false},
		{"GetConn and Release", 4, 20 * time.Millisecond, 0.5, 3, 16, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const hosts = 4
				addresses := names(hosts)
				v := newServers(tt.slots, tt.work, addresses...)
				s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: tt.maxConns}}, addresses...)
				rate := tt.load * float64(hosts*tt.slots) / tt.work.Seconds()
				rng := rand.New(rand.NewPCG(1, 2))
				var wg sync.WaitGroup
				phase := func(lasting time.Duration) (share func() float64) {
					var all, good atomic.Int64
					began := time.Now()
					for next := began; time.Since(began) < lasting; {
						next = next.Add(time.Duration(rng.ExpFloat64() / rate * float64(time.Second)))
						time.Sleep(time.Until(next))
						all.Add(1)
						wg.Go(func() {
							ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
							defer cancel()
							var err error
							if tt.parts {
								var c *pooly.Conn
								if c, err = s.GetConnContext(ctx); err == nil {
									err = v.serve(ctx, c)
									_ = c.Release(err, pooly.HostUp)
								}
							} else {
								err = s.Do(ctx, func(c *pooly.Conn) error { return v.serve(ctx, c) })
							}
							if err == nil {
								good.Add(1)
							}
						})
					}
					return func() float64 { return float64(good.Load()) / float64(all.Load()) }
				}
				before := phase(2 * time.Second)
				v.work.Store(int64(tt.work) * int64(tt.slower))
				phase(time.Second)
				during := phase(3 * time.Second)
				v.work.Store(int64(tt.work))
				phase(2 * time.Second)
				after := phase(5 * time.Second)
				wg.Wait()
				possible := min(1, 1/(tt.load*float64(tt.slower)))
				require.Greater(t, before(), 0.99)
				require.Greater(t, after(), 0.99)
				require.Greater(t, during(), 0.85*possible)
				dials := 0
				for _, a := range addresses {
					dials += d.host(a).dials
					require.LessOrEqual(t, hostStats(t, s, a).Ejections, uint64(2), a)
				}
				require.Less(t, float64(dials), 0.1*rate*13)
			})
		})
	}
}

// Half of the requests are wrong, and fail wherever they are sent.
func TestCallersMistakesEjectNobody(t *testing.T) {
	for _, hosts := range []int{2, 3, 10} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{}, names(hosts)...)
			rng := rand.New(rand.NewPCG(3, 4))
			for range 10_000 {
				outcome := error(nil)
				if rng.IntN(2) == 0 {
					outcome = errFatal
				}
				c := get(t, s)
				time.Sleep(time.Millisecond)
				require.NoError(t, c.Release(outcome, pooly.HostUp))
			}
			for _, h := range s.Stats().Hosts {
				require.Zero(t, h.Ejections, "%d hosts", hosts)
			}
		})
	}
}

func TestHostsThatFailEverythingAreEjectedWhileOthersDoNot(t *testing.T) {
	for _, tt := range []struct{ hosts, failing int }{{2, 1}, {3, 1}, {3, 2}, {10, 7}} {
		synctest.Test(t, func(t *testing.T) {
			s, _ := newService(t, pooly.ServiceConfig{}, names(tt.hosts)...)
			bad := make(map[string]bool)
			for _, a := range names(tt.failing) {
				bad[a] = true
			}
			failed := 0
			for i := range 6000 {
				c := get(t, s)
				time.Sleep(time.Millisecond)
				if bad[c.Address()] {
					require.NoError(t, c.Release(errFatal, pooly.HostUp))
					if i >= 2000 {
						failed++
					}
				} else {
					release(t, c)
				}
			}
			require.Less(t, failed, 200, "of 4000, %d of %d fail", tt.failing, tt.hosts)
			for _, h := range s.Stats().Hosts {
				require.Equal(t, bad[h.Address], h.Ejections > 0, h.Address)
			}
		})
	}
}

// In a brown-out leases time out in bursts, here all of one host at once. That is more than five in
// a row, and tells no more than one.
func TestBurstOfTimeoutsInABrownOutEjectsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, names(3)...)
		rng := rand.New(rand.NewPCG(5, 6))
		for range 5000 { // a third of the leases of each host fails
			c := get(t, s)
			time.Sleep(time.Millisecond)
			outcome := error(nil)
			if rng.IntN(3) == 0 {
				outcome = errFatal
			}
			require.NoError(t, c.Release(outcome, pooly.HostUp))
		}
		leases := make(map[string][]*pooly.Conn)
		for range 60 {
			c := get(t, s)
			leases[c.Address()] = append(leases[c.Address()], c)
		}
		for _, c := range leases["h1"] {
			require.NoError(t, c.Release(context.DeadlineExceeded, pooly.HostUp))
		}
		require.Zero(t, hostStats(t, s, "h1").Ejections)
		for _, a := range []string{"h0", "h2"} {
			for _, c := range leases[a] {
				release(t, c)
			}
		}
	})
}

// Of what was ejected before all hosts failed, none is worse than what is left.
func TestHostsEjectedForTheirRepliesComeBackWhenTheRestFailsAlike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour}, names(5)...)
		bad := map[string]bool{"h0": true, "h1": true, "h2": true}
		use := func(lasting time.Duration) {
			for end := time.Now().Add(lasting); time.Now().Before(end); time.Sleep(time.Millisecond) {
				c := get(t, s)
				if bad[c.Address()] {
					require.NoError(t, c.Release(errFatal, pooly.HostUp))
				} else {
					release(t, c)
				}
			}
		}
		use(5 * time.Second)
		ejected := func() (n int) {
			for _, h := range s.Stats().Hosts {
				if h.Ejected {
					n++
				}
			}
			return n
		}
		require.Equal(t, 3, ejected())
		for _, a := range names(5) {
			bad[a] = true
		}
		use(10 * time.Second)
		require.LessOrEqual(t, ejected(), 2)
		require.True(t, s.Stats().Panic)
	})
}

// A lease that its caller cancels is no sign that the host serves: it must not undo what failures
// have shown.
func TestCancelledLeasesDoNotExcuseAHostThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: inOrder{"bad", "good"}}, "bad", "good")
		for n := range 20 {
			c := get(t, s)
			if c.Address() == "good" {
				release(t, c)
				break
			}
			err := errFatal
			if n%4 == 3 {
				err = context.Canceled
			}
			require.NoError(t, c.Release(err, pooly.HostUp))
		}
		require.True(t, hostStats(t, s, "bad").Ejected)
	})
}

// After a minute in which all hosts failed alike, a host that goes on failing is compared with what
// the others do now.
func TestHostThatGoesOnFailingIsEjectedSoonAfterTheOthersAreWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, names(3)...)
		rng := rand.New(rand.NewPCG(7, 8))
		use := func(lasting time.Duration, failing func(address string) bool) {
			for end := time.Now().Add(lasting); time.Now().Before(end); time.Sleep(time.Millisecond) {
				c := get(t, s)
				outcome := error(nil)
				if failing(c.Address()) {
					outcome = errFatal
				}
				require.NoError(t, c.Release(outcome, pooly.HostUp))
			}
		}
		use(time.Minute, func(string) bool { return rng.IntN(2) == 0 })
		for _, h := range s.Stats().Hosts {
			require.Zero(t, h.Ejections)
		}
		use(3*time.Second, func(address string) bool { return address == "h1" })
		require.True(t, hostStats(t, s, "h1").Ejected)
		require.False(t, hostStats(t, s, "h0").Ejected)
	})
}

// Half of the hosts can do the work. Those that were ejected for their replies come back only if
// there are fewer.
func TestHostsEjectedForTheirRepliesStayOutWhileHalfOfTheHostsAreUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncBuffer
		s, _ := newService(t, pooly.ServiceConfig{
			BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		}, names(4)...)
		bad := map[string]bool{"h0": true, "h1": true}
		use := func(lasting time.Duration) {
			for end := time.Now().Add(lasting); time.Now().Before(end); time.Sleep(time.Millisecond) {
				c := get(t, s)
				if bad[c.Address()] {
					require.NoError(t, c.Release(errFatal, pooly.HostUp))
				} else {
					release(t, c)
				}
			}
		}
		use(5 * time.Second)
		before := strings.Count(log.String(), "hosts fail alike")
		bad["h2"], bad["h3"] = true, true
		use(10 * time.Second)
		require.True(t, s.Stats().Panic)
		require.Equal(t, before+1, strings.Count(log.String(), "hosts fail alike"), "once while it lasts")
		for _, a := range names(4) {
			require.Equal(t, a < "h2", hostStats(t, s, a).Ejected, a)
		}
	})
}

// All hosts have failed alike, so it takes a lot of failures to suspect one. Then one is well
// again, one fails now and then, and one goes on to fail.
func TestHostThatFailsIsEjectedThoughAnotherIsSuspectedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a", "b", "c")
		round := func(fails func(string) bool) {
			for range 3 {
				c := get(t, s)
				o := pooly.Outcome{Score: pooly.HostUp}
				if fails(c.Address()) {
					o = pooly.Outcome{Score: pooly.HostDown, Err: errTemporary}
				}
				require.NoError(t, c.Rate(o))
				require.NoError(t, c.End())
			}
			time.Sleep(10 * time.Millisecond)
		}
		for range 200 {
			round(func(string) bool { return true })
		}
		for i := range 300 {
			round(func(address string) bool { return address == "a" || address == "b" && i%50 < 8 })
		}
		require.True(t, hostStats(t, s, "a").Ejected)
		require.NoError(t, s.Close())
	})
}
