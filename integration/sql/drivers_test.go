package sql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
)

func postgresURL(hosts string) string {
	return fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable", hosts)
}

func pgxDriver() *poolysql.Driver {
	d := poolysql.NewDriver(func(address string) (driver.Connector, error) {
		config, err := pgx.ParseConfig(postgresURL(address))
		if err != nil {
			return nil, err
		}
		return stdlib.GetConnector(*config), nil
	})
	d.SetNetConn(func(c driver.Conn) net.Conn { return c.(*stdlib.Conn).Conn().PgConn().Conn() })
	return d
}

func pqDriver() *poolysql.Driver {
	return poolysql.NewDriver(func(address string) (driver.Connector, error) {
		return pq.NewConnector(postgresURL(address))
	})
}

func mysqlConfig(address string) (*mysql.Config, error) {
	config, err := mysql.ParseDSN("root@tcp(" + address + ")/")
	if err != nil {
		return nil, err
	}
	config.Logger = &mysql.NopLogger{}
	return config, nil
}

func mysqlDriver() *poolysql.Driver {
	return poolysql.NewDriver(func(address string) (driver.Connector, error) {
		config, err := mysqlConfig(address)
		if err != nil {
			return nil, err
		}
		return mysql.NewConnector(config)
	})
}

func pingPostgres(address string) error {
	db, err := sql.Open("pgx", postgresURL(address))
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Ping()
}

func pingMariaDB(address string) error {
	config, err := mysqlConfig(address)
	if err != nil {
		return err
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	return db.Ping()
}

// A database is what is compared, and how it is reached.
type database struct {
	name    string
	start   func(t testing.TB, n int) []*server
	drivers map[string]func() *poolysql.Driver
	port    string // a query for the server's port
	dialed  func(*pooly.Service) (*sql.DB, error)
}

var databases = []database{
	{
		name:    "PostgreSQL",
		start:   postgres,
		drivers: map[string]func() *poolysql.Driver{"pgx": pgxDriver, "pq": pqDriver},
		port:    "select current_setting('port')",
		dialed: func(s *pooly.Service) (*sql.DB, error) {
			config, err := pgx.ParseConfig(postgresURL(s.Name()))
			if err != nil {
				return nil, err
			}
			config.DialFunc = s.DialContext
			config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
			return stdlib.OpenDB(*config), nil
		},
	},
	{
		name:    "MariaDB",
		start:   mariadb,
		drivers: map[string]func() *poolysql.Driver{"mysql": mysqlDriver},
		port:    "select convert(@@port, char)",
		dialed: func(s *pooly.Service) (*sql.DB, error) {
			config, err := mysqlConfig(s.Name() + ":0")
			if err != nil {
				return nil, err
			}
			config.DialFunc = s.DialContext
			connector, err := mysql.NewConnector(config)
			return sql.OpenDB(connector), err
		},
	},
}

func newService(t testing.TB, d pooly.Driver, strategy pooly.Bandit, addresses ...string) *pooly.Service {
	t.Helper()
	s := pooly.NewService("db", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: d},
		BanditStrategy: strategy,
		Logger:         slog.New(slog.DiscardHandler),
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.SetHosts(addresses...)
	return s
}

// asker runs one query and returns the port of the server that answered.
type asker func(context.Context) (port string, err error)

func askDB(t testing.TB, db *sql.DB, query string) asker {
	t.Helper()
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return func(ctx context.Context) (port string, err error) {
		err = db.QueryRowContext(ctx, query).Scan(&port)
		return port, err
	}
}

func askPgxpool(t testing.TB, query, hosts string) asker {
	t.Helper()
	config, err := pgxpool.ParseConfig(postgresURL(hosts))
	require.NoError(t, err)
	config.MaxConns = workers
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return func(ctx context.Context) (port string, err error) {
		err = pool.QueryRow(ctx, query).Scan(&port)
		return port, err
	}
}
