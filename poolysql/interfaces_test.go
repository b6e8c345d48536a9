package poolysql_test

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"slices"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
)

// script is what a program may do with a DB. It returns what the program sees.
func script(ctx context.Context, db *sql.DB) (seen []string) {
	see := func(what string, values ...any) { seen = append(seen, fmt.Sprintf("%s: %v", what, values)) }
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	argLists := map[string][]any{
		"none": nil, "one": {1}, "two": {"x", 2}, "bytes": {[]byte("b")}, "nil": {nil}, "nils": {"x", nil},
		"struct": {struct{ X int }{3}}, "removed": {true}, "named": {sql.Named("n", 1)},
		"null": {sql.NullString{}}, "unsupported": {make(chan int)}, "uint": {uint64(1) << 63},
	}
	order := []string{"none", "one", "two", "bytes", "nil", "nils", "struct", "removed", "named", "null",
		"unsupported", "uint"}
	for _, query := range []string{"plain ?", "plain ??", "prepared ?", "prepared ??", "syntax ?", "breaks"} {
		for _, name := range order {
			args := argLists[name]
			what := query + " " + name
			result, err := db.ExecContext(ctx, query, args...)
			see("exec "+what, err)
			if err == nil {
				n, err := result.RowsAffected()
				see("affected", n, err)
				n, err = result.LastInsertId()
				see("id", n, err)
			}
			rows, err := db.QueryContext(ctx, query, args...)
			see("query "+what, err)
			if err == nil {
				see("rows", readAll(rows))
			}
			stmt, err := db.PrepareContext(ctx, query)
			see("prepare "+what, err)
			if err != nil {
				continue
			}
			_, err = stmt.ExecContext(ctx, args...)
			see("stmt exec "+what, err)
			rows, err = stmt.QueryContext(ctx, args...)
			see("stmt query "+what, err)
			if err == nil {
				see("rows", readAll(rows))
			}
			see("close", stmt.Close())
		}
	}
	see("ping", db.PingContext(ctx))
	for _, options := range []*sql.TxOptions{
		nil, {}, {ReadOnly: true}, {Isolation: sql.LevelSerializable}, {Isolation: sql.LevelSnapshot, ReadOnly: true},
	} {
		tx, err := db.BeginTx(ctx, options)
		see("begin", err)
		if err != nil {
			continue
		}
		_, err = tx.ExecContext(ctx, "plain ?", 1)
		see("exec in tx", err)
		see("commit", tx.Commit(), tx.Commit())
	}
	conn, err := db.Conn(ctx)
	see("conn", err)
	_, err = conn.ExecContext(cancelled, "plain")
	see("exec cancelled", err)
	_, err = conn.QueryContext(cancelled, "plain")
	see("query cancelled", err)
	_, err = conn.PrepareContext(cancelled, "plain")
	see("prepare cancelled", err)
	_, err = conn.BeginTx(cancelled, nil)
	see("begin cancelled", err)
	see("close", conn.Close())
	return seen
}

func readAll(rows *sql.Rows) (read []any) {
	defer rows.Close()
	columns, err := rows.Columns()
	read = append(read, columns, err)
	types, err := rows.ColumnTypes()
	read = append(read, err)
	for _, t := range types {
		length, hasLength := t.Length()
		nullable, hasNullable := t.Nullable()
		precision, scale, hasScale := t.DecimalSize()
		read = append(read, t.Name(), t.DatabaseTypeName(), t.ScanType(), length, hasLength, nullable, hasNullable,
			precision, scale, hasScale)
	}
	for {
		for rows.Next() {
			var host string
			var number int
			read = append(read, rows.Scan(&host, &number), host, number)
		}
		if !rows.NextResultSet() {
			break
		}
		read = append(read, "next set")
	}
	return append(read, rows.Err())
}

// Whatever an inner driver has of the optional interfaces, a program sees what it would see without
// pooly, and the driver is asked the same.
func TestAProgramSeesWhatItSeesWithoutPooly(t *testing.T) {
	for name, k := range map[string]kind{"full": full, "bare": bare, "legacy": legacy, "checks": checks} {
		t.Run(name, func(t *testing.T) {
			plain, pooled := newWorld(k, "a"), newWorld(k, "a")
			plain.keep, pooled.keep = true, true
			c, err := plain.connector("a")
			require.NoError(t, err)
			db := sql.OpenDB(c)
			defer db.Close()
			want := script(t.Context(), db)

			other, s := open(t, pooled, func(_ *pooly.ServiceConfig, d *poolysql.Driver) { d.SetMaxStatements(0) })
			got := script(t.Context(), other)
			requireIdle(t, s)
			require.Greater(t, len(want), 150)
			require.Len(t, got, len(want))
			for i := range want {
				require.Equal(t, want[i], asPlain(got[i]), "%d", i)
			}
			require.NoError(t, db.Close())
			require.NoError(t, other.Close())
			wantLog, gotLog := ordered(plain.asked()), ordered(pooled.asked())
			require.Len(t, gotLog, len(wantLog))
			for i := range wantLog {
				require.Equal(t, wantLog[i], gotLog[i], "%d", i)
			}
		})
	}
}

var prefix = regexp.MustCompile(`poolysql: driver`)

// asPlain names database/sql where this package speaks for it.
func asPlain(seen string) string {
	return prefix.ReplaceAllString(seen, "sql: driver")
}

// unordered matches what database/sql does when it likes: it prepares a Stmt once per connection
// that it keeps, and cleans up in the background.
var unordered = regexp.MustCompile(`^(close|prepare|rollback) `)

// ordered returns the other lines.
func ordered(log []string) []string {
	return slices.DeleteFunc(slices.Clone(log), unordered.MatchString)
}
