package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Hosts come, go, fail, stall and return while callers get, give up, break and release. Nobody may
// be forgotten: in a bubble, a caller that nothing will ever wake is a deadlock that the test
// reports. At the end every connection must be accounted for.
func TestChaosForgetsNobodyAndLosesNothing(t *testing.T) {
	runs := 100
	if testing.Short() {
		runs = 10
	}
	for seed := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) { chaos(t, seed) })
	}
}

func chaos(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	addresses := []string{"a", "b", "c", "d"}[:1+rng.IntN(4)]
	maxConns := 1 + rng.IntN(3)
	s, d := newService(t, pooly.ServiceConfig{
		PrespawnConns:  rng.IntN(3) - 1,
		BanditStrategy: []pooly.Bandit{pooly.NewRoundRobin(), pooly.NewSoftMax(0.1), stubborn{}}[rng.IntN(3)],
		PoolConfig: pooly.PoolConfig{
			MaxConns:        maxConns,
			ConnIdleTimeout: time.Duration(rng.IntN(2)) * 50 * time.Millisecond,
			MaxConnLifetime: time.Duration(rng.IntN(2)) * 200 * time.Millisecond,
			DialTimeout:     time.Duration(20+rng.IntN(100)) * time.Millisecond,
		},
		FallbackDelay:       time.Duration(rng.IntN(20)-5) * time.Millisecond,
		ConsecutiveFailures: 1 + rng.IntN(4),
		BaseEjectionTime:    time.Duration(1+rng.IntN(20)) * time.Millisecond,
		MaxEjectionTime:     100 * time.Millisecond,
		MaxEjectionPercent:  rng.IntN(2) * 50,
		MaxHosts:            rng.IntN(2) * 3,
	}, addresses...)
	var callers sync.WaitGroup
	for i := range 16 {
		rng := rand.New(rand.NewPCG(seed, uint64(100+i)))
		callers.Go(func() {
			for range 40 {
				call(t, s, rng)
			}
		})
	}
	stop := make(chan struct{})
	var disturbance sync.WaitGroup
	disturbance.Go(func() {
		for {
			// No time.After: where that is over at once, it crashes the race detector of Go 1.26,
			// which lets two threads run the timers of one bubble as one (golang/go#78156).
			time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond)
			select {
			case <-stop:
				return
			default:
			}
			address := addresses[rng.IntN(len(addresses))]
			switch rng.IntN(10) {
			case 0, 1:
				d.refuse(address)
			case 2, 3, 4:
				d.accept(address)
			case 5:
				d.slow(address, time.Duration(rng.IntN(30))*time.Millisecond)
			case 6:
				s.Remove(address)
				s.Add(address)
			case 7:
				_ = s.Stats()
			case 8:
				s.SetHosts(addresses[rng.IntN(len(addresses)):]...)
			case 9: // a host that hangs for a while, whatever it is told
				d.on(address, func(h *fakeHost) { h.delay, h.deaf = time.Duration(rng.IntN(3000))*time.Millisecond, rng.IntN(3) == 0 })
			}
		}
	})
	callers.Wait()
	close(stop)
	disturbance.Wait()

	synctest.Wait()
	stats := s.Stats()
	require.Equal(t, stats.Gets, stats.Puts, "seed %d", seed)
	require.Zero(t, stats.InUse, "seed %d", seed)
	require.Zero(t, stats.Waiting, "seed %d", seed)
	require.NoError(t, s.Close(), "seed %d", seed)
	time.Sleep(5 * time.Second) // dials that heed no context return
	for _, a := range addresses {
		require.Zero(t, d.host(a).open, "seed %d", seed)
	}
}

// call makes one request that may go wrong in each of its steps.
func call(t *testing.T, s *pooly.Service, rng *rand.Rand) {
	ctx := context.Background()
	if rng.IntN(3) == 0 {
		limited, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(20))*time.Millisecond)
		defer cancel()
		ctx = limited
	}
	if rng.IntN(4) == 0 {
		_ = s.Do(ctx, func(*pooly.Conn) error {
			time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
			return []error{nil, errFatal, pooly.Retry(errFatal), pooly.Retry(errTemporary)}[rng.IntN(4)]
		})
		return
	}
	c, err := s.GetConnContext(ctx)
	if err != nil {
		var failure *pooly.GetConnError
		assert.ErrorAs(t, err, &failure)
		assert.True(t, errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pooly.ErrNoHostAvailable), "%v", err)
		return
	}
	assert.False(t, fakeOf(c).isClosed())
	time.Sleep(time.Duration(rng.IntN(3)) * time.Millisecond)
	switch rng.IntN(6) {
	case 0:
		err = errFatal
	case 1:
		fakeOf(c).die()
	case 2:
		err = fmt.Errorf("try later: %w", errTemporary)
	}
	assert.NoError(t, c.Release(&err, rng.Float64()))
}
