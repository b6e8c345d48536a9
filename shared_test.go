package pooly_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// sharedNet makes clients that many callers share.
type sharedNet struct {
	delay time.Duration // of dials
	dials atomic.Int32
	err   atomic.Pointer[error] // what dials fail with
}

type sharedClient struct {
	id     int32
	broken atomic.Bool
	closed atomic.Int32
}

func (n *sharedNet) dial(ctx context.Context, address string) (*sharedClient, error) {
	id := n.dials.Add(1)
	select {
	case <-time.After(n.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := n.err.Load(); err != nil {
		return nil, *err
	}
	return &sharedClient{id: id}, nil
}

// Close has the signature that most clients have.
func (c *sharedClient) Close() error {
	c.closed.Add(1)
	return nil
}

func sharedOf(c *pooly.Conn) *sharedClient { return c.Interface().(*sharedClient) }

func newSharedService(
	t *testing.T, config pooly.ServiceConfig, addresses ...string,
) (*pooly.Service, *sharedNet) {
	t.Helper()
	n := &sharedNet{delay: 10 * time.Millisecond}
	config.Driver = pooly.NewSharedDriver(pooly.DriverFuncs[*sharedClient]{
		Dial: n.dial,
		Test: func(c *sharedClient) error {
			if c.broken.Load() {
				return errDead
			}
			return nil
		},
		Temporary: func(err error) bool { return errors.Is(err, errTemporary) },
	})
	config.PrespawnConns = -1
	s := pooly.NewService("shared", &config)
	t.Cleanup(func() { _ = s.Close() })
	s.SetHosts(addresses...)
	return s, n
}

func TestSharedClientServesMaxConnsCallersOverOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{MaxConns: 20, WaitTimeout: time.Second},
			CloseDeadline: time.Second,
		}, "a")
		var wg sync.WaitGroup
		leases := make([]*pooly.Conn, 20)
		errs := make([]error, 20)
		for i := range leases {
			wg.Go(func() { leases[i], errs[i] = s.GetConn() })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		client := sharedOf(leases[0])
		for _, c := range leases {
			require.Same(t, client, sharedOf(c))
		}
		require.EqualValues(t, 1, n.dials.Load())
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		for _, c := range leases {
			release(t, c)
		}
		require.NoError(t, s.Close())
		require.EqualValues(t, 1, client.closed.Load())
	})
}

func TestSharedClientThatFailsIsReplacedForAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{}, "a")
		first, second, idle := get(t, s), get(t, s), get(t, s)
		old := sharedOf(first)
		release(t, idle)
		require.NoError(t, first.Release(errFatal, pooly.HostUp))
		synctest.Wait()

		next := get(t, s)
		require.NotSame(t, old, sharedOf(next), "a new lease got the client that failed")
		require.Same(t, sharedOf(next), sharedOf(get(t, s)))
		require.EqualValues(t, 0, old.closed.Load(), "the old client was closed under a lease")
		release(t, second)
		synctest.Wait()
		require.EqualValues(t, 1, old.closed.Load())
		require.NotSame(t, old, sharedOf(get(t, s)))
		require.EqualValues(t, 2, n.dials.Load())
	})
}

func TestLateFailuresOnAnOldClientDoNotReplaceTheNewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{ConsecutiveFailures: -1}, "a")
		var leases []*pooly.Conn
		for range 10 {
			leases = append(leases, get(t, s))
		}
		require.NoError(t, leases[0].Release(errFatal, pooly.HostUp))
		next := get(t, s)
		for _, c := range leases[1:] {
			require.NoError(t, c.Release(errFatal, pooly.HostUp))
		}
		synctest.Wait()
		require.Same(t, sharedOf(next), sharedOf(get(t, s)))
		require.EqualValues(t, 2, n.dials.Load())
		require.EqualValues(t, 1, sharedOf(leases[0]).closed.Load())
	})
}

func TestSharedClientThatFailsItsTestIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{}, "a")
		out, idle := get(t, s), get(t, s)
		release(t, idle)
		sharedOf(out).broken.Store(true)
		require.NotSame(t, sharedOf(out), sharedOf(get(t, s)))
		release(t, out)
		synctest.Wait()
		require.EqualValues(t, 1, sharedOf(out).closed.Load())
		require.EqualValues(t, 2, n.dials.Load())
	})
}

// A server may have forgotten its old connections, so an old client proves nothing.
func TestHostComesBackOnlyWithANewSharedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{ConsecutiveFailures: 1}, "a", "b")
		kept, other := get(t, s), get(t, s)
		old, ejected := sharedOf(kept), kept.Address()
		release(t, other)
		refused := error(syscall.ECONNREFUSED)
		n.err.Store(&refused)
		for !hostStats(t, s, ejected).Ejected {
			_ = s.Do(context.Background(), func(c *pooly.Conn) error {
				if c.Address() == ejected {
					return pooly.Retry(errTemporary) // the host fails, and the client stays
				}
				return nil
			})
		}
		time.Sleep(time.Second)
		require.True(t, hostStats(t, s, ejected).Ejected, "an old client passed for a new connection")

		n.err.Store(nil)
		time.Sleep(time.Minute)
		require.False(t, hostStats(t, s, ejected).Ejected)
		require.Zero(t, old.closed.Load())
		release(t, kept)
		synctest.Wait()
		require.EqualValues(t, 1, old.closed.Load())
	})
}

func TestCallersWhoFindAHostDownShareOneDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &sharedNet{delay: 100 * time.Millisecond}
		d := pooly.NewSharedDriver(pooly.DriverFuncs[*sharedClient]{Dial: n.dial})
		refused := error(syscall.ECONNREFUSED)
		n.err.Store(&refused)
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 20 {
			wg.Go(func() {
				if _, err := d.Dial(context.Background(), "a"); errors.Is(err, syscall.ECONNREFUSED) {
					failed.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 20, failed.Load())
		require.EqualValues(t, 1, n.dials.Load())

		n.err.Store(nil)
		hasty, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		go func() { _, _ = d.Dial(hasty, "a") }()
		synctest.Wait()
		c, err := d.Dial(context.Background(), "a")
		require.NoError(t, err, "failed because another caller gave up")
		d.Close(c)
		require.EqualValues(t, 1, sharedOf(c).closed.Load())
	})
}

// One caller with little time left, or who changes their mind, must not cost all others a dial.
func TestHastyCallersDoNotReplaceASharedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{}, "a")
		ask := func(within, takes time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			return s.Do(ctx, func(c *pooly.Conn) error {
				select {
				case <-time.After(takes):
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
		}
		for range 40 {
			require.NoError(t, ask(time.Second, 20*time.Millisecond))
		}
		require.ErrorIs(t, ask(25*time.Millisecond, time.Second), context.DeadlineExceeded)
		require.NoError(t, get(t, s).Release(context.Canceled, pooly.HostUp))
		require.NoError(t, ask(time.Second, 20*time.Millisecond))
		require.EqualValues(t, 1, n.dials.Load())

		// But if nobody is served any more, the client is dead.
		for range 3 {
			require.ErrorIs(t, ask(time.Second, time.Minute), context.DeadlineExceeded)
		}
		require.NoError(t, ask(time.Second, 20*time.Millisecond))
		require.Greater(t, n.dials.Load(), int32(1))
	})
}

func TestSharedClientIsReplacedAfterMaxConnLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConnLifetime: time.Minute},
		}, "a")
		old := sharedOf(get(t, s)) // never released
		for range 130 {
			time.Sleep(time.Second)
			a, b := get(t, s), get(t, s)
			release(t, a)
			release(t, b)
		}
		require.NotSame(t, old, sharedOf(get(t, s)))
		require.LessOrEqual(t, n.dials.Load(), int32(4))
		require.GreaterOrEqual(t, n.dials.Load(), int32(3))
	})
}

func TestSharedClientIsClosedOnceItsHostIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSharedService(t, pooly.ServiceConfig{}, "a")
		out, idle := get(t, s), get(t, s)
		release(t, idle)
		s.Remove("a")
		synctest.Wait()
		require.EqualValues(t, 0, sharedOf(out).closed.Load())
		release(t, out)
		synctest.Wait()
		require.EqualValues(t, 1, sharedOf(out).closed.Load())
	})
}

// Two services may have one driver, and then one client per host.
func TestTwoServicesShareOneClientPerHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &sharedNet{}
		d := pooly.NewSharedDriver(pooly.DriverFuncs[*sharedClient]{Dial: n.dial})
		config := &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1}
		reads, writes := pooly.NewService("reads", config), pooly.NewService("writes", config)
		defer reads.Close()
		defer writes.Close()
		reads.Add("a")
		writes.Add("a")
		r, w := get(t, reads), get(t, writes)
		old := sharedOf(r)
		require.Same(t, old, sharedOf(w))
		release(t, w)
		require.NoError(t, r.Release(errFatal, pooly.HostUp))
		require.NotSame(t, old, sharedOf(get(t, writes)))
		require.Same(t, sharedOf(get(t, writes)), sharedOf(get(t, reads)))
		synctest.Wait()
		require.EqualValues(t, 1, old.closed.Load())
	})
}

func TestDoDoesNotCloseTheSocketThatOthersShare(t *testing.T) {
	address := listen(t, echo)
	d := pooly.NewSharedDriver(pooly.DriverFuncs[net.Conn]{
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	})
	s := pooly.NewService("shared", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}})
	defer s.Close()
	s.Add(address)
	other := get(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	err := s.Do(ctx, func(*pooly.Conn) error {
		cancel()
		return ctx.Err()
	})
	require.ErrorIs(t, err, context.Canceled)
	_, err = io.WriteString(other.NetConn(), "hello\n")
	require.NoError(t, err)
	release(t, other)
	_, err = s.DialContext(context.Background(), "tcp", "")
	require.ErrorIs(t, err, pooly.ErrInvalidArg)
}

func TestNewSharedDriverNeedsDial(t *testing.T) {
	require.PanicsWithError(t, "pooly: invalid argument: NewSharedDriver: DriverFuncs.Dial is nil", func() {
		pooly.NewSharedDriver(pooly.DriverFuncs[net.Conn]{})
	})
}

// Its leases are never as old as the client: each ends soon after the next one has begun.
func TestSharedClientIsReplacedAfterMaxConnLifetimeThoughItsLeasesAreYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := newSharedService(t, pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{MaxConnLifetime: time.Minute, ConnIdleTimeout: time.Second},
		}, "a")
		lease := get(t, s)
		old := sharedOf(lease)
		for range 10 {
			time.Sleep(5 * time.Second)
			next := get(t, s)
			require.Same(t, old, sharedOf(next))
			release(t, lease)
			lease = next
		}
		time.Sleep(10 * time.Second)
		require.NotSame(t, old, sharedOf(get(t, s)))
		require.EqualValues(t, 2, n.dials.Load())
		require.Zero(t, old.closed.Load(), "the old client was closed under a lease")
		release(t, lease)
		synctest.Wait()
		require.EqualValues(t, 1, old.closed.Load())
	})
}
