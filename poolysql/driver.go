package poolysql

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/sockpeek"
)

// DefaultMaxStatements is how many prepared statements a connection keeps.
const DefaultMaxStatements = 32

// Driver is the pooly.Driver whose connections are connections of a database/sql driver. They are
// used through [Open] or [NewConnector].
//
// Call the Set methods before the driver is used. All other methods may be called concurrently.
type Driver struct {
	connector     func(address string) (driver.Connector, error)
	netConn       func(driver.Conn) net.Conn // nil: no socket is looked at
	maxStatements int
}

var _ pooly.Driver = (*Driver)(nil)

// NewDriver returns a driver that connects to an address with the connector that the function
// returns for it. The function is called for each dial, so it may use new credentials each time.
// It may be called concurrently.
//
// It panics if connector is nil.
func NewDriver(connector func(address string) (driver.Connector, error)) *Driver {
	if connector == nil {
		panic(fmt.Errorf("%w: NewDriver: the function is nil", pooly.ErrInvalidArg))
	}
	return &Driver{connector: connector, maxStatements: DefaultMaxStatements}
}

// SetMaxStatements sets how many prepared statements a connection keeps for its next user. A
// statement is kept when it is closed, whether it came from Prepare or from a query that its driver
// can only run prepared. The statement that was unused for longest is closed first. A statement
// that failed is closed at once.
//
// Default DefaultMaxStatements. With 0 or less no statement is kept. Set 0 if ResetSession of the
// inner driver discards statements on the server.
func (d *Driver) SetMaxStatements(n int) {
	d.maxStatements = n
}

// SetNetConn sets the function that finds the socket of an inner connection. With it, a connection
// that the server has closed while idle, or that holds unread bytes, is replaced before a query
// gets it. This costs one system call for each lease, and no round trip.
//
// go-sql-driver/mysql does the same by itself. For pgx, set
//
//	func(c driver.Conn) net.Conn { return c.(*stdlib.Conn).Conn().PgConn().Conn() }
//
// A nil result means that the connection is not examined. Default nil: no connection is examined.
func (d *Driver) SetNetConn(find func(driver.Conn) net.Conn) {
	d.netConn = find
}

// session is an inner connection, through all its leases. It belongs to the current lease.
type session struct {
	inner      driver.Conn
	netConn    net.Conn         // nil: unknown
	socket     sockpeek.Checker // nil: not examined
	statements statements
	direct     bool // it runs queries without a prepared statement
	dialed     time.Time
	used       bool // it has served a lease
	waited     bool // it was idle, perhaps for an instant
	broken     bool // after how a lease ended, it must not be asked anything more
	phase      atomic.Int32
}

// The phases of a session. An inner connection may not be used concurrently. So if the service
// closes it under a lease, it is closed when the lease ends.
const (
	idle int32 = iota
	leased
	doomed
)

// Dial implements pooly.Driver.
func (d *Driver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	connector, err := d.connector(address)
	if err != nil {
		return nil, err
	}
	if connector == nil {
		return nil, errNoConnector
	}
	inner, err := connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	if inner == nil {
		return nil, errNoConn
	}
	s := &session{
		inner:      inner,
		dialed:     time.Now(),
		direct:     isDirect(inner),
		statements: statements{most: d.maxStatements},
	}
	if d.netConn != nil {
		if s.netConn = d.netConn(inner); s.netConn != nil {
			s.socket = sockpeek.Of(s.netConn)
		}
	}
	return pooly.NewConn(s), nil
}

var (
	errNoConnector = errors.New(
		"the function given to NewDriver returned neither a connector nor an error")
	errNoConn = errors.New("the connector returned neither a connection nor an error")
)

// Close implements pooly.Driver. It also closes the statements that the connection has kept.
//
// A service that is closed closes connections under their leases after CloseDeadline. Close then
// closes the socket, if SetNetConn was called. The inner connection is closed when its lease ends.
func (d *Driver) Close(c *pooly.Conn) {
	s, ok := c.Interface().(*session)
	switch {
	case !ok:
	case s.phase.Swap(doomed) == idle:
		s.close()
	case s.netConn != nil:
		_ = s.netConn.Close()
	}
}

func (s *session) close() {
	if !s.broken && s.valid() {
		s.statements.closeAll()
	}
	_ = s.inner.Close()
}

// TestOnBorrow implements pooly.Driver. It asks IsValid of the inner connection, and looks at the
// socket if SetNetConn was called. It does not wait for the network.
func (d *Driver) TestOnBorrow(c *pooly.Conn) error {
	s, ok := c.Interface().(*session)
	if !ok {
		return errNotOurs
	}
	if !s.valid() {
		return errNotValid
	}
	s.waited = true
	if s.socket == nil {
		return nil
	}
	return s.socket.Check()
}

var (
	errNotOurs  = errors.New("not a connection of poolysql.Driver")
	errNotValid = errors.New("the connection reports that it is not valid")
)

// Temporary implements pooly.Driver. It reports false for driver.ErrBadConn, for a timeout or other
// error of the network, for the end of a stream, and for any error after which the inner connection
// was not valid. All other errors are answers of the server.
func (d *Driver) Temporary(err error) bool {
	return !fatal(err)
}

func fatal(err error) bool {
	for _, broken := range []error{
		driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, context.Canceled, errNotValid,
	} {
		if errors.Is(err, broken) {
			return true
		}
	}
	var network net.Error // also syscall.Errno, net.ErrClosed and context.DeadlineExceeded
	return errors.As(err, &network)
}

// valid reports whether the inner connection may serve another lease.
func (s *session) valid() bool {
	v, ok := s.inner.(driver.Validator)
	return !ok || v.IsValid()
}

// vouches reports whether the inner connection says that it is valid.
func (s *session) vouches() bool {
	v, ok := s.inner.(driver.Validator)
	return ok && v.IsValid()
}

// check is what the inner connection says of a value.
func (s *session) check(v *driver.NamedValue) error {
	if checker, ok := s.inner.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}
