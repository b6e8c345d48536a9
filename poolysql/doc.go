// Package poolysql balances database/sql: the service's strategy chooses a host for each query. A
// [sql.DB] normally keeps connections, so that a host is chosen when a connection is dialled. Here
// the connections stay in the pools of a [pooly.Service], and each query leases one:
//
//	d := poolysql.NewDriver(func(address string) (driver.Connector, error) {
//		config, err := mysql.ParseDSN("user:secret@tcp(" + address + ")/orders")
//		if err != nil {
//			return nil, err
//		}
//		return mysql.NewConnector(config)
//	})
//	s := pooly.NewService("orders", &pooly.ServiceConfig{
//		PoolConfig: pooly.PoolConfig{Driver: d},
//	})
//	s.SetHosts("10.0.0.1:3306", "10.0.0.2:3306")
//	db := poolysql.Open(s)
//
// All hosts of a service must be equal: any of them may get any query. Use one service for the
// servers that take writes, and one for the replicas.
//
// # What is a lease
//
// Exec, Ping and Prepare lease a connection for their duration. A Query leases one until its Rows
// are closed. A Tx leases one until Commit or Rollback, a sql.Conn until Close. A sql.Stmt leases
// one per execution, to any host. The latency that a strategy sees is the duration of the lease.
//
// The pools of the service decide about connections: MaxConns, MaxConnLifetime, ConnIdleTimeout and
// WaitTimeout of [pooly.PoolConfig]. The DB keeps no idle connection, whatever SetMaxIdleConns
// says. Do not call SetMaxOpenConns: a DB at that limit connects in one goroutine, without its
// callers' deadlines.
//
// # What is rated
//
//   - An answer of the server rates the host HostUp and keeps the connection, even if it is an
//     error such as a syntax error or a constraint violation.
//   - driver.ErrBadConn, errors of the network and timeouts rate the host HostDown, count against
//     its health and close the connection. So does any error after which the inner connection
//     reports that it is not valid.
//   - A context that is cancelled rates nothing. The connection is closed, unless the inner
//     connection reports that it is still valid.
//
// To rate more errors, embed the Driver and override Temporary:
//
//	type readOnlyIsDown struct{ *poolysql.Driver }
//
//	func (d readOnlyIsDown) Temporary(err error) bool {
//		return !isReadOnly(err) && d.Driver.Temporary(err)
//	}
//
// # What is repeated
//
// If a connection died while idle, no query fails, if the inner driver notices it before it sends
// anything: it then returns driver.ErrBadConn. The lease is exchanged for a lease of another host,
// within the service's budget of retries. After that, database/sql runs the query up to two times
// more. Drivers notice a dead connection in ResetSession, or [Driver.SetNetConn] notices it for
// them.
//
// All other errors are the caller's: the server may have executed the query.
package poolysql
