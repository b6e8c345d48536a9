package pooly_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCloseWaitsForLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b", "gone")
		leases := []*pooly.Conn{get(t, s), get(t, s), get(t, s)}
		s.Remove("gone") // its lease counts too
		for i, c := range leases {
			time.AfterFunc(time.Duration(i+1)*time.Second, func() { release(t, c) })
		}
		began := time.Now()
		require.NoError(t, s.Close())
		require.Equal(t, 3*time.Second, time.Since(began))
		for _, a := range []string{"a", "b", "gone"} {
			require.Zero(t, d.host(a).open)
		}
	})
}

func TestCloseAtItsDeadlineClosesWhatIsLeftAndSaysHowMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{CloseDeadline: time.Minute}, "a", "b", "gone")
		leases := []*pooly.Conn{get(t, s), get(t, s), get(t, s), get(t, s)}
		s.Remove("gone")
		release(t, leases[0])
		began := time.Now()
		err := s.Close()
		require.Equal(t, time.Minute, time.Since(began))
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.ErrorContains(t, err, ": 3 connections still leased")
		for _, c := range leases {
			require.True(t, fakeOf(c).isClosed())
		}
		for _, c := range leases[1:] {
			require.ErrorIs(t, c.Release(nil, pooly.HostUp), pooly.ErrPoolClosed)
			require.ErrorIs(t, c.Release(nil, pooly.HostUp), pooly.ErrConnReleased)
		}
		require.Zero(t, d.host("a").open+d.host("b").open+d.host("gone").open)
		require.Zero(t, s.Stats().InUse)
	})
}

// The same holds for hosts that are removed, and for dials of DialContext.
func TestCloseWaitsASecondForADialThatHeedsNoContext(t *testing.T) {
	for name, dial := range map[string]func(*pooly.Service) error{
		"GetConn": func(s *pooly.Service) error { _, err := s.GetConn(); return err },
		"DialContext": func(s *pooly.Service) error {
			_, err := s.DialContext(context.Background(), "", "")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newService(t, pooly.ServiceConfig{
					PoolConfig:    pooly.PoolConfig{DialTimeout: time.Hour},
					FallbackDelay: -1,
					Logger:        slog.New(slog.DiscardHandler),
				}, "a")
				d.slow("a", time.Minute)
				d.on("a", func(h *fakeHost) { h.deaf = true })
				failure := make(chan error, 1)
				go func() { failure <- dial(s) }()
				time.Sleep(time.Second)
				began := time.Now()
				require.NoError(t, s.Close())
				require.Equal(t, time.Second, time.Since(began))
				require.ErrorIs(t, <-failure, pooly.ErrPoolClosed)
				time.Sleep(time.Hour) // the dial connects after all, and is closed
				require.Zero(t, d.host("a").open)
			})
		})
	}
}

func TestCloseEndsEveryCallThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: 1}}, "a")
		c := get(t, s)
		d.slow("b", time.Hour)
		s.Add("b")
		failures := make(chan error, 3)
		for range 3 { // one waits for the dial of b, the others in the queue
			go func() {
				_, err := s.GetConn()
				failures <- err
			}()
		}
		synctest.Wait()
		time.AfterFunc(time.Second, func() { release(t, c) })
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		began := time.Now()
		for range 3 {
			require.ErrorIs(t, <-failures, pooly.ErrPoolClosed)
		}
		require.Zero(t, time.Since(began))
		require.NoError(t, <-closed)
	})
}

func TestAfterCloseEveryCallSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		release(t, get(t, s))
		require.NoError(t, s.Close())
		err := s.Close()
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
		require.EqualError(t, err, "pooly: service test: pool is closed")
		_, err = s.GetConn()
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
		require.ErrorContains(t, err, "test")
		s.Add("b")
		s.Remove("a")
		s.Remove("b")
		require.Empty(t, s.Status())
		require.Empty(t, s.Stats().Hosts)
		_, err = s.GetConn()
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
		require.Equal(t, 0, d.host("b").dials)
	})
}

// A bubble ends only when every goroutine in it has, and it fails if a timer is left that another
// waits for; what a timer would do later shows in the virtual time after Close.
func TestCloseLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PrespawnConns: 3,
			PoolConfig:    pooly.PoolConfig{ConnIdleTimeout: time.Minute, MaxConnLifetime: time.Hour},
		})
		d.refuse("dead")
		d.slow("slow", time.Hour)
		for _, a := range []string{"a", "b", "dead", "slow"} {
			s.Add(a)
		}
		release(t, get(t, s))
		time.Sleep(time.Second)
		require.NoError(t, s.Close())
		dials := d.host("dead").dials
		for _, a := range []string{"a", "b", "dead", "slow"} {
			require.Zero(t, d.host(a).open, a)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		require.Equal(t, dials, d.host("dead").dials, "no probe after Close")
	})
}

func TestCloseAtItsDeadlineSaysHowManyDialsHaveNotReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{DialTimeout: 2 * time.Minute},
			PrespawnConns: 1,
			CloseDeadline: 500 * time.Millisecond,
		})
		d.slow("a", time.Hour)
		d.on("a", func(h *fakeHost) { h.deaf = true })
		s.Add("a")
		time.Sleep(time.Second)
		began := time.Now()
		err := s.Close()
		require.Equal(t, 500*time.Millisecond, time.Since(began))
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.ErrorContains(t, err, "1 dials have not returned")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Zero(t, d.host("a").open, "its connection is closed when it comes")
	})
}

func TestCloseDuringReleaseLosesNoConnection(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			s, d := newService(t, pooly.ServiceConfig{CloseDeadline: time.Second}, "a", "b")
			for range 8 {
				go func() {
					for {
						c, err := s.GetConn()
						if err != nil {
							assert.ErrorIs(t, err, pooly.ErrPoolClosed)
							return
						}
						err = c.Release(nil, pooly.HostUp)
						assert.True(t, err == nil || errors.Is(err, pooly.ErrPoolClosed), "%v", err)
					}
				}()
			}
			time.Sleep(0)
			require.NoError(t, s.Close())
			synctest.Wait()
			require.Zero(t, d.host("a").open+d.host("b").open)
		})
	}
}

// A call that pauses between its rounds waits as well.
func TestCloseEndsCallsBetweenRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{RetryDelay: time.Hour}}, "a")
		d.refuse("a")
		failure := make(chan error)
		go func() {
			_, err := s.GetConn()
			failure <- err
		}()
		synctest.Wait()
		began := time.Now()
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-failure, pooly.ErrPoolClosed)
		require.Zero(t, time.Since(began))
	})
}

// A call whose last round found every pool shut must not say that no host was available.
func TestCloseDuringTheLastRoundSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{
			GetAttempts:    1,
			BanditStrategy: stubborn{},
			PoolConfig:     pooly.PoolConfig{MaxConns: 1},
		}, "down", "dead")
		broken, idle := get(t, s), get(t, s)
		require.NoError(t, broken.Release(errFatal, pooly.HostDown))
		release(t, idle)
		d.refuse("down")
		closed := make(chan error)
		d.test = func(*fakeConn) error {
			go func() { closed <- s.Close() }()
			time.Sleep(time.Second)
			return errDead
		}
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
		require.NotErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.NoError(t, <-closed)
	})
}

func TestCloseWaitsForAStrategyThatIsAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var working atomic.Bool
		bandit := &rogueBandit{pick: func() int { return 0 }}
		bandit.newPicker = func([]pooly.Arm) pooly.Picker {
			working.Store(true)
			time.Sleep(500 * time.Millisecond)
			working.Store(false)
			return bandit
		}
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: bandit, PrespawnConns: 1})
		d.refuse("a")
		s.Add("a")
		s.Add("b")
		time.Sleep(100 * time.Millisecond)
		require.True(t, working.Load(), "since a host was ejected")
		require.NoError(t, s.Close())
		require.False(t, working.Load())
	})
}

func TestCloseSaysThatTheDriverIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeDriver()
		s := pooly.NewService("slow", &pooly.ServiceConfig{
			CloseDeadline: 100 * time.Millisecond,
			PoolConfig: pooly.PoolConfig{Driver: &rogueDriver{Driver: fake, close: func(c *pooly.Conn) {
				time.Sleep(500 * time.Millisecond)
				fake.Close(c)
			}}},
		})
		s.Add("a")
		synctest.Wait()
		err := s.Close()
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.ErrorContains(t, err, "the driver has not closed all connections after 100ms")
		time.Sleep(time.Second)
	})
}
