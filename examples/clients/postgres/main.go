// Postgres puts pooly under pgx: the client keeps its own pool, and pooly chooses the server of each connection and
// learns from what happens on it. To choose the server of each query, see package poolysql.
//
// All hosts of a service must be equal, because pooly knows no roles: here, replicas that are read. For writes, make a
// second service that has only the primary, and a second pool over it. target_session_attrs does not work over
// DialContext: pgx would close what it does not want and take the next connection for it. If one pool must find the
// primary by itself, give pgx all addresses in its connection string, and do without pooly there.
//
// It queries what listens there, as the user postgres, with the password of $PGPASSWORD if any:
//
//	pg_createcluster 15 one --start -p 5433 -- --auth-host=trust; pg_createcluster 15 two --start -p 5434 -- --auth-host=trust
//	go -C examples/clients run ./postgres 127.0.0.1:5433 127.0.0.1:5434
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/3XX0/pooly"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
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

// newPool returns a pool that is connected by the service.
//
// When a host was removed, added or restored, an idle connection that should move is replaced before its next query:
// PrepareConn asks pooly. LookupFunc is needed, or pgx would look the service's name up.
func newPool(ctx context.Context, s *pooly.Service) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig("user=postgres dbname=postgres host=" + s.Name() + " sslmode=disable pool_max_conns=8")
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = s.DialContext
	config.ConnConfig.LookupFunc = func(_ context.Context, host string) ([]string, error) {
		return []string{host}, nil // the name is never looked up
	}
	config.PrepareConn = func(_ context.Context, c *pgx.Conn) (bool, error) {
		return !pooly.Outdated(c.PgConn().Conn()), nil
	}
	return pgxpool.NewWithConfig(ctx, config)
}

// read runs a query for one value that changes nothing, so that it may be repeated: the connection may break under it,
// and then pgx takes another. When a server dies all connections to it do, so a read may meet as many as the pool has.
func read[T any](ctx context.Context, pool *pgxpool.Pool, query string, args ...any) (value T, err error) {
	for range pool.Config().MaxConns + 1 {
		err = pool.QueryRow(ctx, query, args...).Scan(&value)
		if err == nil || ctx.Err() != nil || isAnswer(err) {
			break
		}
	}
	return value, err
}

// isAnswer reports whether an error is the server's answer to the query, and not that it shuts down (class 57P).
func isAnswer(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && !strings.HasPrefix(e.Code, "57P")
}

func run(w io.Writer, addresses ...string) error {
	s := pooly.NewService("postgres", nil)
	defer s.Close()
	s.SetHosts(addresses...)
	pool, err := newPool(context.Background(), s)
	if err != nil {
		return err
	}
	defer pool.Close() // before the service, which would wait for its connections

	for range 1000 {
		if _, err := read[string](context.Background(), pool, "select current_setting('port')"); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		fmt.Fprintf(w, "%s: %d connections leased, score %.2f, ejected %v\n", h.Address, h.Gets, h.Score, h.Ejected)
	}
	return nil
}
