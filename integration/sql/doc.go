// Package sql holds the tests of poolysql with real PostgreSQL and MariaDB servers, through pgx,
// go-sql-driver/mysql and lib/pq. docs/SQL.md has the table that they print.
package sql
