package sql_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
)

// workers ask at the same time.
const workers = 16

// result is what a load has seen.
type result struct {
	by     map[string]int // answers by port
	took   []time.Duration
	failed int
	cause  error // of a failure
}

// load asks n times. halfway, if not nil, is called once meanwhile.
func load(ask asker, n int, halfway func()) *result {
	r := &result{by: make(map[string]int)}
	var mu sync.Mutex
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if i == int64(n/2) && halfway != nil {
					halfway()
				}
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				began := time.Now()
				port, err := ask(ctx)
				took := time.Since(began)
				cancel()
				mu.Lock()
				r.took = append(r.took, took)
				if err != nil {
					r.failed++
					r.cause = err
				} else {
					r.by[port]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(r.took)
	return r
}

// share is a server's part of the answers, in percent.
func (r *result) share(s *server) float64 {
	all := 0
	for _, n := range r.by {
		all += n
	}
	return 100 * float64(r.by[s.port()]) / float64(max(all, 1))
}

func (r *result) percentile(p int) time.Duration {
	return r.took[(len(r.took)-1)*p/100]
}

// Every driver takes each query to the host that the strategy picks, and a server that was killed
// while nothing was in flight costs no query.
func TestQueriesGoToAllServersAndAKilledOneCostsNone(t *testing.T) {
	for _, base := range databases {
		t.Run(base.name, func(t *testing.T) {
			servers := base.start(t, 2)
			for name, newDriver := range base.drivers {
				t.Run(name, func(t *testing.T) {
					s := newService(t, newDriver(), nil, servers[0].address, servers[1].address)
					ask := askDB(t, poolysql.Open(s), base.port)
					load(ask, 200, nil) // to connect
					r := load(ask, 1000, nil)
					require.Zero(t, r.failed, "%v", r.cause)
					require.InDelta(t, 50, r.share(servers[0]), 10)

					servers[0].kill()
					r = load(ask, 1000, nil)
					require.Zero(t, r.failed, "%v", r.cause)
					require.Zero(t, r.by[servers[0].port()])

					servers[0].start()
					require.Eventually(t, func() bool { return load(ask, 100, nil).share(servers[0]) > 40 },
						30*time.Second, 100*time.Millisecond, "it is back")
				})
			}
		})
	}
}

// Errors that are the program's own eject nobody and cost no connection.
func TestErrorsOfTheServerKeepConnections(t *testing.T) {
	for _, base := range databases {
		t.Run(base.name, func(t *testing.T) {
			servers := base.start(t, 1)
			for name, newDriver := range base.drivers {
				t.Run(name, func(t *testing.T) {
					s := newService(t, newDriver(), nil, servers[0].address)
					db := poolysql.Open(s)
					defer db.Close()
					ctx := t.Context()
					for range 20 {
						_, err := db.ExecContext(ctx, "selekt 1")
						require.ErrorContains(t, err, "syntax")
						_, err = db.QueryContext(ctx, "select * from nowhere.nothing")
						require.Error(t, err)
						_, err = db.PrepareContext(ctx, "selekt 1")
						require.Error(t, err)
						require.ErrorIs(t, db.QueryRowContext(ctx, "select 1 where 1 = 0").Scan(new(int)), sql.ErrNoRows)
					}
					stats := s.Stats()
					require.LessOrEqual(t, stats.Dials, uint64(2), "one, and that in advance")
					require.Zero(t, stats.InUse)
					require.Zero(t, stats.Hosts[0].Ejections)
				})
			}
		})
	}
}

func TestTransactionsStatementsAndRawWork(t *testing.T) {
	placeholder := map[string]string{"PostgreSQL": "$1", "MariaDB": "?"}
	for _, base := range databases {
		t.Run(base.name, func(t *testing.T) {
			servers := base.start(t, 2)
			for name, newDriver := range base.drivers {
				t.Run(name, func(t *testing.T) {
					s := newService(t, newDriver(), nil, servers[0].address, servers[1].address)
					db := poolysql.Open(s)
					defer db.Close()
					ctx := t.Context()

					tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true, Isolation: sql.LevelRepeatableRead})
					require.NoError(t, err)
					ports := make(map[string]bool)
					for range 5 {
						var port string
						require.NoError(t, tx.QueryRowContext(ctx, base.port).Scan(&port))
						ports[port] = true
					}
					require.Len(t, ports, 1, "a transaction stays where it began")
					require.NoError(t, tx.Rollback())

					query := strings.Replace(base.port, "select ", "select 'x', "+placeholder[base.name]+"+0, ", 1)
					stmt, err := db.PrepareContext(ctx, query)
					require.NoError(t, err)
					clear(ports)
					for i := range 10 {
						var x, port string
						var number int
						require.NoError(t, stmt.QueryRowContext(ctx, i).Scan(&x, &number, &port))
						require.Equal(t, i, number)
						ports[port] = true
					}
					require.Len(t, ports, 2, "a statement runs anywhere")
					require.NoError(t, stmt.Close())

					cancelled, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
					defer cancel()
					_, err = db.ExecContext(cancelled, sleep[base.name])
					require.Error(t, err)
					var one int
					require.NoError(t, db.QueryRowContext(ctx, "select 1").Scan(&one))
					require.Zero(t, s.Stats().InUse)
				})
			}
		})
	}
}

var sleep = map[string]string{"PostgreSQL": "select pg_sleep(1)", "MariaDB": "do sleep(1)"}

func TestRawReachesPgx(t *testing.T) {
	servers := postgres(t, 1)
	s := newService(t, pgxDriver(), nil, servers[0].address)
	db := poolysql.Open(s)
	defer db.Close()
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	require.NoError(t, conn.Raw(func(driverConn any) error {
		_, err := poolysql.Unwrap(driverConn).(*stdlib.Conn).Conn().Exec(t.Context(), "selekt")
		var answer *pgconn.PgError
		if !errors.As(err, &answer) {
			return fmt.Errorf("not pgx: %w", err)
		}
		return nil
	}))
	require.NoError(t, conn.Close())
	require.Positive(t, s.Stats().Open)
}

// One of three servers is slow, another is killed and comes back. docs/SQL.md has the table.
func TestCompare(t *testing.T) {
	for _, base := range databases {
		t.Run(base.name, func(t *testing.T) {
			servers := base.start(t, 3)
			addresses := []string{servers[0].address, servers[1].address, slow(t, servers[2].address, 20*time.Millisecond)}
			name := map[string]string{"PostgreSQL": "pgx", "MariaDB": "mysql"}[base.name]
			newDriver := base.drivers[name]
			clients := []struct {
				name  string
				open  func(t *testing.T) asker
				chief bool // promises are made for it
			}{
				{"poolysql, round-robin", func(t *testing.T) asker {
					return askDB(t, poolysql.Open(newService(t, newDriver(), nil, addresses...)), base.port)
				}, true},
				{"poolysql, NewHotCold(5, 0.84)", func(t *testing.T) asker {
					return askDB(t, poolysql.Open(newService(t, newDriver(), pooly.NewHotCold(5, 0.84), addresses...)), base.port)
				}, true},
				{"poolysql, NewLeastLatency()", func(t *testing.T) asker {
					return askDB(t, poolysql.Open(newService(t, newDriver(), pooly.NewLeastLatency(), addresses...)), base.port)
				}, true},
				{"database/sql over DialContext", func(t *testing.T) asker {
					db, err := base.dialed(newService(t, nil, nil, addresses...))
					require.NoError(t, err)
					db.SetMaxIdleConns(workers)
					return askDB(t, db, base.port)
				}, false},
			}
			if base.name == "PostgreSQL" {
				clients = append(clients, struct {
					name  string
					open  func(t *testing.T) asker
					chief bool
				}{"pgxpool, all hosts in its DSN", func(t *testing.T) asker {
					return askPgxpool(t, base.port, strings.Join(addresses, ","))
				}, false})
			}
			table := []string{
				"| | slow server's share | p50 | p99 | failed of 1,000 after a kill while idle | failed of 3,000 with a kill under load | restarted server's share |",
				"| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
			}
			for _, c := range clients {
				t.Run(c.name, func(t *testing.T) {
					ask := c.open(t)
					load(ask, 500, nil) // to connect and to learn
					calm := load(ask, 3000, nil)
					servers[0].kill()
					time.Sleep(100 * time.Millisecond)
					afterKill := load(ask, 1000, nil)
					servers[0].start()
					time.Sleep(3 * time.Second)
					load(ask, 500, nil)
					restarted := load(ask, 3000, nil)
					returned := restarted.share(servers[0])
					for range 60 { // NewLeastLatency tries a host that looks slow again within a minute
						if !c.chief || returned > 0 {
							break
						}
						time.Sleep(time.Second)
						returned = load(ask, 500, nil).share(servers[0])
					}
					ask = c.open(t)
					load(ask, 500, nil)
					underLoad := load(ask, 3000, servers[0].kill)
					servers[0].start()

					table = append(table, fmt.Sprintf("| %s | %.0f %% | %.1f ms | %.1f ms | %d | %d | %.0f %% |", c.name,
						calm.share(servers[2]), ms(calm.percentile(50)), ms(calm.percentile(99)),
						afterKill.failed, underLoad.failed, restarted.share(servers[0])))
					if !c.chief {
						return
					}
					require.Zero(t, calm.failed, "%v", calm.cause)
					require.Zero(t, afterKill.failed, "%v", afterKill.cause)
					require.LessOrEqual(t, underLoad.failed, workers, "only what was in flight: %v", underLoad.cause)
					require.Positive(t, returned)
					if strings.Contains(c.name, "round-robin") {
						require.InDelta(t, 100./3, calm.share(servers[2]), 1)
						require.InDelta(t, 100./3, restarted.share(servers[0]), 5)
					} else {
						require.Less(t, calm.share(servers[2]), 20.)
					}
				})
			}
			t.Logf("%s, %d goroutines:\n%s", base.name, workers, strings.Join(table, "\n"))
		})
	}
}

func ms(d time.Duration) float64 {
	return float64(d) / float64(time.Millisecond)
}
