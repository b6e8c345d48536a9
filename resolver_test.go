package pooly_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

var errLookup = errors.New("lookup failed")

type answer struct {
	addresses []string
	err       error
}

// script is a resolver that answers what a test sends, until the test closes it.
type script chan answer

func (r script) Watch(ctx context.Context) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		for {
			select {
			case a, ok := <-r:
				if !ok || !yield(a.addresses, a.err) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (r script) finds(addresses ...string) {
	r <- answer{addresses: addresses}
	synctest.Wait()
}

func (r script) fails(err error) {
	r <- answer{err: err}
	synctest.Wait()
}

func addresses(s *pooly.Service) []string {
	return slices.Sorted(maps.Keys(s.Status()))
}

// followed returns a service that follows r, whose first answer is given.
func followed(t *testing.T, config pooly.ServiceConfig, r script, first ...string) *pooly.Service {
	t.Helper()
	s, _ := newService(t, config)
	go func() { r <- answer{addresses: first} }()
	require.NoError(t, s.Follow(t.Context(), r))
	require.Equal(t, first, addresses(s), "in effect when Follow returns")
	return s
}

func TestFollowHasTheHostsThatTheResolverFinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := make(script)
		s := followed(t, pooly.ServiceConfig{}, r, "a", "b")
		held := get(t, s)
		r.finds("b", "c")
		require.Equal(t, []string{"b", "c"}, addresses(s))
		release(t, held)
		r.finds()
		require.Empty(t, addresses(s), "an empty answer says that there are none")
		_, err := s.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		r.finds("a")
		release(t, get(t, s))
	})
}

func TestFollowKeepsTheHostsWhileTheResolverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := make(script)
		s := followed(t, pooly.ServiceConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}, r, "a", "b")
		r.fails(errLookup)
		require.Equal(t, []string{"a", "b"}, addresses(s))
		require.Contains(t, log.String(), "level=WARN")
		require.Contains(t, log.String(), errLookup.Error())
		r.finds("c")
		require.Equal(t, []string{"c"}, addresses(s))
	})
}

func TestFollowSaysWhyThereIsNoAnswerYetAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := make(script)
		s, _ := newService(t, pooly.ServiceConfig{})
		go func() { r <- answer{err: errLookup} }()
		err := s.Follow(t.Context(), r)
		require.ErrorIs(t, err, errLookup)
		require.EqualError(t, err, "pooly: service test: lookup failed")
		r.finds("a")
		require.Equal(t, []string{"a"}, addresses(s))
	})
}

func TestFollowWaitsNoLongerThanItsContextAndOutlivesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := make(script)
		s, _ := newService(t, pooly.ServiceConfig{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := s.Follow(ctx, r)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		r.finds("a")
		require.Equal(t, []string{"a"}, addresses(s), "the answer is taken when it comes")
	})
}

func TestFollowPassesTheValuesOfItsContextOn(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{})
		err := s.Follow(context.WithValue(t.Context(), key{}, "trace"), pooly.ResolverFunc(
			func(ctx context.Context) iter.Seq2[[]string, error] {
				return script(nil).yield(answer{addresses: []string{fmt.Sprint(ctx.Value(key{}))}})
			}))
		require.NoError(t, err)
		require.Equal(t, []string{"trace"}, addresses(s))
	})
}

// yield is the sequence of one answer, which then ends.
func (script) yield(a answer) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) { yield(a.addresses, a.err) }
}

func TestHostsStayWhenTheResolverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := make(script)
		s := followed(t, pooly.ServiceConfig{}, r, "a")
		close(r)
		synctest.Wait()
		require.Equal(t, []string{"a"}, addresses(s))
	})
}

func TestFollowOfAResolverWithoutAnAnswerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := make(script)
		close(r)
		s, _ := newService(t, pooly.ServiceConfig{})
		require.ErrorContains(t, s.Follow(t.Context(), r), "ended without an answer")
	})
}

func TestAnotherFollowEndsTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		former, latter := make(script), make(script)
		s := followed(t, pooly.ServiceConfig{}, former, "a")
		done := make(chan error, 1)
		go func() { done <- s.Follow(t.Context(), latter) }()
		synctest.Wait()
		require.Equal(t, []string{"a"}, addresses(s), "until the first answer")
		select {
		case former <- answer{addresses: []string{"x"}}:
			t.Fatal("the former resolver still runs")
		default:
		}
		latter.finds("b")
		require.NoError(t, <-done)
		require.Equal(t, []string{"b"}, addresses(s))
	})
}

// goleak (see TestMain) and synctest, which fails if a goroutine is left, see that nothing stays.
func TestCloseEndsFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{})
		done := make(chan error, 1)
		go func() { done <- s.Follow(t.Context(), make(script)) }()
		synctest.Wait()
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, pooly.ErrPoolClosed)
		require.ErrorIs(t, s.Follow(t.Context(), make(script)), pooly.ErrPoolClosed)

		followed(t, pooly.ServiceConfig{}, make(script), "a") // closed when the test ends
	})
}

func TestFollowOfNilIsAnInvalidArgument(t *testing.T) {
	s, _ := newService(t, pooly.ServiceConfig{})
	require.ErrorIs(t, s.Follow(t.Context(), nil), pooly.ErrInvalidArg)
}

func TestAResolverThatPanicsIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s, _ := newService(t, pooly.ServiceConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}, "a")
		for name, r := range map[string]pooly.ResolverFunc{
			"in Watch": func(context.Context) iter.Seq2[[]string, error] { panic("in Watch") },
			"while it yields": func(context.Context) iter.Seq2[[]string, error] {
				return func(func([]string, error) bool) { panic("while it yields") }
			},
			"nil sequence": func(context.Context) iter.Seq2[[]string, error] { return nil },
		} {
			err := s.Follow(t.Context(), r)
			require.ErrorContains(t, err, "Watch panicked", name)
		}
		require.Contains(t, log.String(), "plug-in panicked")
		require.Equal(t, []string{"a"}, addresses(s))
		release(t, get(t, s))
	})
}

// mishaps are the ways in which a Watch ends although it should go on, and what is logged then.
var mishaps = map[string]struct {
	end  func()
	says string
}{
	"panics":             {func() { panic("odd value") }, "Watch panicked: odd value"},
	"ends its goroutine": {runtime.Goexit, "ended its goroutine"},
	"returns":            {func() {}, "although nothing had ended it"},
}

// An odd value must not end discovery for good.
func TestResolverThatEndsByItselfIsAskedAgain(t *testing.T) {
	for name, mishap := range mishaps {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log syncBuffer
				logger := slog.New(slog.NewTextHandler(&log, nil))
				s, _ := newService(t, pooly.ServiceConfig{Logger: logger})
				lists, ends := make(script), make(chan struct{})
				watch := func(ctx context.Context) iter.Seq2[[]string, error] {
					return func(yield func([]string, error) bool) {
						for {
							select {
							case a := <-lists:
								if !yield(a.addresses, a.err) {
									return
								}
							case <-ends:
								mishap.end()
								return
							case <-ctx.Done():
								return
							}
						}
					}
				}
				go func() { lists <- answer{addresses: []string{"a"}} }()
				require.NoError(t, s.Follow(t.Context(), pooly.ResolverFunc(watch)))
				ends <- struct{}{}
				synctest.Wait()
				require.Equal(t, []string{"a"}, addresses(s), "the hosts stay")
				require.Contains(t, log.String(), "level=WARN")
				require.Contains(t, log.String(), mishap.says)

				began := time.Now()
				lists.finds("b")
				require.Equal(t, []string{"b"}, addresses(s))
				require.InDelta(t, 0.9, time.Since(began).Seconds(), 0.1)
			})
		})
	}
}

func TestFollowSaysThatTheResolverEndedAndHasItsHostsLater(t *testing.T) {
	for name, mishap := range mishaps {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{})
				calls := 0
				watch := func(ctx context.Context) iter.Seq2[[]string, error] {
					return func(yield func([]string, error) bool) {
						if calls++; calls == 1 {
							mishap.end()
							return
						}
						yield([]string{"a"}, nil)
						<-ctx.Done()
					}
				}
				err := s.Follow(t.Context(), pooly.ResolverFunc(watch))
				if name == "returns" {
					require.ErrorContains(t, err, "ended without an answer")
				} else {
					require.ErrorContains(t, err, mishap.says)
				}
				require.Empty(t, addresses(s))
				time.Sleep(time.Second)
				synctest.Wait()
				require.Equal(t, []string{"a"}, addresses(s))
			})
		})
	}
}

// brief is a resolver whose every Watch answers and then ends, after a while.
type brief struct {
	end func()

	mu    sync.Mutex // guards the fields below
	lasts time.Duration
	ended []time.Time // when each Watch did
}

func (r *brief) Watch(ctx context.Context) iter.Seq2[[]string, error] {
	return func(yield func([]string, error) bool) {
		yield([]string{"a"}, nil) // which is no sign that it will last
		r.mu.Lock()
		lasts := r.lasts
		r.mu.Unlock()
		select {
		case <-time.After(lasts):
		case <-ctx.Done():
		}
		r.mu.Lock()
		r.ended = append(r.ended, time.Now())
		r.mu.Unlock()
		r.end()
	}
}

// starts has each Watch from now on last for d, and forgets those before.
func (r *brief) starts(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lasts, r.ended = d, nil
}

// requirePauses requires that the first pauses took so many seconds, or up to a fifth less.
func (r *brief) requirePauses(t *testing.T, seconds ...float64) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Greater(t, len(r.ended), len(seconds))
	for i, longest := range seconds {
		pause := r.ended[i+1].Sub(r.ended[i]).Seconds()
		require.LessOrEqual(t, pause, longest)
		require.GreaterOrEqual(t, pause, 0.8*longest)
	}
}

func TestResolverThatEndsAgainAndAgainIsAskedEverMoreRarely(t *testing.T) {
	for name, mishap := range mishaps {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := newService(t, pooly.ServiceConfig{})
				r := &brief{end: mishap.end}
				r.starts(time.Nanosecond)
				require.NoError(t, s.Follow(t.Context(), r))
				time.Sleep(2 * time.Minute)
				r.requirePauses(t, 1, 2, 4, 8, 16, 30, 30)

				r.starts(time.Minute)
				time.Sleep(time.Minute)
				r.starts(time.Nanosecond) // the one that runs still lasts a minute
				time.Sleep(time.Minute + 15*time.Second)
				r.requirePauses(t, 1, 2, 4)
			})
		})
	}
}

// Its goroutines are over, or synctest would complain.
func TestCloseAndAnotherFollowDoNotWaitForTheNextWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{})
		watch := func(context.Context) iter.Seq2[[]string, error] { panic("again") }
		panics := pooly.ResolverFunc(watch)
		began := time.Now()
		require.Error(t, s.Follow(t.Context(), panics))
		r := make(script)
		go func() { r <- answer{addresses: []string{"a"}} }()
		require.NoError(t, s.Follow(t.Context(), r))
		require.Equal(t, []string{"a"}, addresses(s))
		require.Error(t, s.Follow(t.Context(), panics))
		require.NoError(t, s.Close())
		require.Zero(t, time.Since(began))
	})
}

// A resolver of one's own: here for a list that another part of the program sends.
func ExampleService_Follow() {
	lists := make(chan []string, 1)
	lists <- []string{"10.0.0.1:6379", "10.0.0.2:6379"}
	watch := func(ctx context.Context) iter.Seq2[[]string, error] {
		return func(yield func([]string, error) bool) {
			for {
				select {
				case hosts := <-lists:
					if !yield(hosts, nil) {
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}
	}

	s := pooly.NewService("cache", &pooly.ServiceConfig{PrespawnConns: -1})
	defer s.Close()
	if err := s.Follow(context.Background(), pooly.ResolverFunc(watch)); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(s.Stats().Hosts), "hosts")
	// Output: 2 hosts
}
