// Sql puts pooly under database/sql: each query goes to the server that the strategy picks, and a server that dies
// costs no query but those in flight. The servers must be equal: replicas to read from, say.
//
// It queries what listens there, as the user postgres, with the password of $PGPASSWORD if any:
//
//	pg_createcluster 15 one --start -p 5433 -- --auth-host=trust; pg_createcluster 15 two --start -p 5434 -- --auth-host=trust
//	go -C examples/clients run ./sql 127.0.0.1:5433 127.0.0.1:5434
package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
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

// newService returns a service whose connections are those of pgx.
func newService(addresses ...string) *pooly.Service {
	d := poolysql.NewDriver(func(address string) (driver.Connector, error) {
		config, err := pgx.ParseConfig("postgres://postgres@" + address + "/postgres?sslmode=disable")
		if err != nil {
			return nil, err
		}
		return stdlib.GetConnector(*config), nil
	})
	// pgx itself looks at a connection only if it was idle for a second.
	d.SetNetConn(func(c driver.Conn) net.Conn { return c.(*stdlib.Conn).Conn().PgConn().Conn() })
	s := pooly.NewService("postgres", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: d, MaxConns: 10},
		BanditStrategy: pooly.NewLeastLatency(),
	})
	s.SetHosts(addresses...)
	return s
}

// read runs a query that changes nothing, so that it may be repeated after its connection broke.
func read(ctx context.Context, db *sql.DB, query string) (value string, err error) {
	for range 3 {
		err = db.QueryRowContext(ctx, query).Scan(&value)
		var answer *pgconn.PgError
		if err == nil || ctx.Err() != nil || errors.As(err, &answer) {
			break
		}
	}
	return value, err
}

func run(w io.Writer, addresses ...string) error {
	s := newService(addresses...)
	defer s.Close()
	db := poolysql.Open(s)
	defer db.Close() // before the service, which would wait for its leases

	const queries, workers = 2000, 8
	var wg sync.WaitGroup
	failures := make(chan error, workers)
	for range workers {
		wg.Go(func() {
			for range queries / workers {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				_, err := read(ctx, db, "select current_setting('port')")
				cancel()
				if err != nil {
					failures <- err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, h := range s.Stats().Hosts {
		fmt.Fprintf(w, "%s: %d leases, %d open, score %.2f, ejected: %v\n", h.Address, h.Gets, h.Open, h.Score, h.Ejected)
	}
	close(failures)
	return <-failures
}
