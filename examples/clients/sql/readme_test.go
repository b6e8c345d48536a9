package main

import (
	"database/sql"
	"database/sql/driver"
	"net"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// The code of docs/SQL.md. A test in docs compares them.
func readme() *sql.DB {
	d := poolysql.NewDriver(func(address string) (driver.Connector, error) {
		config, err := pgx.ParseConfig("postgres://app@" + address + "/orders")
		if err != nil {
			return nil, err
		}
		return stdlib.GetConnector(*config), nil
	})
	d.SetNetConn(func(c driver.Conn) net.Conn { return c.(*stdlib.Conn).Conn().PgConn().Conn() })

	s := pooly.NewService("orders", &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: d, MaxConns: 10},
		BanditStrategy: pooly.NewLeastLatency(),
	})
	s.SetHosts("10.0.0.1:5432", "10.0.0.2:5432")
	db := poolysql.Open(s) // a *sql.DB like any other
	return db
}

var _ = readme
