package dns

import (
	"context"
	"errors"
	"iter"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// What is found in real records is tested against a real DNS server, in the module integration.
// Here it is tested when lookups are made, in virtual time.

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var (
	errServfail = &net.DNSError{Err: "server misbehaving", IsTemporary: true}
	errNXDomain = &net.DNSError{Err: "no such host", IsNotFound: true}
)

// zone is what lookups find.
type zone struct {
	mu   sync.Mutex // guards the fields below
	list []string
	err  error
	at   []time.Time // when each lookup was
}

func (z *zone) resolver(config Config) *Resolver {
	return &Resolver{config: config.withDefaults(), lookup: func(context.Context) ([]string, error) {
		z.mu.Lock()
		defer z.mu.Unlock()
		z.at = append(z.at, time.Now())
		return slices.Clone(z.list), z.err
	}}
}

func (z *zone) becomes(list []string, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.list, z.err = list, err
}

// lookups returns when each lookup was.
func (z *zone) lookups() []time.Time {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.at)
}

// watch iterates by hand. It is stopped when the test ends.
func watch(t *testing.T, r *Resolver) (next func() ([]string, error)) {
	t.Helper()
	pull, stop := iter.Pull2(r.Watch(t.Context()))
	t.Cleanup(stop)
	return func() ([]string, error) {
		list, err, ok := pull()
		require.True(t, ok)
		return list, err
	}
}

func TestWatchYieldsTheFirstAnswerAndThenChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{list: []string{"b:1", "a:1", "b:1"}}
		next := watch(t, z.resolver(Config{}))
		list, err := next()
		require.NoError(t, err)
		require.Equal(t, []string{"a:1", "b:1"}, list, "sorted, and each once")

		time.AfterFunc(10*time.Minute, func() { z.becomes([]string{"b:1", "a:1"}, nil) }) // no change
		time.AfterFunc(20*time.Minute, func() { z.becomes([]string{"c:1"}, nil) })
		began := time.Now()
		list, err = next()
		require.NoError(t, err)
		require.Equal(t, []string{"c:1"}, list)
		require.GreaterOrEqual(t, time.Since(began), 20*time.Minute)
		require.LessOrEqual(t, time.Since(began), 20*time.Minute+DefaultInterval)
	})
}

func TestLookupsAreAnIntervalApartAndOutOfStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{list: []string{"a:1"}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for range z.resolver(Config{Interval: 10 * time.Second}).Watch(ctx) {
		}
		pauses := make(map[time.Duration]bool)
		at := z.lookups()
		for i := 1; i < len(at); i++ {
			pause := at[i].Sub(at[i-1])
			require.GreaterOrEqual(t, pause, 8*time.Second)
			require.LessOrEqual(t, pause, 10*time.Second)
			pauses[pause.Truncate(100*time.Millisecond)] = true
		}
		require.GreaterOrEqual(t, len(at), 360)
		require.Greater(t, len(pauses), 15, "of the twenty tenths of a second between 8 and 10")
	})
}

func TestFailuresAreTriedAgainSoonerAndEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{err: errServfail}
		next := watch(t, z.resolver(Config{Interval: 5 * time.Second}))
		for range 6 {
			_, err := next()
			require.ErrorIs(t, err, errServfail)
		}
		at := z.lookups()
		for i, longest := range []time.Duration{1, 2, 4, 5, 5} {
			pause := at[i+1].Sub(at[i])
			require.LessOrEqual(t, pause, longest*time.Second)
			require.GreaterOrEqual(t, pause, longest*time.Second*8/10)
		}

		z.becomes([]string{"a:1"}, nil)
		_, err := next()
		require.NoError(t, err)
		z.becomes(nil, errServfail)
		_, err = next()
		require.Error(t, err)
		_, err = next()
		require.Error(t, err)
		at = z.lookups()
		require.LessOrEqual(t, at[len(at)-1].Sub(at[len(at)-2]), time.Second, "a success ends the backoff")
	})
}

// The interval may be shorter than the first pause after a failure.
func TestFailuresAreTriedAgainNoLaterThanTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{err: errServfail}
		next := watch(t, z.resolver(Config{Interval: 100 * time.Millisecond}))
		for range 10 {
			_, err := next()
			require.Error(t, err)
		}
		at := z.lookups()
		require.LessOrEqual(t, at[9].Sub(at[0]), 900*time.Millisecond)
	})
}

// An interval without a unit is in nanoseconds, and must not flood the name server.
func TestIntervalWithoutAUnitDoesNotFloodTheNameServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, err := range []error{nil, errServfail} {
			z := &zone{list: []string{"a:1"}, err: err}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			for range z.resolver(Config{Interval: 30}).Watch(ctx) {
			}
			require.Less(t, len(z.lookups()), 130)
		}
	})
}

func TestALookupThatHangsEndsWithItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Resolver{config: (&Config{Timeout: 3 * time.Second}).withDefaults()}
		r.lookup = func(ctx context.Context) ([]string, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		began := time.Now()
		_, err := watch(t, r)()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}

func TestOnlyANameThatIsGoneEmptiesTheList(t *testing.T) {
	gone := func(config Config, lookup error) (list []string, err error) {
		synctest.Test(t, func(t *testing.T) {
			list, err = watch(t, (&zone{err: lookup}).resolver(config))()
		})
		return list, err
	}
	for name, test := range map[string]struct {
		err     error // of the lookup, which finds nothing
		failure error // without AllowEmpty, which allows it
		fails   error // even with AllowEmpty
	}{
		"NXDOMAIN":         {err: errNXDomain, failure: errNXDomain},
		"no usable record": {failure: errNoRecord},
		"SERVFAIL":         {err: errServfail, failure: errServfail, fails: errServfail},
		"timeout":          {err: context.DeadlineExceeded, failure: context.DeadlineExceeded, fails: context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := gone(Config{}, test.err)
			require.ErrorIs(t, err, test.failure)
			list, err := gone(Config{AllowEmpty: true}, test.err)
			if test.fails != nil {
				require.ErrorIs(t, err, test.fails)
			} else {
				require.NoError(t, err)
			}
			require.Empty(t, list)
		})
	}
}

func TestAServiceKeepsItsHostsWhenTheNameVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{list: []string{"a:1", "b:1"}}
		s := pooly.NewService("test", &pooly.ServiceConfig{PrespawnConns: -1})
		defer s.Close()
		require.NoError(t, s.Follow(t.Context(), z.resolver(Config{})))
		require.Len(t, s.Status(), 2)
		z.becomes(nil, errNXDomain)
		time.Sleep(time.Hour)
		require.Greater(t, len(z.lookups()), 100)
		require.Len(t, s.Status(), 2)
		z.becomes([]string{"c:1"}, nil)
		time.Sleep(DefaultInterval)
		require.Len(t, s.Status(), 1)
	})
}

func TestImpossibleConfigurationsPanic(t *testing.T) {
	for name, build := range map[string]func(){
		"no port":           func() { NewHost("cache.internal", nil) },
		"negative interval": func() { NewHost("cache.internal:1", &Config{Interval: -1}) },
		"negative timeout":  func() { NewSRV("", "", "internal", &Config{Timeout: -1}) },
	} {
		require.Panics(t, build, name)
	}
	func() {
		defer func() {
			err, _ := recover().(error)
			require.True(t, errors.Is(err, pooly.ErrInvalidArg))
		}()
		NewHost("cache.internal", nil)
	}()
}
