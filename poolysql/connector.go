package poolysql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/3XX0/pooly"
)

// Open returns a DB whose queries each choose a host of the service. The service's driver must come
// from [NewDriver].
//
// Open does not connect. Close of the DB leaves the service open: close the DB first, then the
// service. It panics if service is nil.
func Open(service *pooly.Service) *sql.DB {
	db := sql.OpenDB(NewConnector(service))
	db.SetMaxIdleConns(0)
	return db
}

// Connector is a driver.Connector whose connections are leases of a service. Its methods may be
// called concurrently.
type Connector struct {
	service *pooly.Service
}

var _ driver.Connector = (*Connector)(nil)

// NewConnector returns a connector for sql.OpenDB, for programs that wrap connectors. Other
// programs use [Open]. A DB with this connector keeps no idle connections. It panics if service is
// nil.
func NewConnector(service *pooly.Service) *Connector {
	if service == nil {
		panic(fmt.Errorf("%w: NewConnector: the service is nil", pooly.ErrInvalidArg))
	}
	return &Connector{service}
}

// Connect leases a connection of the host that the strategy picks. Close of the connection ends the
// lease.
//
// If a connection was used before, or was idle, Connect resets it first: it calls ResetSession of
// the inner connection, if there is such a method. A connection whose reset fails is closed, and
// rates nothing. If the error says that the connection is broken, Connect leases another
// connection. Otherwise it returns the error.
//
// ctx bounds Connect. It should bound the query too, as ctx of a QueryContext does: see
// Service.Lease. Otherwise it returns the errors of GetConnContext. They never wrap
// driver.ErrBadConn, since pooly has tried the other hosts already.
func (c *Connector) Connect(ctx context.Context) (driver.Conn, error) {
	lease, s, err := c.lease(ctx, pooly.LeaseOptions{})
	if err != nil {
		return nil, final(err)
	}
	return newConn(c, lease, s), nil
}

// A connection that is reset soon after its dial cannot have died of old age. After mostResets such
// resets have failed, Connect gives up. Otherwise, with a driver whose resets all fail, it would
// dial forever.
const (
	mostResets = 3
	young      = time.Second
)

// lease leases a connection that is ready for its user.
func (c *Connector) lease(
	ctx context.Context, options pooly.LeaseOptions,
) (*pooly.Conn, *session, error) {
	for failed := 0; ; {
		lease, err := c.service.Lease(ctx, options)
		if err != nil {
			return nil, nil, err
		}
		s, ok := lease.Interface().(*session)
		if !ok {
			_ = lease.End()
			return nil, nil, fmt.Errorf("%w: service %s: poolysql needs the driver of NewDriver, not a %T",
				pooly.ErrInvalidArg, c.service.Name(), lease.Interface())
		}
		if !s.phase.CompareAndSwap(idle, leased) {
			_ = lease.End()
			return nil, nil, errClosed
		}
		if !s.used && !s.waited {
			return lease, s, nil
		}
		unused := !s.used
		err = reset(ctx, lease, s)
		if err == nil {
			return lease, s, nil
		}
		if unused && time.Since(s.dialed) < young {
			failed++
		}
		if ctx.Err() != nil || !fatal(err) || failed == mostResets {
			return nil, nil, fmt.Errorf("poolysql: reset a connection to %s: %w", lease.Address(), err)
		}
		options.Avoid = append(slices.Clip(options.Avoid), lease.Address())
	}
}

// reset prepares an inner connection for its next user. If that fails, reset closes the connection.
func reset(ctx context.Context, lease *pooly.Conn, s *session) error {
	r, ok := s.inner.(driver.SessionResetter)
	if !ok {
		return nil
	}
	c := conn{lease: lease, session: s, calling: true}
	defer c.panicked()
	err := r.ResetSession(ctx)
	c.calling = false
	if err == nil {
		return nil
	}
	if end := ctx.Err(); errors.Is(end, context.DeadlineExceeded) {
		c.fail(fmt.Errorf("%w: %w", end, err))
	} else {
		c.giveUp() // an idle connection died, which is no fault of the host
	}
	_ = c.end()
	return err
}

// Driver returns a driver that names this package. It cannot open anything: the service decides
// where to connect.
func (c *Connector) Driver() driver.Driver {
	return serviceDriver{}
}

type serviceDriver struct{}

// Open implements driver.Driver. It always fails.
func (serviceDriver) Open(string) (driver.Conn, error) {
	return nil, errOneHost
}

var errOneHost = errors.New(
	"poolysql: a data source name names one host; use poolysql.Open with a service")

// final returns err such that database/sql does not call Connect again.
func final(err error) error {
	if errors.Is(err, driver.ErrBadConn) {
		return finalError{err}
	}
	return err
}

// finalError is an error that does not wrap driver.ErrBadConn although its cause does.
type finalError struct{ err error }

func (e finalError) Error() string { return e.err.Error() }

// Is replaces Unwrap, for which errors.Is would look otherwise.
func (e finalError) Is(target error) bool {
	return target != driver.ErrBadConn && errors.Is(e.err, target)
}

// As replaces Unwrap, for which errors.As would look otherwise.
func (e finalError) As(target any) bool {
	return errors.As(e.err, target)
}
