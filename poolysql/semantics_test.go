package poolysql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
)

func TestATxKeepsItsLease(t *testing.T) {
	w := newWorld(full, "a", "b")
	db, s := open(t, w, nil)
	for range 4 {
		tx, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
		require.NoError(t, err)
		first, err := hostOf(t.Context(), tx)
		require.NoError(t, err)
		for range 5 {
			host, err := hostOf(t.Context(), tx)
			require.NoError(t, err)
			require.Equal(t, first, host)
		}
		require.Equal(t, 1, s.Stats().InUse)
		require.NoError(t, tx.Commit())
		requireIdle(t, s)
		require.ErrorIs(t, tx.Rollback(), sql.ErrTxDone)
	}
	require.Equal(t, map[string]int{"a": 16, "b": 16}, w.queries())
	require.EqualValues(t, 2, s.Stats().Dials)
}

func TestATxThatIsRolledBackGivesItsConnectionBack(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.Exec("syntax")
	require.ErrorIs(t, err, errDialect)
	require.NoError(t, tx.Rollback())
	requireIdle(t, s)
	require.Equal(t, 1, s.Stats().Open)
}

func TestATxWhoseContextEndsGivesItsLeaseBack(t *testing.T) {
	for name, tt := range map[string]struct {
		kind kind
		kept int
	}{
		"its connection is kept if it can be reset": {full, 1},
		"and closed if not":                         {bare, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(tt.kind, "a")
				db, s := open(t, w, nil)
				ctx, cancel := context.WithCancel(t.Context())
				tx, err := db.BeginTx(ctx, nil)
				require.NoError(t, err)
				_, err = tx.ExecContext(ctx, "insert")
				require.NoError(t, err)
				cancel()
				synctest.Wait()
				requireIdle(t, s)
				require.Equal(t, tt.kept, s.Stats().Open)
				require.Error(t, tx.Commit())
				require.False(t, statsOf(s, "a").Ejected)
			})
		})
	}
}

// A user who holds a transaction for longer than its context breaks the connection, and the host is
// not to blame.
func TestARollbackThatFailsAfterTheContextRatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		w.hosts["a"].answer = func(_ context.Context, _ *fakeConn, query string) error {
			if query == "rollback" {
				return driver.ErrBadConn
			}
			return nil
		}
		db, s := open(t, w, nil)
		for range 2 * pooly.DefaultConsecutiveFailures {
			ctx, cancel := context.WithTimeout(t.Context(), second)
			_, err := db.BeginTx(ctx, nil)
			require.NoError(t, err)
			time.Sleep(2 * second)
			cancel()
		}
		require.Zero(t, statsOf(s, "a").Ejections)
		require.GreaterOrEqual(t, statsOf(s, "a").Score, 0.5)
		require.Zero(t, s.Stats().Open)
		requireIdle(t, s)
	})
}

func TestBeginTxOnADeadHostGoesToAnother(t *testing.T) {
	w := newWorld(bare, "a", "b")
	db, s := open(t, w, nil)
	for range 4 {
		_, err := hostOf(t.Context(), db)
		require.NoError(t, err)
	}
	w.die("a")
	for range 20 {
		tx, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		host, err := hostOf(t.Context(), tx)
		require.NoError(t, err)
		require.Equal(t, "b", host)
		require.NoError(t, tx.Commit())
	}
	requireIdle(t, s)
}

func TestAConnIsPinned(t *testing.T) {
	w := newWorld(full, "a", "b")
	db, s := open(t, w, nil)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	first, err := hostOf(t.Context(), c)
	require.NoError(t, err)
	for range 10 {
		host, err := hostOf(t.Context(), c)
		require.NoError(t, err)
		require.Equal(t, first, host)
		_, err = hostOf(t.Context(), db)
		require.NoError(t, err)
	}
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Close(), sql.ErrConnDone)
	requireIdle(t, s)
}

func TestAStmtRunsOnEveryHostAndIsPreparedOncePerConnection(t *testing.T) {
	for _, k := range []kind{full, bare, legacy} {
		t.Run(fmt.Sprint("kind ", k), func(t *testing.T) {
			w := newWorld(k, "a", "b", "c")
			db, s := open(t, w, nil)
			stmt, err := db.PrepareContext(t.Context(), "select")
			require.NoError(t, err)
			served := make(map[string]int)
			for range 300 {
				var host string
				var number int
				require.NoError(t, stmt.QueryRowContext(t.Context()).Scan(&host, &number))
				served[host]++
			}
			require.Equal(t, map[string]int{"a": 100, "b": 100, "c": 100}, served)
			for _, h := range w.hosts {
				require.Equal(t, 1, h.prepare, h.address)
			}
			require.NoError(t, stmt.Close())
			requireIdle(t, s)
			require.NoError(t, s.Close())
			require.Zero(t, w.openConns())
		})
	}
}

// A driver that can run a query with arguments only prepared, as go-sql-driver/mysql, prepares it
// once per connection, too.
func TestQueriesThatMustBePreparedAreKept(t *testing.T) {
	w := newWorld(full, "a")
	db, _ := open(t, w, nil)
	for range 10 {
		_, err := db.ExecContext(t.Context(), "prepared insert ?", 1)
		require.NoError(t, err)
		rows, err := db.QueryContext(t.Context(), "prepared select ?", 1)
		require.NoError(t, err)
		require.NoError(t, rows.Close())
	}
	require.Equal(t, 2, w.hosts["a"].prepare)
}

func TestStatementsKeptAreBoundedAndClosedWithTheConnection(t *testing.T) {
	for most, prepares := range map[int]int{-1: 30, 0: 30, 2: 30, 3: 3, 10: 3} {
		w := newWorld(full, "a")
		db, s := open(t, w, func(_ *pooly.ServiceConfig, d *poolysql.Driver) { d.SetMaxStatements(most) })
		var conn *fakeConn
		for range 10 {
			for _, query := range []string{"one", "two", "three"} {
				stmt, err := db.PrepareContext(t.Context(), query)
				require.NoError(t, err)
				require.NoError(t, stmt.Close())
			}
			conn = w.hosts["a"].open[0]
			require.LessOrEqual(t, conn.stmts, max(most, 0))
		}
		require.Equal(t, prepares, w.hosts["a"].prepare, "%d", most)
		require.NoError(t, s.Close())
		require.Zero(t, conn.stmts, "all are closed, and before their connection")
	}
}

func TestTheStatementThatWasNotUsedForLongestIsClosedFirst(t *testing.T) {
	w := newWorld(full, "a")
	w.keep = true
	db, _ := open(t, w, func(_ *pooly.ServiceConfig, d *poolysql.Driver) { d.SetMaxStatements(2) })
	for _, query := range []string{"one", "two", "one", "three", "one", "two"} {
		stmt, err := db.PrepareContext(t.Context(), query)
		require.NoError(t, err)
		require.NoError(t, stmt.Close())
	}
	require.Equal(t, []string{
		`prepare "one" <nil>`, `prepare "two" <nil>`, `prepare "three" <nil>`, `close statement "two"`,
		`prepare "two" <nil>`, `close statement "three"`,
	}, w.log)
}

// The table may have changed since the statement was prepared.
func TestAStatementThatFailedIsPreparedAnew(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	errPlan := errors.New("fake: cached plan must not change result type")
	fail := false
	w.hosts["a"].answer = func(_ context.Context, _ *fakeConn, query string) error {
		if fail {
			fail = false
			return errPlan
		}
		return nil
	}
	query := func() error {
		_, err := db.ExecContext(t.Context(), "prepared insert")
		return err
	}
	require.NoError(t, query())
	fail = true
	require.ErrorIs(t, query(), errPlan)
	require.NoError(t, query())
	require.Equal(t, 2, w.hosts["a"].prepare)
	require.EqualValues(t, 1, s.Stats().Dials)
}

// Two statements of one connection with the same text must not share what the driver has of it.
func TestAStatementInUseIsNotShared(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	one, err := c.PrepareContext(t.Context(), "select")
	require.NoError(t, err)
	two, err := c.PrepareContext(t.Context(), "select")
	require.NoError(t, err)
	require.Equal(t, 2, w.hosts["a"].open[0].stmts)

	rows, err := one.QueryContext(t.Context())
	require.NoError(t, err)
	require.NoError(t, one.Close()) // under its rows, which the driver may need it for
	three, err := c.PrepareContext(t.Context(), "select")
	require.NoError(t, err)
	require.Equal(t, 3, w.hosts["a"].prepare)
	require.NoError(t, rows.Close())

	require.NoError(t, c.Close())
	requireIdle(t, s)
	require.NoError(t, two.Close()) // after its connection
	require.NoError(t, three.Close())
	require.Equal(t, 2, w.hosts["a"].open[0].stmts, "both are kept")
	_, err = two.Exec()
	require.Error(t, err)
}

// A statement that a dead connection has kept is prepared on another host, and runs there.
func TestAStmtWhoseConnectionDiedRunsElsewhere(t *testing.T) {
	for _, k := range []kind{full, bare, legacy} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(k, "a", "b")
			db, s := open(t, w, nil)
			stmt, err := db.Prepare("select")
			require.NoError(t, err)
			for range 10 {
				_, err := stmt.Exec()
				require.NoError(t, err)
			}
			w.die("a")
			for range 20 {
				var host string
				require.NoError(t, stmt.QueryRow().Scan(&host, new(int)))
				require.Equal(t, "b", host)
			}
			require.EqualValues(t, 2, w.hosts["b"].prepare+w.hosts["a"].prepare)
			require.NoError(t, stmt.Close())
			requireIdle(t, s)
		})
	}
}

// The pool of the dead host is full of dead connections, and the driver notices only when it uses
// one. database/sql alone tries three of them and gives up.
func TestManyDeadConnectionsCostNoQuery(t *testing.T) {
	for _, k := range []kind{bare, legacy} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(k, "a", "b")
			db, s := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) {
				c.BanditStrategy = alwaysFirst{}
				c.MaxConns = 20
				c.ConsecutiveFailures = -1 // so that the host is not ejected for them
			})
			var held []*sql.Conn
			for range 40 {
				c, err := db.Conn(t.Context())
				require.NoError(t, err)
				_, err = c.ExecContext(t.Context(), "insert")
				require.NoError(t, err)
				held = append(held, c)
			}
			for _, c := range held {
				require.NoError(t, c.Close())
			}
			w.die("a")
			var wg sync.WaitGroup
			var failed atomic.Int32
			for range 10 {
				wg.Go(func() {
					for range 100 {
						if tx, err := db.Begin(); err != nil || tx.Commit() != nil {
							failed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			require.Zero(t, failed.Load())
			requireIdle(t, s)
		})
	}
}

// alwaysFirst chooses the first host.
type alwaysFirst struct{}

func (alwaysFirst) NewPicker([]pooly.Arm) pooly.Picker { return alwaysFirst{} }
func (alwaysFirst) Pick(*rand.Rand) int                { return 0 }

// What the dead connection had prepared must not be kept by the one that took its place.
func TestStatementsOfADeadConnectionAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(bare, "a", "b")
		db, s := open(t, w, nil)
		prepare := func() (one, two *sql.Stmt, c *sql.Conn) {
			c, err := db.Conn(t.Context())
			require.NoError(t, err)
			one, err = c.PrepareContext(t.Context(), "one")
			require.NoError(t, err)
			two, err = c.PrepareContext(t.Context(), "two")
			require.NoError(t, err)
			return one, two, c
		}
		for range 2 {
			_, _, c := prepare()
			require.NoError(t, c.Close())
		}
		w.die("a")
		for range 2 { // one of them on the dead host
			one, two, c := prepare()
			_, err := one.Exec()
			require.NoError(t, err)
			require.NoError(t, two.Close())
			require.NoError(t, one.Close())
			require.NoError(t, c.Close())
		}
		require.NoError(t, s.Close())
		require.Zero(t, w.openConns())
	})
}

func TestAnInvalidConnectionIsClosedAtOnce(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	_, err = c.ExecContext(t.Context(), "insert")
	require.NoError(t, err)
	w.lock(func() { w.hosts["a"].open[0].invalid = true })
	require.NoError(t, c.Close())
	requireNoneOpen(t, s)
	require.Zero(t, w.openConns())
}

func TestATxUsesAStmtOfTheDB(t *testing.T) {
	w := newWorld(full, "a", "b")
	db, s := open(t, w, nil)
	stmt, err := db.Prepare("select")
	require.NoError(t, err)
	for range 10 {
		tx, err := db.Begin()
		require.NoError(t, err)
		_, err = tx.Stmt(stmt).Exec()
		require.NoError(t, err)
		inTx, err := tx.Prepare("insert")
		require.NoError(t, err)
		_, err = inTx.Exec()
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
	}
	require.NoError(t, stmt.Close())
	for _, h := range w.hosts {
		require.Equal(t, 2, h.prepare, h.address)
	}
	requireIdle(t, s)
}

func TestRowsHoldTheLeaseUntilTheyAreClosed(t *testing.T) {
	w := newWorld(full, "a", "b")
	db, s := open(t, w, nil)
	for name, read := range map[string]func(*sql.Rows){
		"unread":    func(*sql.Rows) {},
		"read once": func(r *sql.Rows) { r.Next() },
		"read": func(r *sql.Rows) {
			for r.Next() {
			}
			require.True(t, r.NextResultSet())
			for r.Next() {
			}
			require.False(t, r.NextResultSet())
		},
	} {
		rows, err := db.QueryContext(t.Context(), "select")
		require.NoError(t, err)
		require.Equal(t, 1, s.Stats().InUse, name)
		read(rows)
		require.NoError(t, rows.Close())
		requireIdle(t, s)
	}
	require.EqualValues(t, 2, s.Stats().Dials)
}

func TestRowsWhoseContextEndsGiveTheirLeaseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		db, s := open(t, w, nil)
		ctx, cancel := context.WithCancel(t.Context())
		rows, err := db.QueryContext(ctx, "select")
		require.NoError(t, err)
		require.True(t, rows.Next())
		cancel()
		synctest.Wait()
		requireIdle(t, s)
		require.False(t, rows.Next())
		require.ErrorIs(t, rows.Err(), context.Canceled)
	})
}

func TestMaxOpenConnsBoundsTheLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a", "b")
		var now, most atomic.Int32
		for _, h := range w.hosts {
			h.answer = func(context.Context, *fakeConn, string) error {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(time.Millisecond)
				now.Add(-1)
				return nil
			}
		}
		db, s := open(t, w, nil)
		db.SetMaxOpenConns(3)
		var wg sync.WaitGroup
		var failed atomic.Int32
		for range 10 {
			wg.Go(func() {
				for range 20 {
					if _, err := hostOf(context.Background(), db); err != nil {
						failed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		require.Zero(t, failed.Load())
		require.EqualValues(t, 3, most.Load())
		n := w.queries()
		require.InDelta(t, 100, n["a"], 10)
		require.InDelta(t, 100, n["b"], 10)
		require.NoError(t, db.Close())
		requireIdle(t, s)
	})
}

func TestDBCloseLeavesTheServiceOpen(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	_, err := hostOf(t.Context(), db)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	require.Equal(t, 1, w.openConns())
	other := poolysql.Open(s)
	defer other.Close()
	_, err = hostOf(t.Context(), other)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.Zero(t, w.openConns())
	_, err = hostOf(t.Context(), other)
	require.ErrorIs(t, err, pooly.ErrPoolClosed)
}

func TestServiceCloseClosesUnderALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		db, s := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) { c.CloseDeadline = second })
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		stmt, err := c.PrepareContext(t.Context(), "select")
		require.NoError(t, err)
		began := time.Now()
		require.ErrorIs(t, s.Close(), pooly.ErrOpTimeout)
		require.Equal(t, second, time.Since(began))
		_, err = c.ExecContext(t.Context(), "insert")
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
		_, err = stmt.ExecContext(t.Context())
		require.ErrorIs(t, err, pooly.ErrPoolClosed)
		require.Equal(t, 1, w.openConns(), "a connection must not be closed while it is used")
		_ = c.Close()
		require.Zero(t, w.openConns())
		require.NoError(t, stmt.Close())
	})
}

// A driver that panics costs its connection and nothing else.
func TestAPanicOfTheDriverGivesTheLeaseBack(t *testing.T) {
	type call struct {
		name string
		run  func(context.Context, *sql.DB)
	}
	for _, c := range []call{
		{"exec", func(ctx context.Context, db *sql.DB) { _, _ = db.ExecContext(ctx, "panic") }},
		{"query", func(ctx context.Context, db *sql.DB) { _, _ = db.QueryContext(ctx, "panic") }},
		{"prepare", func(ctx context.Context, db *sql.DB) { _, _ = db.PrepareContext(ctx, "panic") }},
		{"begin", func(ctx context.Context, db *sql.DB) { _, _ = db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) }},
		{"ping", func(ctx context.Context, db *sql.DB) { _ = db.PingContext(ctx) }},
		{"raw", func(ctx context.Context, db *sql.DB) {
			conn, _ := db.Conn(ctx)
			_ = conn.Raw(func(c any) error {
				_, _ = poolysql.Unwrap(c).(driver.ExecerContext).ExecContext(ctx, "panic", nil)
				return nil
			})
		}},
		{"commit", func(ctx context.Context, db *sql.DB) {
			tx, _ := db.Begin()
			_ = tx.Commit()
		}},
	} {
		for how, fail := range map[string]func(){
			"panics":             func() { panic("fake") },
			"ends its goroutine": runtime.Goexit,
		} {
			t.Run(c.name+" "+how, func(t *testing.T) {
				w := newWorld(full, "a")
				db, s := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) { c.MaxConns = 1 })
				bad := map[string]bool{"panic": true, "begin {0 true}": true, "ping": true, "commit": true}
				w.hosts["a"].answer = func(_ context.Context, _ *fakeConn, query string) error {
					if bad[query] {
						fail()
					}
					return nil
				}
				var wg sync.WaitGroup
				wg.Go(func() {
					defer func() { _ = recover() }()
					c.run(t.Context(), db)
				})
				wg.Wait()
				requireIdle(t, s)
				requireNoneOpen(t, s)
				_, err := hostOf(t.Context(), db)
				require.NoError(t, err, "its place is free")
			})
		}
	}
}

func TestAPanicOfResetSessionGivesTheLeaseBack(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) { c.MaxConns = 1 })
	_, err := hostOf(t.Context(), db)
	require.NoError(t, err)
	w.hosts["a"].reset = func(context.Context, *fakeConn) error { panic("fake") }
	require.Panics(t, func() { _, _ = hostOf(t.Context(), db) })
	requireIdle(t, s)
	w.hosts["a"].reset = nil
	_, err = hostOf(t.Context(), db)
	require.NoError(t, err)
}

func TestResetSessionRunsBeforeEachNextUser(t *testing.T) {
	w := newWorld(full, "a")
	resets := 0
	w.hosts["a"].reset = func(context.Context, *fakeConn) error { resets++; return nil }
	db, _ := open(t, w, nil)
	_, err := hostOf(t.Context(), db)
	require.NoError(t, err)
	resets = 0 // the first is reset only if its connection was idle for an instant
	for range 10 {
		_, err := hostOf(t.Context(), db)
		require.NoError(t, err)
	}
	require.Equal(t, 10, resets)
}

// Drivers find out in ResetSession that the server has closed a connection.
func TestAConnectionDialledInAdvanceIsResetToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		resets := 0
		w.hosts["a"].reset = func(context.Context, *fakeConn) error {
			if resets++; resets == 1 {
				return driver.ErrBadConn
			}
			return nil
		}
		db, s := open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) { c.PrespawnConns = 1 })
		time.Sleep(second)
		require.Equal(t, 1, s.Stats().Idle)
		_, err := hostOf(t.Context(), db)
		require.NoError(t, err)
		require.Positive(t, resets)
		require.EqualValues(t, 2, s.Stats().Dials)
	})
}

func TestAResetThatFailsIsNotHandedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		db, s := open(t, w, nil)
		_, err := hostOf(t.Context(), db)
		require.NoError(t, err)

		dead := w.hosts["a"].open[0]
		w.hosts["a"].reset = func(_ context.Context, c *fakeConn) error {
			if c == dead {
				return driver.ErrBadConn
			}
			return nil
		}
		_, err = hostOf(t.Context(), db)
		require.NoError(t, err, "on a new connection")
		require.EqualValues(t, 2, s.Stats().Dials)

		w.hosts["a"].reset = func(context.Context, *fakeConn) error { return driver.ErrBadConn }
		_, err = hostOf(t.Context(), db)
		if err != nil { // the new connection may go straight to the query, which needs no reset
			require.NotErrorIs(t, err, driver.ErrBadConn, "or database/sql would have all that three times")
		}
		require.LessOrEqual(t, s.Stats().Dials, uint64(6), "a driver whose resets all fail does not dial for ever")

		w.hosts["a"].reset = nil
		_, err = hostOf(t.Context(), db)
		require.NoError(t, err)

		errReset := errors.New("fake: discard all")
		dials := s.Stats().Dials
		w.hosts["a"].reset = func(context.Context, *fakeConn) error { return errReset }
		_, err = hostOf(t.Context(), db)
		require.ErrorIs(t, err, errReset, "it is not the network, so another would fail alike")
		require.ErrorContains(t, err, "reset a connection to a")
		require.Equal(t, dials, s.Stats().Dials)
		requireNoneOpen(t, s)
		require.Zero(t, statsOf(s, "a").Ejections)

		w.hosts["a"].reset = nil
		_, err = hostOf(t.Context(), db)
		require.NoError(t, err)
		w.hosts["a"].reset = func(ctx context.Context, _ *fakeConn) error { <-ctx.Done(); return driver.ErrBadConn }
		ctx, cancel := context.WithTimeout(t.Context(), second)
		defer cancel()
		_, err = hostOf(ctx, db)
		require.Error(t, err)
		requireIdle(t, s)
	})
}

// The user left a transaction open with plain SQL, and the driver notices.
func TestASessionThatIsNotCleanServesNobodyElse(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Raw(func(driverConn any) error {
		_, err := poolysql.Unwrap(driverConn).(driver.ConnBeginTx).BeginTx(t.Context(), driver.TxOptions{})
		return err
	}))
	require.NoError(t, c.Close())
	_, err = hostOf(t.Context(), db)
	require.NoError(t, err)
	require.EqualValues(t, 2, s.Stats().Dials)
}

func TestRawReachesTheInnerConnection(t *testing.T) {
	w := newWorld(full, "a")
	db, s := open(t, w, nil)
	c, err := db.Conn(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Raw(func(driverConn any) error {
		require.IsType(t, fullConn{}, poolysql.Unwrap(driverConn))
		require.Equal(t, 7, poolysql.Unwrap(7), "what is not wrapped stays as it is")
		return nil
	}))
	require.NoError(t, c.Close())
	require.Equal(t, 1, s.Stats().Open, "the connection is kept")
	requireIdle(t, s)

	c, err = db.Conn(t.Context())
	require.NoError(t, err)
	require.ErrorIs(t, c.Raw(func(driverConn any) error {
		poolysql.Unwrap(driverConn)
		return driver.ErrBadConn
	}), driver.ErrBadConn)
	requireNoneOpen(t, s)
	requireIdle(t, s)
	require.Zero(t, statsOf(s, "a").Ejections)
}

// Connections go back to a host while their queries fail. What a lease saw first must not hide what
// broke it.
func TestALaterFailureOfALeaseCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(full, "a")
		db, s := open(t, w, nil)
		c, err := db.Conn(t.Context())
		require.NoError(t, err)
		_, err = c.ExecContext(t.Context(), "syntax")
		require.Error(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.hosts["a"].answer = func(ctx context.Context, _ *fakeConn, _ string) error { return ctx.Err() }
		_, err = c.ExecContext(ctx, "insert")
		require.Error(t, err)
		w.hosts["a"].answer = func(context.Context, *fakeConn, string) error { return timeout{} }
		_, err = c.ExecContext(t.Context(), "insert")
		require.Error(t, err)
		require.NoError(t, c.Close())
		requireNoneOpen(t, s)
		time.Sleep(second)
		require.Less(t, statsOf(s, "a").Score, 0.5)
	})
}
