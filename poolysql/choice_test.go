package poolysql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
)

func TestEachQueryChoosesItsHost(t *testing.T) {
	w := newWorld(full, "a", "b")
	db, s := open(t, w, nil)
	for range 1000 {
		_, err := hostOf(t.Context(), db)
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int{"a": 500, "b": 500}, w.queries())
	require.EqualValues(t, 2, s.Stats().Dials)
	requireIdle(t, s)
	require.Zero(t, db.Stats().OpenConnections, "database/sql keeps none")
}

// Programs that wrap connectors, for tracing say, call sql.OpenDB by themselves.
func TestOpenDBKeepsNoConnectionWhateverItsSettings(t *testing.T) {
	w := newWorld(full, "a", "b")
	s := newService(t, w, nil)
	db := sql.OpenDB(poolysql.NewConnector(s))
	defer db.Close()
	db.SetMaxIdleConns(10)
	db.SetConnMaxLifetime(time.Hour)
	db.SetConnMaxIdleTime(time.Hour)
	for range 100 {
		_, err := hostOf(t.Context(), db)
		require.NoError(t, err)
	}
	require.Equal(t, map[string]int{"a": 50, "b": 50}, w.queries())
	require.Zero(t, db.Stats().OpenConnections)
}

func TestAHostThatDiesFailsNoQuery(t *testing.T) {
	for _, k := range []kind{full, bare, legacy} { // of which only full has a ResetSession
		for _, workers := range []int{1, 8} {
			t.Run(fmt.Sprintf("kind %d, %d workers", k, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(k, "a", "b", "c")
					pause := func(context.Context, *fakeConn, string) error { time.Sleep(time.Millisecond); return nil }
					for _, h := range w.hosts {
						h.answer = pause
					}
					db, s := open(t, w, nil)
					var failed atomic.Int64
					var wg sync.WaitGroup
					load := func(n int) {
						for range workers {
							wg.Go(func() {
								for range n / workers {
									if _, err := hostOf(context.Background(), db); err != nil {
										failed.Add(1)
									}
								}
							})
						}
						wg.Wait()
					}
					load(200)
					w.die("b") // while nothing is in flight
					load(1000)
					require.Zero(t, failed.Load())
					require.True(t, statsOf(s, "b").Ejected)
					requireIdle(t, s)

					w.lock(func() { w.hosts["b"].down = false })
					time.Sleep(20 * second)
					before := w.queries()["b"]
					load(300)
					require.Greater(t, w.queries()["b"]-before, 80, "it takes its share again")
					require.Zero(t, failed.Load())
				})
			})
		}
	}
}

// Many connections of the dead host are idle when database/sql tries three times.
func TestADeadHostWithManyIdleConnectionsFailsNoQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a", "b")
		db, s := open(t, w, nil)
		var held []*sql.Conn
		for range 40 {
			c, err := db.Conn(t.Context())
			require.NoError(t, err)
			require.NoError(t, c.PingContext(t.Context()))
			held = append(held, c)
		}
		for _, c := range held {
			require.NoError(t, c.Close())
		}
		w.lock(func() {
			for _, c := range w.hosts["a"].open {
				c.invalid = true // what a driver finds in ResetSession
			}
			w.hosts["a"].down = true
		})
		for range 100 {
			host, err := hostOf(t.Context(), db)
			require.NoError(t, err)
			require.Equal(t, "b", host)
		}
		requireIdle(t, s)
	})
}

func TestAnswersOfTheServerEjectNobodyAndCloseNothing(t *testing.T) {
	w := newWorld(full, "a", "b")
	constraint := errors.New("fake: duplicate key")
	w.hosts["a"].answer = func(context.Context, *fakeConn, string) error { return constraint }
	db, s := open(t, w, nil)
	failures := 0
	for range 100 {
		_, err := db.ExecContext(t.Context(), "insert")
		if err != nil {
			require.ErrorIs(t, err, constraint)
			failures++
		}
		_, err = db.QueryContext(t.Context(), "syntax")
		require.ErrorIs(t, err, errDialect)
		_, err = db.PrepareContext(t.Context(), "syntax")
		require.ErrorIs(t, err, errDialect)
	}
	require.InDelta(t, 50, failures, 2)
	stats := s.Stats()
	require.EqualValues(t, 2, stats.Dials)
	for _, h := range stats.Hosts {
		require.False(t, h.Ejected, h.Address)
		require.Zero(t, h.Failures, h.Address)
	}
	requireIdle(t, s)
}

func TestNoRowsIsNoError(t *testing.T) {
	w := newWorld(full, "a")
	w.hosts["a"].answer = nil
	db, s := open(t, w, nil)
	for range 20 {
		err := db.QueryRowContext(t.Context(), "empty").Scan(new(string), new(int))
		require.ErrorIs(t, err, sql.ErrNoRows)
	}
	require.EqualValues(t, 1, s.Stats().Dials)
	require.False(t, statsOf(s, "a").Ejected)
}

// What breaks a connection closes it and rates the host, so that the host is ejected.
func TestBrokenConnectionsAreClosedAndEjectTheHost(t *testing.T) {
	for name, broken := range map[string]struct {
		err     error
		invalid bool
	}{
		"ErrBadConn":      {err: driver.ErrBadConn},
		"reset by peer":   {err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}},
		"wrapped timeout": {err: fmt.Errorf("fake: %w", &net.OpError{Op: "read", Err: timeout{}})},
		"end of stream":   {err: fmt.Errorf("fake: %w", io.ErrUnexpectedEOF)},
		"not valid":       {err: errors.New("fake: terminating connection"), invalid: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(full, "a", "b")
				w.hosts["a"].answer = func(_ context.Context, c *fakeConn, _ string) error {
					w.lock(func() { c.invalid = broken.invalid })
					return broken.err
				}
				db, s := open(t, w, nil)
				failures := 0
				for range 40 {
					if _, err := db.ExecContext(t.Context(), "insert"); err != nil {
						failures++
					}
				}
				synctest.Wait()
				a := statsOf(s, "a")
				require.True(t, a.Ejected)
				require.Zero(t, a.Open)
				require.EqualValues(t, pooly.DefaultConsecutiveFailures, a.Dials, "each was closed")
				if broken.err == driver.ErrBadConn {
					require.Zero(t, failures, "database/sql has gone to another host")
				} else {
					require.Equal(t, pooly.DefaultConsecutiveFailures, failures)
				}
				requireIdle(t, s)
			})
		})
	}
}

type timeout struct{}

func (timeout) Error() string   { return "fake: i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }

func TestACancelledQueryRatesNothing(t *testing.T) {
	for name, tt := range map[string]struct {
		kind    kind
		invalid bool
		closed  bool
	}{
		"and keeps a connection that says it is valid": {kind: full},
		"and closes one that says it is not":           {kind: full, invalid: true, closed: true},
		"and closes one that cannot say":               {kind: bare, closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(tt.kind, "a", "b")
				ctx, cancel := context.WithCancel(t.Context())
				for _, h := range w.hosts {
					h.answer = func(_ context.Context, c *fakeConn, query string) error {
						if query != "wait" {
							return nil
						}
						<-ctx.Done()
						w.lock(func() { c.invalid = tt.invalid })
						return ctx.Err()
					}
				}
				db, s := open(t, w, nil)
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() { _, _ = db.ExecContext(ctx, "wait") })
				}
				synctest.Wait()
				trials := trialsOf(s)
				cancel()
				wg.Wait()
				time.Sleep(second)
				stats := s.Stats()
				for _, h := range stats.Hosts {
					require.False(t, h.Ejected)
				}
				require.Equal(t, trials, trialsOf(s))
				dialed := int(stats.Dials)
				if tt.closed {
					require.Equal(t, dialed-20, stats.Open)
				} else {
					require.Equal(t, dialed, stats.Open)
				}
				requireIdle(t, s)
			})
		})
	}
}

func trialsOf(s *pooly.Service) (n float64) {
	for _, h := range s.Stats().Hosts {
		n += h.Trials
	}
	return n
}

// A driver may return what the server said when it was asked to stop.
func TestADeadlineThatPassesAtTheHostRatesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a", "b")
		w.hosts["a"].answer = func(ctx context.Context, _ *fakeConn, _ string) error {
			<-ctx.Done()
			return errors.New("fake: canceled on the user's request")
		}
		db, s := open(t, w, nil)
		for range 40 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			_, _ = db.ExecContext(ctx, "insert")
			cancel()
		}
		require.GreaterOrEqual(t, statsOf(s, "a").Ejections, uint64(1))
		require.Greater(t, w.queries()["b"], 25)
		requireIdle(t, s)
	})
}

func TestAStreamThatBreaksRatesTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a", "b")
		db, s := open(t, w, nil)
		for range pooly.DefaultConsecutiveFailures {
			c, err := db.Conn(t.Context()) // of either host in turn
			require.NoError(t, err)
			rows, err := c.QueryContext(t.Context(), "select breaks")
			require.NoError(t, err)
			for rows.Next() {
			}
			require.ErrorIs(t, rows.Err(), errStream)
			require.NoError(t, c.Close())
		}
		requireNoneOpen(t, s)
		time.Sleep(second)
		require.Less(t, statsOf(s, "a").Score, 0.5)
		require.Less(t, statsOf(s, "b").Score, 0.5)
	})
}

func TestTheCallersContextBoundsTheWaitForALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		db, s := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) { c.MaxConns = 1 })
		held, err := db.Conn(t.Context())
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), second)
		defer cancel()
		began := time.Now()
		_, err = db.ExecContext(ctx, "insert")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, second, time.Since(began))
		var failure *pooly.GetConnError
		require.ErrorAs(t, err, &failure)
		require.NoError(t, held.Close())
		requireIdle(t, s)
	})
}

// Otherwise database/sql would have pooly search all hosts three times.
func TestConnectDoesNotHaveDatabaseSQLTryAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		calls := 0
		db, _ := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) {
			c.GetAttempts = 2
			c.Driver = poolysql.NewDriver(func(string) (driver.Connector, error) {
				calls++
				return nil, fmt.Errorf("%w: handshake", driver.ErrBadConn)
			})
		})
		_, err := db.ExecContext(t.Context(), "insert")
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
		require.NotErrorIs(t, err, driver.ErrBadConn)
		var failure *pooly.GetConnError
		require.ErrorAs(t, err, &failure)
		require.LessOrEqual(t, calls, 3, "rounds of one search, and a probe")
	})
}

func TestErrBadConnIsTriedThreeTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a", "b", "c", "d")
		for _, h := range w.hosts {
			h.answer = func(context.Context, *fakeConn, string) error { return driver.ErrBadConn }
		}
		db, s := open(t, w, nil)
		_, err := db.ExecContext(t.Context(), "insert")
		require.ErrorIs(t, err, driver.ErrBadConn)
		n := w.queries()
		require.Equal(t, 3, n["a"]+n["b"]+n["c"]+n["d"])
		for host, queries := range n {
			require.LessOrEqual(t, queries, 1, host)
		}
		requireIdle(t, s)
	})
}

func TestTemporaryCanBeOverridden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a", "b")
		w.hosts["a"].answer = func(context.Context, *fakeConn, string) error { return errReadOnly }
		db, s := open(t, w, func(c *pooly.ServiceConfig, d *poolysql.Driver) { c.Driver = readOnlyIsDown{d} })
		for range 20 {
			_, _ = db.ExecContext(t.Context(), "insert")
		}
		require.True(t, statsOf(s, "a").Ejected)
		require.Equal(t, pooly.DefaultConsecutiveFailures, w.queries()["a"])
	})
}

var errReadOnly = errors.New("fake: read-only")

type readOnlyIsDown struct{ *poolysql.Driver }

func (d readOnlyIsDown) Temporary(err error) bool {
	return !errors.Is(err, errReadOnly) && d.Driver.Temporary(err)
}

func TestAServiceWithAnotherDriverIsAClearError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	s := pooly.NewService("other", nil)
	defer s.Close()
	s.Add(l.Addr().String())
	db := poolysql.Open(s)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), "insert")
	require.ErrorIs(t, err, pooly.ErrInvalidArg)
	require.ErrorContains(t, err, "NewDriver")
	requireIdle(t, s)
}

func TestWrongArgumentsPanic(t *testing.T) {
	require.PanicsWithError(t, "pooly: invalid argument: NewDriver: the function is nil", func() { poolysql.NewDriver(nil) })
	require.PanicsWithError(t, "pooly: invalid argument: NewConnector: the service is nil", func() { poolysql.Open(nil) })
}

func TestADriverThatReturnsNothingIsAClearError(t *testing.T) {
	d := poolysql.NewDriver(func(string) (driver.Connector, error) { return nil, nil })
	_, err := d.Dial(t.Context(), "a")
	require.ErrorContains(t, err, "neither a connector nor an error")
	_, err = poolysql.NewConnector(newService(t, newWorld(full, "a"), nil)).Driver().Open("dsn")
	require.ErrorContains(t, err, "poolysql.Open")
}
