package poolysql

import (
	"context"
	"database/sql/driver"
	"slices"
)

// statement is a prepared statement of an inner connection.
type statement struct {
	query string
	inner driver.Stmt
}

// statements are the prepared statements that an inner connection keeps, except those in use. The
// statement that was used last is at the end.
type statements struct {
	most int
	kept []statement
}

// take removes a statement from the kept statements, and returns its inner statement. It returns
// nil if there is none for the query.
func (s *statements) take(query string) driver.Stmt {
	for i := len(s.kept) - 1; i >= 0; i-- {
		if s.kept[i].query == query {
			inner := s.kept[i].inner
			s.kept = slices.Delete(s.kept, i, i+1)
			return inner
		}
	}
	return nil
}

// keep keeps a statement that is not used any more.
func (s *statements) keep(st statement) error {
	if s.most <= 0 {
		return st.inner.Close()
	}
	var err error
	if len(s.kept) >= s.most {
		err = s.kept[0].inner.Close()
		s.kept = slices.Delete(s.kept, 0, 1)
	}
	s.kept = append(s.kept, st)
	return err
}

func (s *statements) closeAll() {
	for _, st := range s.kept {
		_ = st.inner.Close()
	}
	s.kept = nil
}

// stmt is a statement while it is prepared for database/sql.
type stmt struct {
	conn *conn // guards it, as database/sql calls nothing of a connection concurrently
	statement
	session *session // to which the inner statement belongs
	rows    int      // how many Rows are open
	failed  bool
}

// convertingStmt is a stmt whose inner statement is a driver.ColumnConverter.
type convertingStmt struct{ stmt }

var (
	_ driver.StmtExecContext   = (*stmt)(nil)
	_ driver.StmtQueryContext  = (*stmt)(nil)
	_ driver.NamedValueChecker = (*stmt)(nil)
	_ columnConverter          = (*convertingStmt)(nil)
)

// newStmt returns what database/sql gets for an inner statement.
func newStmt(c *conn, query string, inner driver.Stmt) driver.Stmt {
	s := new(convertingStmt)
	s.stmt = stmt{conn: c, session: c.session, statement: statement{query, inner}}
	c.prepared = append(c.prepared, &s.stmt)
	if _, ok := inner.(columnConverter); ok {
		return s
	}
	return &s.stmt
}

// Close keeps the inner statement for the next statement with the same query.
func (s *stmt) Close() error {
	c := s.conn
	if c.ended {
		return nil // with the lease
	}
	c.prepared = slices.DeleteFunc(c.prepared, func(other *stmt) bool { return other == s })
	return s.finish()
}

// finish keeps or closes the inner statement.
func (s *stmt) finish() error {
	c := s.conn
	if c.spent || s.session != c.session {
		return nil // its connection is closed
	}
	c.calling = true
	defer c.panicked()
	var err error
	if s.failed || s.rows > 0 {
		err = s.inner.Close()
	} else {
		err = c.session.statements.keep(s.statement)
	}
	c.calling = false
	if err != nil {
		c.note(context.Background(), err)
	}
	return err
}

// NumInput returns the number of placeholders, or -1 if the driver does not know it.
func (s *stmt) NumInput() int {
	return s.inner.NumInput()
}

// Exec is not called by database/sql.
func (s *stmt) Exec(args []driver.Value) (driver.Result, error) {
	return s.ExecContext(context.Background(), named(args))
}

// Query is not called by database/sql.
func (s *stmt) Query(args []driver.Value) (driver.Rows, error) {
	return s.QueryContext(context.Background(), named(args))
}

// ExecContext implements driver.StmtExecContext.
func (s *stmt) ExecContext(
	ctx context.Context, args []driver.NamedValue,
) (result driver.Result, err error) {
	err = s.do(ctx, func() (err error) {
		result, err = execStmt(ctx, s.inner, args)
		return err
	})
	return result, err
}

// QueryContext implements driver.StmtQueryContext.
func (s *stmt) QueryContext(
	ctx context.Context, args []driver.NamedValue,
) (driver.Rows, error) {
	var inner driver.Rows
	err := s.do(ctx, func() (err error) {
		inner, err = queryStmt(ctx, s.inner, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.rows++
	return &rows{inner: inner, conn: s.conn, stmt: s, ctx: ctx}, nil
}

// do calls the inner statement. If the connection was exchanged, it prepares the statement again.
func (s *stmt) do(ctx context.Context, call func() error) error {
	err := s.conn.do(ctx, func(now *session) error {
		if s.session != now {
			inner := now.statements.take(s.query)
			if inner == nil {
				var err error
				if inner, err = prepare(ctx, now.inner, s.query); err != nil {
					return err
				}
			}
			s.inner, s.session = inner, now
		}
		return call()
	})
	s.failed = s.failed || err != nil
	return err
}

// CheckNamedValue implements driver.NamedValueChecker. It asks the inner statement, or else the
// inner connection, as database/sql does.
func (s *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := s.inner.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return s.session.check(v)
}

// ColumnConverter implements driver.ColumnConverter.
func (s *convertingStmt) ColumnConverter(index int) driver.ValueConverter {
	return s.inner.(columnConverter).ColumnConverter(index)
}
