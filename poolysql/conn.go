package poolysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/3XX0/pooly"
)

// conn is a lease, as database/sql sees it. It is a driver.Conn with every optional interface but
// SessionResetter. What the inner connection lacks of them, conn answers as database/sql does.
//
// database/sql calls the methods of a connection, its statements and its rows one at a time.
type conn struct {
	lease    *pooly.Conn
	session  *session
	prepared []*stmt // open statements
	err      error   // the last error of the inner connection; a fatal one is not replaced
	verdict  verdict
	spent    bool // the connection must be closed
	calling  bool // the inner driver runs, or has panicked
	touched  bool // the inner connection was used
	returned bool // database/sql calls the connection good
	ended    bool // the lease has ended
}

// verdict says what the lease tells about the connection and its host.
type verdict uint8

const (
	answered verdict = iota // the host answered, perhaps with an error
	unrated                 // nothing can be said of the host
	failed                  // err is fatal
)

// resettingConn is a conn whose inner connection is a driver.SessionResetter and a
// driver.Validator. database/sql keeps only such a connection after a Tx whose context has ended.
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

// newConn returns what database/sql gets for a lease, and the conn in it.
func newConn(lease *pooly.Conn, s *session) (driver.Conn, *conn) {
	_, resets := s.inner.(driver.SessionResetter)
	_, validates := s.inner.(driver.Validator)
	if resets && validates {
		c := &resettingConn{conn{lease: lease, session: s}}
		return c, &c.conn
	}
	c := &conn{lease: lease, session: s}
	return c, c
}

// reset prepares an inner connection that was used before for its next user. If that fails, reset
// closes the connection.
func (c *conn) reset(ctx context.Context) error {
	r, ok := c.session.inner.(driver.SessionResetter)
	if !ok {
		return nil
	}
	c.calling = true
	defer c.panicked()
	err := r.ResetSession(ctx)
	c.calling = false
	if err == nil {
		return nil
	}
	if end := ctx.Err(); errors.Is(end, context.DeadlineExceeded) {
		c.fail(fmt.Errorf("%w: %w", end, err))
	} else {
		c.giveUp() // an idle connection died, which is no fault of the host
	}
	_ = c.end()
	return err
}

// Unwrap returns the inner connection of what sql.Conn.Raw passes to its function, if the DB is one
// of this package. Otherwise it returns driverConn itself. It lets a program reach what only its
// driver has:
//
//	err := conn.Raw(func(driverConn any) error {
//		pgxConn := poolysql.Unwrap(driverConn).(*stdlib.Conn).Conn()
//		_, err := pgxConn.CopyFrom(ctx, table, columns, rows)
//		return err
//	})
//
// The inner connection must not be closed or kept. pooly does not see errors of its methods, but if
// the function returns driver.ErrBadConn or panics, the connection is closed and nothing is rated.
func Unwrap(driverConn any) any {
	if c, ok := driverConn.(interface{ Raw() driver.Conn }); ok {
		return c.Raw()
	}
	return driverConn
}

// Raw returns the inner connection, see Unwrap.
func (c *conn) Raw() driver.Conn {
	c.touched = true
	return c.session.inner
}

// begin announces a call of the inner driver. After it, panicked must be deferred and called
// called.
func (c *conn) begin() error {
	if c.ended {
		return driver.ErrBadConn
	}
	if c.session.phase.Load() != leased {
		return errClosed
	}
	c.calling, c.touched = true, true
	return nil
}

var errClosed = fmt.Errorf("poolysql: connection closed under its lease: %w", pooly.ErrPoolClosed)

// called notes how a call of the inner driver ended, and returns err. ctx is that of the call.
func (c *conn) called(ctx context.Context, err error) error {
	c.calling = false
	if err != nil && err != driver.ErrSkip && !c.spent {
		c.note(ctx, err)
	}
	return err
}

func (c *conn) note(ctx context.Context, err error) {
	switch end := ctx.Err(); {
	case errors.Is(end, context.Canceled):
		c.verdict, c.spent = unrated, !c.session.vouches()
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

// giveUp has the connection closed, and nothing rated that was not rated before.
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
	if c.touched && !c.returned {
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
	for _, s := range c.prepared {
		s.closed = true
	}
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
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.panicked()
	inner := c.session.statements.take(query)
	if inner == nil {
		var err error
		if inner, err = prepare(ctx, c.session.inner, query); err != nil {
			return nil, c.called(ctx, err)
		}
	}
	c.calling = false
	return newStmt(c, statement{query, inner}), nil
}

// Begin is not called by database/sql.
func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

// BeginTx implements driver.ConnBeginTx.
func (c *conn) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.panicked()
	inner, err := beginTx(ctx, c.session.inner, options)
	if err := c.called(ctx, err); err != nil {
		return nil, err
	}
	return &tx{inner: inner, conn: c, ctx: ctx}, nil
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(
	ctx context.Context, query string, args []driver.NamedValue,
) (driver.Result, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.panicked()
	result, err := exec(ctx, c.session.inner, query, args)
	return result, c.called(ctx, err)
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(
	ctx context.Context, text string, args []driver.NamedValue,
) (driver.Rows, error) {
	if err := c.begin(); err != nil {
		return nil, err
	}
	defer c.panicked()
	inner, err := query(ctx, c.session.inner, text, args)
	if err := c.called(ctx, err); err != nil {
		return nil, err
	}
	return &rows{inner: inner, conn: c, ctx: ctx}, nil
}

// CheckNamedValue implements driver.NamedValueChecker. If the inner connection cannot run a query
// that is not prepared, the statement checks the values, so any will do here.
func (c *conn) CheckNamedValue(v *driver.NamedValue) error {
	if !c.session.direct {
		return nil
	}
	return c.session.check(v)
}

// Ping implements driver.Pinger.
func (c *conn) Ping(ctx context.Context) error {
	p, ok := c.session.inner.(driver.Pinger)
	if !ok {
		return nil
	}
	if err := c.begin(); err != nil {
		return err
	}
	defer c.panicked()
	return c.called(ctx, p.Ping(ctx))
}

// tx is a transaction of an inner connection.
type tx struct {
	inner driver.Tx
	conn  *conn
	ctx   context.Context
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
	c := t.conn
	if err := c.begin(); err != nil {
		return err
	}
	defer c.panicked()
	err := how(t.inner)
	if err != nil && t.ctx.Err() != nil {
		c.giveUp() // the user held the transaction for longer than its context
	}
	return c.called(t.ctx, err)
}
