package pooly_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// hangingBandit is a strategy whose NewPicker hangs when it is told to.
type hangingBandit struct {
	hangs  atomic.Bool
	resume chan struct{}
}

func (b *hangingBandit) NewPicker(arms []pooly.Arm) pooly.Picker {
	if b.hangs.Load() {
		<-b.resume
	}
	return uniform(len(arms))
}

// A call waits for a strategy for a moment, and then takes what there is.
func TestStrategyThatHangsKeepsNobodyFromConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hangingBandit{resume: make(chan struct{})}
		s, d := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a", "b")
		release(t, get(t, s))
		b.hangs.Store(true)
		began := time.Now()
		for time.Since(began) < time.Second { // the scores are due meanwhile
			release(t, get(t, s))
			time.Sleep(10 * time.Millisecond)
		}
		require.Less(t, time.Since(began), time.Second+200*time.Millisecond)

		s.Add("c") // so that there is no snapshot
		began = time.Now()
		held := []*pooly.Conn{get(t, s), get(t, s), get(t, s)}
		require.LessOrEqual(t, time.Since(began), 300*time.Millisecond)
		for _, c := range held {
			release(t, c)
		}
		d.refuse("b")
		s.SetHosts("b", "d")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := s.GetConnContext(ctx)
		require.NoError(t, err)
		release(t, c)

		b.hangs.Store(false)
		close(b.resume)
		synctest.Wait()
		began = time.Now()
		release(t, get(t, s))
		require.Zero(t, time.Since(began))
	})
}

func TestCloseDoesNotWaitForAStrategyThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &hangingBandit{resume: make(chan struct{})}
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a")
		b.hangs.Store(true)
		release(t, get(t, s))
		began := time.Now()
		require.NoError(t, s.Close())
		require.LessOrEqual(t, time.Since(began), time.Second)
		close(b.resume)
	})
}

// callingBandit is a strategy that calls the service for each picker, while it is told to.
type callingBandit struct {
	on    atomic.Bool
	call  func()
	calls atomic.Int32
}

func (b *callingBandit) NewPicker(arms []pooly.Arm) pooly.Picker {
	if b.on.Load() {
		b.calls.Add(1)
		b.call()
	}
	return uniform(len(arms))
}

func TestStrategyMayLeaseConnectionsAndChangeTheHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(callingBandit)
		s, _ := newService(t, pooly.ServiceConfig{BanditStrategy: b}, "a", "b")
		b.call = func() {
			_ = s.Stats()
			_ = s.Status()
			s.Add("c")
			s.Remove("c")
			if c, err := s.GetConn(); err == nil {
				_ = c.Release(nil, pooly.HostUp)
			}
			_ = s.Do(context.Background(), func(*pooly.Conn) error { return nil })
			if c, err := s.DialContext(context.Background(), "", ""); err == nil {
				_ = c.Close()
			}
		}
		b.on.Store(true)
		began := time.Now()
		for range 20 {
			release(t, get(t, s))
			time.Sleep(50 * time.Millisecond)
		}
		require.LessOrEqual(t, time.Since(began), 4*time.Second)
		require.Positive(t, b.calls.Load())
		b.on.Store(false)
		time.Sleep(time.Second)
		require.Zero(t, s.Stats().InUse)
	})
}
