package pooly_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A driver made for a test may call t.FailNow, which ends the goroutine. The place of its
// connection must come back.
func TestDriverThatEndsItsGoroutineLosesNoPlace(t *testing.T) {
	pair := func(s *pooly.Service, outcome error) {
		if c, err := s.GetConn(); err == nil {
			_ = c.Release(outcome, pooly.HostUp)
		}
	}
	type use func(s *pooly.Service, arm func())
	for _, tt := range []struct {
		name   string
		method string
		config pooly.PoolConfig
		use    use
	}{
		{"Dial for GetConn", "Dial", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			pair(s, nil)
		}},
		{"Dial for DialContext", "Dial", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			if c, err := s.DialContext(context.Background(), "", ""); err == nil {
				_ = c.Close()
			}
		}},
		{"TestOnBorrow of an idle connection", "TestOnBorrow", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			pair(s, nil)
			arm()
			pair(s, nil)
		}},
		{"TestOnBorrow of a new connection", "TestOnBorrow", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			pair(s, nil)
		}},
		{"TestOnBorrow under TestTimeout", "TestOnBorrow", pooly.PoolConfig{TestTimeout: time.Second},
			func(s *pooly.Service, arm func()) {
				pair(s, nil)
				arm()
				pair(s, nil)
			}},
		{"TestOnBorrow for a waiter", "TestOnBorrow", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			held, err := s.GetConn()
			if err != nil {
				return
			}
			go pair(s, nil)
			synctest.Wait()
			arm()
			_ = held.Release(nil, pooly.HostUp)
		}},
		{"TestOnBorrow for Do", "TestOnBorrow", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			pair(s, nil)
			arm()
			_ = s.Do(context.Background(), func(*pooly.Conn) error { return nil })
		}},
		{"Temporary for Release", "Temporary", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			pair(s, errTemporary)
		}},
		{"Temporary for Do", "Temporary", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			_ = s.Do(context.Background(), func(*pooly.Conn) error { return errTemporary })
		}},
		{"Temporary for Retry", "Temporary", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			_ = s.Do(context.Background(), func(*pooly.Conn) error { return pooly.Retry(errTemporary) })
		}},
		{"Close", "Close", pooly.PoolConfig{}, func(s *pooly.Service, arm func()) {
			arm()
			pair(s, errFatal)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var armed, ended atomic.Bool
				end := func(method string) {
					if method == tt.method && armed.Swap(false) {
						ended.Store(true)
						runtime.Goexit()
					}
				}
				fake := newFakeDriver()
				d := &rogueDriver{
					Driver: fake,
					dial: func(ctx context.Context, address string) (*pooly.Conn, error) {
						end("Dial")
						return fake.Dial(ctx, address)
					},
					close:        func(c *pooly.Conn) { defer end("Close"); fake.Close(c) },
					testOnBorrow: func(c *pooly.Conn) error { end("TestOnBorrow"); return fake.TestOnBorrow(c) },
					temporary:    func(err error) bool { end("Temporary"); return fake.Temporary(err) },
				}
				tt.config.Driver, tt.config.MaxConns = d, 1
				s := pooly.NewService("test", &pooly.ServiceConfig{PoolConfig: tt.config, PrespawnConns: -1})
				s.Add("a")
				done := make(chan struct{})
				go func() { // it may be this one that is ended
					defer close(done)
					tt.use(s, func() { armed.Store(true) })
				}()
				<-done
				time.Sleep(pooly.DefaultMaxEjectionTime)
				require.True(t, ended.Load())
				require.Zero(t, s.Stats().InUse)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c, err := s.GetConnContext(ctx)
				require.NoError(t, err)
				release(t, c)
				require.Equal(t, s.Stats().Gets, s.Stats().Puts)
				require.NoError(t, s.Close())
			})
		})
	}
}

// The same in strategies and calculators, which several calls depend on.
func TestStrategyThatEndsItsGoroutineWedgesNothing(t *testing.T) {
	for _, method := range []string{"NewPicker", "Pick", "Compute for the scores", "Compute for Add"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var armed, ended atomic.Bool
				end := func(in string) {
					if in == method && armed.Swap(false) {
						ended.Store(true)
						runtime.Goexit()
					}
				}
				var adding atomic.Bool
				s, _ := newService(t, pooly.ServiceConfig{
					BanditStrategy: goexiting{end},
					ScoreCalculator: computerFunc(func(score float64) float64 {
						if adding.Load() {
							end("Compute for Add")
						} else {
							end("Compute for the scores")
						}
						return score
					}),
				}, "a")
				rate(t, s, 1)
				time.Sleep(time.Second)
				armed.Store(true)
				done := make(chan struct{})
				go func() {
					defer close(done)
					if c, err := s.GetConn(); err == nil {
						_ = c.Release(nil, pooly.HostUp)
					}
					time.Sleep(time.Second)
					adding.Store(true)
					s.Add("b")
				}()
				<-done
				adding.Store(false)
				time.Sleep(time.Second)
				require.True(t, ended.Load())
				began := time.Now()
				for range 10 {
					rate(t, s, 1)
				}
				require.Zero(t, time.Since(began))
				time.Sleep(pooly.DefaultMemoizeScoreDuration + time.Millisecond)
				require.NotZero(t, hostStats(t, s, "a").Trials)
				require.NoError(t, s.Close())
				require.Zero(t, time.Since(began)-pooly.DefaultMemoizeScoreDuration-time.Millisecond)
			})
		})
	}
}

// goexiting calls end in each method.
type goexiting struct{ end func(method string) }

func (b goexiting) NewPicker(arms []pooly.Arm) pooly.Picker {
	b.end("NewPicker")
	return goexitingPicker{b, len(arms)}
}

type goexitingPicker struct {
	goexiting
	arms int
}

func (p goexitingPicker) Pick(rng *rand.Rand) int {
	p.end("Pick")
	return rng.IntN(p.arms)
}
