package pooly_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// embedding is a client that embeds its socket.
type embedding struct {
	net.Conn
	r *bufio.Reader
}

// naming is a client that has its socket in a field, and says so by a method.
type naming struct {
	conn net.Conn
	r    *bufio.Reader
}

func (c *naming) NetConn() net.Conn { return c.conn }

func (c *embedding) line() (string, error) { return askLine(c.Conn, c.r) }
func (c *naming) line() (string, error)    { return askLine(c.conn, c.r) }

type liner interface{ line() (string, error) }

func askLine(c net.Conn, r *bufio.Reader) (string, error) {
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return "", err
	}
	return r.ReadString('\n')
}

// byHand is a driver as people write it around a NetDriver.
type byHand struct{ net *pooly.NetDriver }

func (d byHand) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.net.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(&naming{c.NetConn(), bufio.NewReader(c.NetConn())}), nil
}

func (d byHand) Close(c *pooly.Conn)              { d.net.Close(c) }
func (d byHand) TestOnBorrow(c *pooly.Conn) error { return d.net.TestOnBorrow(c) }
func (d byHand) Temporary(error) bool             { return false }

// embedder is a driver that embeds a NetDriver.
type embedder struct{ *pooly.NetDriver }

func (d embedder) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.NetDriver.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(&embedding{c.NetConn(), bufio.NewReader(c.NetConn())}), nil
}

// wrappingDrivers are the ways to write a driver whose connections are more than a net.Conn.
func wrappingDrivers(d *pooly.NetDriver) map[string]pooly.Driver {
	return map[string]pooly.Driver{
		"by hand":              byHand{d},
		"an embedded driver":   embedder{d},
		"DriverOf, embedding":  pooly.DriverOf(pooly.DriverFuncs[*embedding]{Dial: dialEmbedding(d)}),
		"DriverOf, by NetConn": pooly.DriverOf(pooly.DriverFuncs[*naming]{Dial: dialNaming(d)}),
	}
}

func dialEmbedding(d *pooly.NetDriver) func(context.Context, string) (*embedding, error) {
	return func(ctx context.Context, address string) (*embedding, error) {
		c, err := d.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return &embedding{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
	}
}

func dialNaming(d *pooly.NetDriver) func(context.Context, string) (*naming, error) {
	return func(ctx context.Context, address string) (*naming, error) {
		c, err := d.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return &naming{c.NetConn(), bufio.NewReader(c.NetConn())}, nil
	}
}

// eachWrapping runs a test with each wrapping driver, over plain sockets, over TLS, and with
// timeouts.
func eachWrapping(
	t *testing.T, serve func(net.Conn), test func(t *testing.T, s *pooly.Service, address string),
) {
	t.Helper()
	plain, secure := pooly.NewNetDriver("tcp"), pooly.NewNetDriver("tcp")
	timeout, secureTimeout := pooly.NewNetDriver("tcp"), pooly.NewNetDriver("tcp")
	timeout.SetReadTimeout(time.Minute)
	secureTimeout.SetReadTimeout(time.Minute)
	address := listen(t, serve)
	secureAddress, config := tlsServer(t, serve, "127.0.0.1")
	secure.SetTLSConfig(config)
	secureTimeout.SetTLSConfig(config)
	for _, over := range []struct {
		name    string
		driver  *pooly.NetDriver
		address string
	}{
		{"plain", plain, address},
		{"timeouts", timeout, address},
		{"tls", secure, secureAddress},
		{"tls, timeouts", secureTimeout, secureAddress},
	} {
		for name, d := range wrappingDrivers(over.driver) {
			t.Run(over.name+", "+name, func(t *testing.T) {
				s := pooly.NewService("wrapped", &pooly.ServiceConfig{
					PoolConfig:    pooly.PoolConfig{Driver: d, MaxConns: 1},
					PrespawnConns: -1,
					Logger:        slog.New(slog.DiscardHandler),
				})
				defer func() { require.NoError(t, s.Close()) }()
				s.Add(over.address)
				test(t, s, over.address)
			})
		}
	}
}

func TestDoEndsWithItsContextAlsoOverADriversOwnType(t *testing.T) {
	silent := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	eachWrapping(t, silent, func(t *testing.T, s *pooly.Service, _ string) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			ended <- s.Do(ctx, func(c *pooly.Conn) error {
				_, err := c.Interface().(liner).line()
				return err
			})
		}()
		select {
		case err := <-ended:
			require.ErrorIs(t, err, context.DeadlineExceeded)
		case <-time.After(20 * time.Second):
			t.Fatal("Do hangs although its context has ended")
		}
		eventually(t, func() bool { return s.Stats().Open == 0 })
	})
}

func TestWrappedConnectionsAreKeptAndCheckedLikeNetDrivers(t *testing.T) {
	serve := func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, line)
			if line == "bye!\n" {
				return
			}
		}
	}
	eachWrapping(t, serve, func(t *testing.T, s *pooly.Service, address string) {
		ask := func() {
			t.Helper()
			require.NoError(t, s.Do(t.Context(), func(c *pooly.Conn) error {
				line, err := c.Interface().(liner).line()
				if err == nil && line != "ping\n" {
					err = fmt.Errorf("got %q", line)
				}
				return err
			}))
		}
		say := func(line string, read int) {
			t.Helper()
			require.NoError(t, s.Do(t.Context(), func(c *pooly.Conn) error {
				if _, err := io.WriteString(c.NetConn(), line); err != nil {
					return err
				}
				_, err := io.ReadFull(c.NetConn(), make([]byte, read))
				return err
			}))
			time.Sleep(50 * time.Millisecond) // what the server sends is on its way
		}
		for range 5 {
			ask()
		}
		require.EqualValues(t, 1, hostStats(t, s, address).Dials, "connections are not kept")
		say("bye!\n", 5)
		ask() // fails if the closed connection is handed out
		require.EqualValues(t, 2, hostStats(t, s, address).Dials)
		say("late\n", 0)
		ask() // gets the wrong reply if the connection is handed out
		require.EqualValues(t, 3, hostStats(t, s, address).Dials)
		say("half\n", 2) // over TLS the rest is decrypted, and no more in the socket
		ask()
		require.EqualValues(t, 4, hostStats(t, s, address).Dials)
	})
}

func TestDriverOfAsksItsFunctions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type client struct{ closed, tested int }
		var unfit error
		var all []*client
		d := pooly.DriverOf(pooly.DriverFuncs[*client]{
			Dial: func(context.Context, string) (*client, error) {
				all = append(all, &client{})
				return all[len(all)-1], nil
			},
			Close:     func(c *client) error { c.closed++; return nil },
			Test:      func(c *client) error { c.tested++; return unfit },
			Temporary: func(err error) bool { return errors.Is(err, errTemporary) },
		})
		s := pooly.NewService("test", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1,
		})
		defer s.Close()
		s.Add("a")
		c := get(t, s)
		require.Same(t, all[0], pooly.Value[*client](c))
		require.Nil(t, c.NetConn())
		require.NoError(t, c.Release(errTemporary, pooly.HostUp))
		release(t, get(t, s))
		synctest.Wait()
		require.Len(t, all, 1)
		require.Zero(t, all[0].closed)
		require.Positive(t, all[0].tested)

		unfit = errDead
		c = get(t, s)
		require.NoError(t, c.Release(errFatal, pooly.HostUp))
		synctest.Wait()
		require.Greater(t, len(all), 1)
		for _, c := range all {
			require.Equal(t, 1, c.closed)
		}
		require.Panics(t, func() { pooly.Value[int](c) })
	})
	require.PanicsWithError(t, "pooly: invalid argument: DriverOf: DriverFuncs.Dial is nil", func() {
		pooly.DriverOf(pooly.DriverFuncs[int]{})
	})
}

// quiet has a Close without a result; what has none is closed by its socket.
type quiet struct{ closed *int }

func (c quiet) Close() { *c.closed++ }

func TestDriverOfClosesWithoutACloseFunction(t *testing.T) {
	closed := 0
	d := pooly.DriverOf(pooly.DriverFuncs[quiet]{
		Dial: func(context.Context, string) (quiet, error) { return quiet{&closed}, nil },
	})
	c, err := d.Dial(t.Context(), "a")
	require.NoError(t, err)
	d.Close(c)
	require.Equal(t, 1, closed)

	near, far := net.Pipe()
	byNetConn := pooly.DriverOf(pooly.DriverFuncs[*naming]{
		Dial: func(context.Context, string) (*naming, error) { return &naming{conn: near}, nil },
	})
	c, err = byNetConn.Dial(t.Context(), "a")
	require.NoError(t, err)
	byNetConn.Close(c)
	_, err = far.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

func TestDoWithHandsOverTheConnectionAndTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newService(t, pooly.ServiceConfig{}, "a")
		type key struct{}
		ctx := context.WithValue(t.Context(), key{}, "mine")
		require.NoError(t, pooly.DoWith(ctx, s, func(ctx context.Context, c *fakeConn) error {
			require.Equal(t, "mine", ctx.Value(key{}))
			require.NotNil(t, c.host)
			return nil
		}))
		id, err := pooly.CallWith(ctx, s, func(_ context.Context, c *fakeConn) (int, error) {
			return c.id + 7, nil
		})
		require.NoError(t, err)
		require.Equal(t, 7, id)
		id, err = pooly.CallWith(ctx, s, func(context.Context, *fakeConn) (int, error) {
			return 1, errTemporary
		})
		require.Equal(t, errTemporary, err)
		require.Zero(t, id)

		s, _ = newService(t, pooly.ServiceConfig{}, "a")
		err = pooly.DoWith(ctx, s, func(context.Context, *tls.Conn) error { return nil })
		require.ErrorIs(t, err, pooly.ErrInvalidArg)
		require.ErrorContains(t, err, "*tls.Conn, not *pooly_test.fakeConn")
		time.Sleep(time.Second)
		_, trials := mean(t, s, "a")
		require.Zero(t, trials, "the caller's mistake was rated")
	})
}

var errNoUser = errors.New("no such user")

func TestAnswersOfTheServerNeitherCloseConnectionsNorEjectHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
		for i := range 100 {
			err := s.Do(t.Context(), func(c *pooly.Conn) error {
				if c.Address() == "a" {
					return nil
				}
				if i%2 == 0 {
					return fmt.Errorf("user %d: %w", i, pooly.Answered(errNoUser))
				}
				return pooly.Answered(errNoUser)
			})
			if err != nil {
				require.ErrorIs(t, err, errNoUser)
			}
			if i%2 == 1 && err != nil {
				require.Equal(t, errNoUser, err, "a mark that nothing wraps is taken off")
			}
		}
		require.NoError(t, get(t, s).Release(pooly.Answered(errNoUser), 0.5))
		err := pooly.Answered(errNoUser)
		require.NoError(t, get(t, s).Release(&err, pooly.HostUp))
		synctest.Wait()
		time.Sleep(time.Second)
		b := hostStats(t, s, "b")
		require.Zero(t, b.Ejections)
		require.Zero(t, d.host("a").closed+d.host("b").closed)
		require.Greater(t, b.Score, 0.6)
		require.NoError(t, pooly.Answered(nil))
	})
}

func TestAnswersMayBeRetriedOnAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a", "b")
		var asked []string
		err := s.Do(t.Context(), func(c *pooly.Conn) error {
			asked = append(asked, c.Address())
			if len(asked) == 1 {
				return pooly.Retry(pooly.Answered(errors.New("LOADING")))
			}
			return pooly.Answered(pooly.Retry(errNoUser))
		})
		require.Equal(t, errNoUser, err)
		require.Len(t, asked, 3)
		require.NotEqual(t, asked[0], asked[1])
		synctest.Wait()
		require.Zero(t, d.host("a").closed+d.host("b").closed)
		score, trials := mean(t, s, asked[1])
		require.Less(t, score, 0.5)
		require.Positive(t, trials)
	})
}

// An I/O error beside the answer means that the connection is broken.
func TestAnAnswerJoinedWithAnIOErrorClosesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		require.Error(t, s.Do(t.Context(), func(*pooly.Conn) error {
			return errors.Join(pooly.Answered(errNoUser), io.ErrUnexpectedEOF)
		}))
		synctest.Wait()
		require.Equal(t, 1, d.host("a").closed)
	})
}

// panicker is a connection that cannot say what its socket is.
type panicker struct{}

func (panicker) NetConn() net.Conn { panic("not connected yet") }

func TestConnectionWhoseNetConnPanicsKeepsNoPlace(t *testing.T) {
	d := &rogueDriver{Driver: newFakeDriver()}
	d.dial = func(context.Context, string) (*pooly.Conn, error) { return pooly.NewConn(panicker{}), nil }
	d.close = func(*pooly.Conn) {}
	d.testOnBorrow = func(*pooly.Conn) error { return nil }
	s := pooly.NewService("test", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}})
	defer s.Close()
	s.Add("a")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	require.Panics(t, func() { _ = s.Do(ctx, func(*pooly.Conn) error { return nil }) })
	eventually(t, func() bool { return s.Stats().InUse == 0 })
}

// A deferred Release sees what the function returns only if its result has a name.
func TestDeferredReleaseSeesTheErrorOfANamedResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{}, "a")
		ask := func(*pooly.Conn) error { return errFatal }
		use := func() (err error) {
			c, err := s.GetConn()
			if err != nil {
				return err
			}
			defer c.Release(&err, pooly.HostUp)
			return ask(c)
		}
		require.Equal(t, errFatal, use())
		synctest.Wait()
		require.Equal(t, 1, d.host("a").closed)
		require.Less(t, hostStats(t, s, "a").Score, 0.5)
	})
}
