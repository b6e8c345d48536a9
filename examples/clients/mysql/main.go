// Mysql puts pooly under go-sql-driver/mysql: database/sql keeps its own pool, and pooly chooses the server of each
// connection and learns from what happens on it. To choose the server of each query, see package poolysql.
//
// All hosts of a service must be equal: here, replicas that are read. For writes, make a second service that has only
// the primary, and a second sql.DB over it.
//
//	go -C examples/clients run ./mysql 127.0.0.1:3306 127.0.0.1:3307
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/3XX0/pooly"
	"github.com/go-sql-driver/mysql"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: go run main.go host:port...")
		os.Exit(2)
	}
	if err := run(os.Stdout, os.Args[1:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// open returns a database that is connected by the service.
//
// When a host was removed, added or restored, an idle connection that should move is replaced before its next query.
// The driver finds that out by itself (CheckConnLiveness, its default).
func open(s *pooly.Service) (*sql.DB, error) {
	mysql.RegisterDialContext(s.Name(), func(ctx context.Context, _ string) (net.Conn, error) {
		return s.DialContext(ctx, "", "")
	})
	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = "root", os.Getenv("MYSQL_PWD"), "test"
	config.Net, config.Addr = s.Name(), s.Name() // the address is never looked up
	config.ReadTimeout, config.WriteTimeout = 5*time.Second, 5*time.Second
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(16) // the default of 2 would dial for nearly every query under load
	return db, nil
}

// read runs a query for one value that changes nothing, so that it may be repeated. database/sql repeats by itself only
// what was not sent. When a server dies all connections to it do, so a read may meet each of them.
func read[T any](ctx context.Context, db *sql.DB, query string, args ...any) (value T, err error) {
	for range db.Stats().MaxOpenConnections + 1 {
		err = db.QueryRowContext(ctx, query, args...).Scan(&value)
		if err == nil || ctx.Err() != nil || isAnswer(err) {
			break
		}
	}
	return value, err
}

// isAnswer reports whether an error is the server's answer to the query, and not that it shuts down (1053).
func isAnswer(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number != 1053 || errors.Is(err, sql.ErrNoRows)
}

func run(w io.Writer, addresses ...string) error {
	s := pooly.NewService("mysql", nil)
	defer func() { _ = s.Close() }()
	s.SetHosts(addresses...)
	db, err := open(s)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // before the service, which would wait for its connections

	for range 1000 {
		if _, err := read[int](context.Background(), db, "select @@port"); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}
