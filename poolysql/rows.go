package poolysql

import (
	"context"
	"database/sql/driver"
	"io"
	"reflect"
)

// rows are the Rows of an inner connection. If they lack an optional interface, rows answer as
// database/sql would.
type rows struct {
	inner driver.Rows
	conn  *conn
	stmt  *stmt // nil if they are not of a prepared statement
	ctx   context.Context
}

var (
	_ driver.RowsNextResultSet              = (*rows)(nil)
	_ driver.RowsColumnTypeScanType         = (*rows)(nil)
	_ driver.RowsColumnTypeDatabaseTypeName = (*rows)(nil)
	_ driver.RowsColumnTypeLength           = (*rows)(nil)
	_ driver.RowsColumnTypeNullable         = (*rows)(nil)
	_ driver.RowsColumnTypePrecisionScale   = (*rows)(nil)
)

// Columns implements driver.Rows.
func (r *rows) Columns() []string {
	return r.inner.Columns()
}

// Close implements driver.Rows.
func (r *rows) Close() error {
	if r.stmt != nil {
		r.stmt.rows--
	}
	return r.do(driver.Rows.Close)
}

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	return r.do(func(inner driver.Rows) error { return inner.Next(dest) })
}

// do calls the inner rows. io.EOF is their regular end.
func (r *rows) do(call func(driver.Rows) error) (result error) {
	err := r.conn.do(r.ctx, func(*session) error {
		result = call(r.inner)
		if result == io.EOF {
			return nil
		}
		return result
	})
	if err != nil {
		result = err
		if r.stmt != nil {
			r.stmt.failed = true
		}
	}
	return result
}

// HasNextResultSet implements driver.RowsNextResultSet.
func (r *rows) HasNextResultSet() bool {
	more, ok := r.inner.(driver.RowsNextResultSet)
	return ok && more.HasNextResultSet()
}

// NextResultSet implements driver.RowsNextResultSet.
func (r *rows) NextResultSet() error {
	return r.do(func(inner driver.Rows) error {
		if more, ok := inner.(driver.RowsNextResultSet); ok {
			return more.NextResultSet()
		}
		return io.EOF
	})
}

// ColumnTypeScanType implements driver.RowsColumnTypeScanType.
func (r *rows) ColumnTypeScanType(index int) reflect.Type {
	if typed, ok := r.inner.(driver.RowsColumnTypeScanType); ok {
		return typed.ColumnTypeScanType(index)
	}
	return reflect.TypeFor[any]()
}

// ColumnTypeDatabaseTypeName implements driver.RowsColumnTypeDatabaseTypeName.
func (r *rows) ColumnTypeDatabaseTypeName(index int) string {
	if typed, ok := r.inner.(driver.RowsColumnTypeDatabaseTypeName); ok {
		return typed.ColumnTypeDatabaseTypeName(index)
	}
	return ""
}

// ColumnTypeLength implements driver.RowsColumnTypeLength.
func (r *rows) ColumnTypeLength(index int) (length int64, ok bool) {
	if typed, ok := r.inner.(driver.RowsColumnTypeLength); ok {
		return typed.ColumnTypeLength(index)
	}
	return 0, false
}

// ColumnTypeNullable implements driver.RowsColumnTypeNullable.
func (r *rows) ColumnTypeNullable(index int) (nullable, ok bool) {
	if typed, ok := r.inner.(driver.RowsColumnTypeNullable); ok {
		return typed.ColumnTypeNullable(index)
	}
	return false, false
}

// ColumnTypePrecisionScale implements driver.RowsColumnTypePrecisionScale.
func (r *rows) ColumnTypePrecisionScale(index int) (precision, scale int64, ok bool) {
	if typed, ok := r.inner.(driver.RowsColumnTypePrecisionScale); ok {
		return typed.ColumnTypePrecisionScale(index)
	}
	return 0, 0, false
}
