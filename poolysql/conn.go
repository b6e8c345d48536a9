package poolysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/3XX0/pooly"
)

// conn is a lease, as database/sql sees it. It is a driver.Conn with every optional interface
// except SessionResetter. If the inner connection lacks an interface, conn answers as database/sql
// would.
//
// database/sql calls the methods of a connection, its statements and its rows one at a time.
type conn struct {
	connector *Connector
	lease     *pooly.Conn
	session   *session
	prepared  []*stmt  // open statements
	avoid     []string // hosts whose connections were dead
	err       error    // the last error of the inner connection; a fatal one is not replaced
	verdict   verdict
	spent     bool // the connection must be closed
	calling   bool // the inner driver runs, or has panicked
	pinned    bool // the inner connection has answered, so it cannot be exchanged
	returned  bool // database/sql calls the connection good
	ended     bool // the lease has ended
}

// verdict says what the lease tells about the connection and its host.
type verdict uint8

const (
	answered verdict = iota // the host answered, perhaps with an error
	unrated                 // nothing can be said of the host
	failed                  // err is fatal
)

// resettingConn is a conn whose inner connection is a driver.SessionResetter and a
// driver.Validator. After a Tx whose context has ended, database/sql keeps only such a connection.
type resettingConn struct{ conn }

var (
	_ driver.ConnBeginTx        = (*conn)(nil)
	_ driver.ConnPrepareContext = (*conn)(nil)
	_ driver.ExecerContext      = (*conn)(nil)
	_ driver.NamedValueChecker  = (*conn)(nil)
	_ driver.Pinger             = (*conn)(nil)
	_ driver.QueryerContext     = (*conn)(nil)
	_ driver.Validator          = (*conn)(nil)
	_ driver.SessionResetter    = (*resettingConn)(nil)
)

// newConn returns what database/sql gets for a lease.
func newConn(connector *Connector, lease *pooly.Conn, s *session) driver.Conn {
	_, resets := s.inner.(driver.SessionResetter)
	_, validates := s.inner.(driver.Validator)
	if resets && validates {
		return &resettingConn{conn{connector: connector, lease: lease, session: s}}
	}
	return &conn{connector: connector, lease: lease, session: s}
}

// Unwrap returns the inner connection of what sql.Conn.Raw passes to its function, if the DB came
// from this package. Otherwise it returns driverConn itself. With it, a program can use what only
// its driver has:
//
//	err := conn.Raw(func(driverConn any) error {
//		pgxConn := poolysql.Unwrap(driverConn).(*stdlib.Conn).Conn()
//		_, err := pgxConn.CopyFrom(ctx, table, columns, rows)
//		return err
//	})
//
// The inner connection must not be closed or kept. pooly does not see errors of its methods. But if
// the function returns driver.ErrBadConn or panics, the connection is closed and nothing is rated.
func Unwrap(driverConn any) any {
	if c, ok := driverConn.(interface{ Raw() driver.Conn }); ok {
		return c.Raw()
	}
	return driverConn
}

// Raw returns the inner connection, see Unwrap.
func (c *conn) Raw() driver.Conn {
	c.pinned = true
	return c.session.inner
}

// do calls the inner driver and notes how the call ended. ctx is the call's context.
//
// A connection that died while idle is exchanged for one of another host, as long as it has not
// answered anything in this lease.
func (c *conn) do(ctx context.Context, call func(*session) error) error {
	defer c.panicked()
	for {
		if c.ended {
			return driver.ErrBadConn
		}
		if c.session.phase.Load() != leased {
			return errClosed
		}
		c.calling = true
		used := c.session.used
		err := call(c.session)
		c.calling = false
		c.called(ctx, err)
		if !used || c.pinned || !errors.Is(err, driver.ErrBadConn) || c.exchange(ctx, err) != nil {
			return err
		}
	}
}

var errClosed = fmt.Errorf("poolysql: connection closed under its lease: %w", pooly.ErrPoolClosed)

// exchange ends the lease and begins another, within the service's budget of retries. cause is the
// reason.
func (c *conn) exchange(ctx context.Context, cause error) error {
	c.avoid = append(c.avoid, c.lease.Address())
	_ = c.end()
	lease, s, err := c.connector.lease(ctx, pooly.LeaseOptions{Avoid: c.avoid, Retry: true, Cause: cause})
	if err != nil {
		return err
	}
	c.lease, c.session = lease, s
	c.err, c.verdict, c.spent, c.ended = nil, answered, false, false
	return nil
}

// called notes how a call of the inner driver ended.
func (c *conn) called(ctx context.Context, err error) {
	switch {
	case err == driver.ErrSkip:
		return
	case err == nil:
		c.pinned = true
		return
	case !errors.Is(err, driver.ErrBadConn):
		c.pinned = true
	}
	if !c.spent {
		c.note(ctx, err)
	}
}

func (c *conn) note(ctx context.Context, err error) {
	switch end := ctx.Err(); {
	case errors.Is(end, context.Canceled):
		c.verdict = unrated
		c.spent = !c.session.vouches() || errors.Is(err, driver.ErrBadConn)
	case end != nil:
		// Some drivers return what the server said when they asked it to stop.
		c.fail(fmt.Errorf("%w: %w", end, err))
	case !c.session.valid():
		c.fail(fmt.Errorf("%w: %w", errNotValid, err))
	case fatal(err):
		c.fail(err)
	default:
		c.err = err
	}
}

func (c *conn) fail(err error) {
	c.err, c.verdict, c.spent = err, failed, true
}

// giveUp makes the lease end without a rating, and with its connection closed.
func (c *conn) giveUp() {
	if !c.spent {
		c.verdict, c.spent = unrated, true
	}
}

// panicked ends the lease if the inner driver has panicked or has ended its goroutine: database/sql
// may never close the connection.
func (c *conn) panicked() {
	if c.calling && !c.ended {
		c.giveUp()
		_ = c.end()
	}
}

// IsValid implements driver.Validator. It always reports false, so that database/sql closes the
// connection and does not keep it. database/sql asks only if it has seen no driver.ErrBadConn.
func (c *conn) IsValid() bool {
	c.returned = true
	return false
}

// ResetSession implements driver.SessionResetter. database/sql never calls it, because IsValid lets
// it keep no connection.
func (c *resettingConn) ResetSession(ctx context.Context) error {
	return c.session.inner.(driver.SessionResetter).ResetSession(ctx)
}

// Close ends the lease.
func (c *conn) Close() error {
	if c.ended {
		return nil
	}
	defer c.panicked()
	if c.pinned && !c.returned {
		c.giveUp() // a function given to Raw went wrong, or a Tx outlived its context
	}
	for _, s := range c.prepared {
		_ = s.finish()
	}
	c.calling = false
	c.spent = c.spent || !c.session.valid()
	return c.end()
}

// end gives the connection back.
func (c *conn) end() error {
	c.ended = true
	s := c.session
	s.used, s.broken = true, c.spent
	if !s.phase.CompareAndSwap(leased, idle) {
		s.close() // the service was closed meanwhile
	}
	if c.spent {
		_ = c.lease.CloseOnRelease()
	}
	if c.verdict == unrated {
		return c.lease.End()
	}
	return c.lease.Release(c.err, pooly.HostUp)
}

// Prepare is not called by database/sql.
func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

// PrepareContext implements driver.ConnPrepareContext. It takes a statement that the connection has
// kept, if there is one.
func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if !c.ended {
		if inner := c.session.statements.take(query); inner != nil {
			return newStmt(c, query, inner), nil
		}
	}
	var inner driver.Stmt
	err := c.do(ctx, func(s *session) (err error) {
		inner, err = prepare(ctx, s.inner, query)
		return err
	})
	if err != nil {
		return nil, err
	}
	return newStmt(c, query, inner), nil
}

// Begin is not called by database/sql.
func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx implements driver.ConnBeginTx.
func (c *conn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	var inner driver.Tx
	err := c.do(ctx, func(s *session) (err error) {
		inner, err = beginTx(ctx, s.inner, options)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &tx{inner: inner, conn: c, ctx: ctx}, nil
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (result driver.Result, err error) {
	err = c.do(ctx, func(s *session) (err error) {
		result, err = exec(ctx, s.inner, query, args)
		return err
	})
	return result, err
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(
	ctx context.Context, text string, args []driver.NamedValue,
) (driver.Rows, error) {
	var inner driver.Rows
	err := c.do(ctx, func(s *session) (err error) {
		inner, err = query(ctx, s.inner, text, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &rows{inner: inner, conn: c, ctx: ctx}, nil
}

// CheckNamedValue implements driver.NamedValueChecker. If the inner connection cannot run a query
// that is not prepared, the statement checks the values. Then CheckNamedValue accepts any value.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	if !c.session.direct {
		return nil
	}
	return c.session.check(v)
}

// Ping implements driver.Pinger.
func (c *conn) Ping(ctx context.Context) error {
	return c.do(ctx, func(s *session) error {
		if p, ok := s.inner.(driver.Pinger); ok {
			return p.Ping(ctx)
		}
		return nil
	})
}

// tx is a transaction of an inner connection.
type tx struct {
	inner driver.Tx
	conn  *conn
	ctx   context.Context // context of BeginTx
}

// Commit implements driver.Tx.
func (t *tx) Commit() error {
	return t.end(driver.Tx.Commit)
}

// Rollback implements driver.Tx.
func (t *tx) Rollback() error {
	return t.end(driver.Tx.Rollback)
}

func (t *tx) end(how func(driver.Tx) error) error {
	return t.conn.do(t.ctx, func(*session) error {
		err := how(t.inner)
		if err != nil && t.ctx.Err() != nil {
			t.conn.giveUp() // the user held the transaction for longer than its context
		}
		return err
	})
}
