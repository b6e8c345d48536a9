package poolysql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
)

// socketConn is a connection that has a socket.
type socketConn struct {
	fullConn
	socket net.Conn
}

func (c socketConn) Close() error {
	_ = c.socket.Close()
	return c.fullConn.Close()
}

type socketConnector struct {
	connector
	server   net.Listener
	accepted func(net.Conn)
}

func (c socketConnector) Connect(ctx context.Context) (driver.Conn, error) {
	inner, err := c.connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	client, err := net.Dial("tcp", c.server.Addr().String())
	if err != nil {
		return nil, err
	}
	server, err := c.server.Accept()
	if err != nil {
		return nil, err
	}
	c.accepted(server)
	return socketConn{inner.(fullConn), client}, nil
}

// openSockets returns a DB whose connections have sockets, and the servers' ends of them.
func openSockets(t *testing.T) (db *sql.DB, s *pooly.Service, ends func() []net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	w := newWorld(full, "a")
	var mu sync.Mutex
	var servers []net.Conn
	db, s = open(t, w, func(c *pooly.ServiceConfig, _ *poolysql.Driver) {
		d := poolysql.NewDriver(func(address string) (driver.Connector, error) {
			inner, err := w.connector(address)
			if err != nil {
				return nil, err
			}
			return socketConnector{inner.(connector), l, func(c net.Conn) {
				mu.Lock()
				defer mu.Unlock()
				servers = append(servers, c)
			}}, nil
		})
		d.SetNetConn(func(c driver.Conn) net.Conn { return c.(socketConn).socket })
		c.Driver, c.CloseDeadline = d, 100*time.Millisecond
	})
	t.Cleanup(func() {
		for _, c := range servers {
			_ = c.Close()
		}
	})
	return db, s, func() []net.Conn {
		mu.Lock()
		defer mu.Unlock()
		return servers
	}
}

func TestASocketThatTheServerClosedOrWroteToIsReplaced(t *testing.T) {
	for name, spoil := range map[string]func(net.Conn) error{
		"closed":       net.Conn.Close,
		"unread bytes": func(c net.Conn) error { _, err := c.Write([]byte("late")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			db, s, ends := openSockets(t)
			for range 2 {
				_, err := hostOf(t.Context(), db)
				require.NoError(t, err)
			}
			require.Len(t, ends(), 1)
			require.NoError(t, spoil(ends()[0]))
			require.Eventually(t, func() bool {
				_, err := hostOf(t.Context(), db)
				return err == nil && len(ends()) == 2
			}, 10*time.Second, time.Millisecond)
			require.EqualValues(t, 2, s.Stats().Dials)
			require.Zero(t, statsOf(s, "a").Ejections)
		})
	}
}

// A query that hangs in the driver ends when the service closes its connection.
func TestServiceCloseInterruptsAQueryWhoseSocketIsKnown(t *testing.T) {
	db, s, ends := openSockets(t)
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	read := make(chan error)
	go func() {
		read <- conn.Raw(func(driverConn any) error {
			_, err := poolysql.Unwrap(driverConn).(socketConn).socket.Read(make([]byte, 1))
			return err
		})
	}()
	require.ErrorIs(t, s.Close(), pooly.ErrOpTimeout)
	require.ErrorIs(t, <-read, net.ErrClosed)
	require.Len(t, ends(), 1)
	require.NoError(t, conn.Close())
}
