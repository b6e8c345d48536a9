package poolysql

import (
	"context"
	"database/sql/driver"
	"errors"
)

// These functions do what an inner driver lacks of the interfaces with contexts, as database/sql
// does it.

// These are the interfaces of package driver that its documentation calls deprecated.
type (
	execer interface {
		Exec(query string, args []driver.Value) (driver.Result, error)
	}
	queryer interface {
		Query(query string, args []driver.Value) (driver.Rows, error)
	}
	beginner interface {
		Begin() (driver.Tx, error)
	}
	stmtExecer interface {
		Exec(args []driver.Value) (driver.Result, error)
	}
	stmtQueryer interface {
		Query(args []driver.Value) (driver.Rows, error)
	}
	columnConverter interface {
		ColumnConverter(index int) driver.ValueConverter
	}
)

// isDirect reports whether a connection can run queries without a prepared statement.
func isDirect(c driver.Conn) bool {
	switch c.(type) {
	case driver.ExecerContext, driver.QueryerContext, execer, queryer:
		return true
	}
	return false
}

func exec(
	ctx context.Context, c driver.Conn, query string, args []driver.NamedValue,
) (driver.Result, error) {
	if e, ok := c.(driver.ExecerContext); ok {
		return e.ExecContext(ctx, query, args)
	}
	e, ok := c.(execer)
	if !ok {
		return nil, driver.ErrSkip
	}
	values, err := unnamed(ctx, args)
	if err != nil {
		return nil, err
	}
	return e.Exec(query, values)
}

func query(
	ctx context.Context, c driver.Conn, query string, args []driver.NamedValue,
) (driver.Rows, error) {
	if q, ok := c.(driver.QueryerContext); ok {
		return q.QueryContext(ctx, query, args)
	}
	q, ok := c.(queryer)
	if !ok {
		return nil, driver.ErrSkip
	}
	values, err := unnamed(ctx, args)
	if err != nil {
		return nil, err
	}
	return q.Query(query, values)
}

func execStmt(
	ctx context.Context, s driver.Stmt, args []driver.NamedValue,
) (driver.Result, error) {
	if e, ok := s.(driver.StmtExecContext); ok {
		return e.ExecContext(ctx, args)
	}
	values, err := unnamed(ctx, args)
	if err != nil {
		return nil, err
	}
	return stmtExecer(s).Exec(values)
}

func queryStmt(
	ctx context.Context, s driver.Stmt, args []driver.NamedValue,
) (driver.Rows, error) {
	if q, ok := s.(driver.StmtQueryContext); ok {
		return q.QueryContext(ctx, args)
	}
	values, err := unnamed(ctx, args)
	if err != nil {
		return nil, err
	}
	return stmtQueryer(s).Query(values)
}

func prepare(ctx context.Context, c driver.Conn, query string) (driver.Stmt, error) {
	if p, ok := c.(driver.ConnPrepareContext); ok {
		return p.PrepareContext(ctx, query)
	}
	s, err := c.Prepare(query)
	if err == nil && ctx.Err() != nil {
		_ = s.Close()
		return nil, ctx.Err()
	}
	return s, err
}

var (
	errIsolation = errors.New("poolysql: driver does not support non-default isolation level")
	errReadOnly  = errors.New("poolysql: driver does not support read-only transactions")
	errNamed     = errors.New("poolysql: driver does not support the use of Named Parameters")
)

func beginTx(ctx context.Context, c driver.Conn, options driver.TxOptions) (driver.Tx, error) {
	if b, ok := c.(driver.ConnBeginTx); ok {
		return b.BeginTx(ctx, options)
	}
	switch {
	case options.Isolation != 0:
		return nil, errIsolation
	case options.ReadOnly:
		return nil, errReadOnly
	}
	t, err := beginner(c).Begin()
	if err == nil && ctx.Err() != nil {
		_ = t.Rollback()
		return nil, ctx.Err()
	}
	return t, err
}

// unnamed returns the arguments of a call without a context.
func unnamed(ctx context.Context, args []driver.NamedValue) ([]driver.Value, error) {
	values := make([]driver.Value, len(args))
	for i, arg := range args {
		if arg.Name != "" {
			return nil, errNamed
		}
		values[i] = arg.Value
	}
	return values, ctx.Err()
}

// named returns the arguments of a call with a context.
func named(values []driver.Value) []driver.NamedValue {
	args := make([]driver.NamedValue, len(values))
	for i, v := range values {
		args[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return args
}
