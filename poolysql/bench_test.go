package poolysql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"io"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
)

// A driver that does nothing, so that what is measured is database/sql and what is between it and
// the driver.

type instant struct{}

func (instant) Connect(context.Context) (driver.Conn, error) { return instantConn{}, nil }
func (instant) Driver() driver.Driver                        { return nil }
func (instantConn) Prepare(string) (driver.Stmt, error)      { return instantStmt{}, nil }
func (instantConn) PrepareContext(context.Context, string) (driver.Stmt, error) {
	return instantStmt{}, nil
}
func (instantConn) Begin() (driver.Tx, error) { return instantTx{}, nil }
func (instantConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	return instantTx{}, nil
}
func (instantConn) Close() error                               { return nil }
func (instantConn) ResetSession(context.Context) error         { return nil }
func (instantConn) IsValid() bool                              { return true }
func (instantTx) Commit() error                                { return nil }
func (instantTx) Rollback() error                              { return nil }
func (instantStmt) Close() error                               { return nil }
func (instantStmt) NumInput() int                              { return 0 }
func (instantStmt) Exec([]driver.Value) (driver.Result, error) { return done, nil }
func (instantStmt) Query([]driver.Value) (driver.Rows, error)  { return instantRows{}, nil }
func (instantRows) Columns() []string                          { return nil }
func (instantRows) Close() error                               { return nil }
func (instantRows) Next([]driver.Value) error                  { return io.EOF }
func (instantConn) ExecContext(context.Context, string, []driver.NamedValue) (driver.Result, error) {
	return done, nil
}
func (instantConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return instantRows{}, nil
}

type (
	instantConn struct{}
	instantStmt struct{}
	instantTx   struct{}
	instantRows struct{}
)

var done = driver.RowsAffected(1)

func BenchmarkSQL(b *testing.B) {
	plain := func(b *testing.B) *sql.DB {
		db := sql.OpenDB(instant{})
		db.SetMaxIdleConns(100)
		return db
	}
	pooled := func(b *testing.B) *sql.DB {
		s := pooly.NewService("db", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{
			Driver: poolysql.NewDriver(func(string) (driver.Connector, error) { return instant{}, nil }),
		}})
		b.Cleanup(func() { _ = s.Close() })
		s.SetHosts("a", "b", "c")
		return poolysql.Open(s)
	}
	ctx := context.Background()
	for _, call := range []struct {
		name string
		run  func(*sql.DB, *sql.Stmt) error
	}{
		{"exec", func(db *sql.DB, _ *sql.Stmt) error {
			_, err := db.ExecContext(ctx, "insert")
			return err
		}},
		{"query", func(db *sql.DB, _ *sql.Stmt) error {
			rows, err := db.QueryContext(ctx, "select")
			if err != nil {
				return err
			}
			return rows.Close()
		}},
		{"stmt", func(_ *sql.DB, stmt *sql.Stmt) error {
			_, err := stmt.ExecContext(ctx)
			return err
		}},
	} {
		for _, over := range []struct {
			name string
			open func(*testing.B) *sql.DB
		}{{"database/sql", plain}, {"poolysql", pooled}} {
			b.Run(call.name+"/"+over.name, func(b *testing.B) {
				db := over.open(b)
				defer db.Close()
				stmt, err := db.Prepare("insert")
				require.NoError(b, err)
				defer stmt.Close()
				b.ReportAllocs()
				for b.Loop() {
					if err := call.run(db, stmt); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(call.name+" parallel/"+over.name, func(b *testing.B) {
				db := over.open(b)
				defer db.Close()
				stmt, err := db.Prepare("insert")
				require.NoError(b, err)
				defer stmt.Close()
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := call.run(db, stmt); err != nil {
							b.Error(err)
						}
					}
				})
			})
		}
	}
}
