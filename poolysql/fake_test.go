package poolysql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolysql"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// world is a set of database servers in memory.
type world struct {
	kind kind // of its connections

	mu    sync.Mutex // guards all of it, and the fields of hosts and connections
	hosts map[string]*fakeHost
	log   []string // what the driver was asked, if it is kept
	keep  bool
}

// kind says which optional interfaces the connections have.
type kind int

const (
	full   kind = iota // all with contexts
	bare               // none
	legacy             // those without contexts
	checks             // none, but its statements know types of their own
)

// fakeHost is a server.
type fakeHost struct {
	address string
	down    bool
	dials   int
	queries int
	prepare int
	open    []*fakeConn
	answer  func(ctx context.Context, c *fakeConn, query string) error // nil: every query succeeds
	reset   func(ctx context.Context, c *fakeConn) error               // likewise
	close   func(c *fakeConn)
}

// fakeConn is a connection of each kind.
type fakeConn struct {
	world   *world
	host    *fakeHost
	dead    bool // the server has closed it
	invalid bool // and the client knows
	closed  bool
	stmts   int // open statements
	tx      bool
}

func newWorld(k kind, addresses ...string) *world {
	w := &world{kind: k, hosts: make(map[string]*fakeHost)}
	for _, a := range addresses {
		w.hosts[a] = &fakeHost{address: a}
	}
	return w
}

func (w *world) lock(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// die closes the host's connections and refuses new ones.
func (w *world) die(address string) {
	w.lock(func() {
		h := w.hosts[address]
		h.down = true
		for _, c := range h.open {
			c.dead = true
		}
	})
}

func (w *world) note(format string, args ...any) {
	if w.keep {
		w.log = append(w.log, fmt.Sprintf(format, args...))
	}
}

// asked returns what the driver was asked.
func (w *world) asked() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.log)
}

// queries returns how many queries each host has answered.
func (w *world) queries() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := make(map[string]int)
	for a, h := range w.hosts {
		n[a] = h.queries
	}
	return n
}

func (w *world) openConns() (n int) {
	w.lock(func() {
		for _, h := range w.hosts {
			n += len(h.open)
		}
	})
	return n
}

// connector is the driver.Connector of one address.
type connector struct {
	world   *world
	address string
}

func (w *world) connector(address string) (driver.Connector, error) {
	return connector{w, address}, nil
}

func (c connector) Driver() driver.Driver { return nil }

func (c connector) Connect(context.Context) (driver.Conn, error) {
	w := c.world
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.hosts[c.address]
	h.dials++
	if h.down {
		return nil, fmt.Errorf("dial %s: %w", c.address, syscall.ECONNREFUSED)
	}
	fc := &fakeConn{world: w, host: h}
	h.open = append(h.open, fc)
	switch w.kind {
	case bare:
		return bareConn{fc}, nil
	case legacy:
		return legacyConn{bareConn{fc}}, nil
	case checks:
		return checksConn{bareConn{fc}}, nil
	}
	return fullConn{fc}, nil
}

var errDialect = errors.New("fake: syntax error") // an answer of the server

// run answers a query.
func (c *fakeConn) run(ctx context.Context, how, query string, args any) error {
	w := c.world
	w.mu.Lock()
	w.note("%s %q %v", how, query, args)
	answer := c.host.answer
	switch {
	case c.closed:
		w.mu.Unlock()
		return errors.New("fake: use of a closed connection")
	case c.dead:
		c.invalid = true
		w.mu.Unlock()
		return driver.ErrBadConn
	}
	c.host.queries++
	w.mu.Unlock()
	if strings.HasPrefix(query, "syntax") {
		return errDialect
	}
	if answer != nil {
		return answer(ctx, c, query)
	}
	return nil
}

func (c *fakeConn) Close() error {
	w := c.world
	if c.host.close != nil {
		c.host.close(c)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.closed {
		return errors.New("fake: closed twice")
	}
	c.closed = true
	c.host.open = slices.DeleteFunc(c.host.open, func(other *fakeConn) bool { return other == c })
	return nil
}

func (c *fakeConn) prepare(ctx context.Context, query string) (*fakeStmt, error) {
	if err := c.run(ctx, "prepare", query, nil); err != nil {
		return nil, err
	}
	c.world.lock(func() {
		c.host.prepare++
		c.stmts++
	})
	return &fakeStmt{c, query}, nil
}

func (c *fakeConn) begin(ctx context.Context, options string) (driver.Tx, error) {
	if err := c.run(ctx, "begin", "begin "+options, nil); err != nil {
		return nil, err
	}
	c.tx = true
	return &fakeTx{c, ctx}, nil
}

type fakeTx struct {
	conn *fakeConn
	ctx  context.Context
}

func (t *fakeTx) Commit() error {
	t.conn.tx = false
	return t.conn.run(context.Background(), "commit", "commit", nil)
}

func (t *fakeTx) Rollback() error {
	t.conn.tx = false
	return t.conn.run(context.Background(), "rollback", "rollback", nil)
}

// bareConn has none of the optional interfaces.
type bareConn struct{ *fakeConn }

func (c bareConn) Begin() (driver.Tx, error) { return c.begin(context.Background(), "") }
func (c bareConn) Prepare(query string) (driver.Stmt, error) {
	s, err := c.prepare(context.Background(), query)
	if err != nil {
		return nil, err
	}
	return bareStmt{s}, nil
}

// checksConn is a bareConn whose statements have a driver.NamedValueChecker.
type checksConn struct{ bareConn }

func (c checksConn) Prepare(query string) (driver.Stmt, error) {
	s, err := c.prepare(context.Background(), query)
	if err != nil {
		return nil, err
	}
	return checksStmt{bareStmt{s}}, nil
}

type checksStmt struct{ bareStmt }

func (s checksStmt) CheckNamedValue(v *driver.NamedValue) error { return check(v) }

// legacyConn has those without contexts.
type legacyConn struct{ bareConn }

func (c legacyConn) Exec(query string, args []driver.Value) (driver.Result, error) {
	if strings.HasPrefix(query, "prepared") {
		return nil, driver.ErrSkip
	}
	return driver.RowsAffected(1), c.run(context.Background(), "exec", query, args)
}

func (c legacyConn) Query(query string, args []driver.Value) (driver.Rows, error) {
	if strings.HasPrefix(query, "prepared") {
		return nil, driver.ErrSkip
	}
	if err := c.run(context.Background(), "query", query, args); err != nil {
		return nil, err
	}
	return newBareRows(c.fakeConn, query), nil
}

func (c legacyConn) Prepare(query string) (driver.Stmt, error) {
	s, err := c.prepare(context.Background(), query)
	if err != nil {
		return nil, err
	}
	return convertingStmt{bareStmt{s}}, nil
}

// fullConn has all of them.
type fullConn struct{ *fakeConn }

func (c fullConn) Begin() (driver.Tx, error) { panic("deprecated") }
func (c fullConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	return c.begin(ctx, fmt.Sprint(o))
}
func (c fullConn) Prepare(string) (driver.Stmt, error) { panic("deprecated") }
func (c fullConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return fullStmt{s}, nil
}

func (c fullConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if strings.HasPrefix(query, "prepared") {
		return nil, driver.ErrSkip
	}
	return driver.RowsAffected(1), c.run(ctx, "exec", query, args)
}

func (c fullConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if strings.HasPrefix(query, "prepared") {
		return nil, driver.ErrSkip
	}
	if err := c.run(ctx, "query", query, args); err != nil {
		return nil, err
	}
	return fullRows{newBareRows(c.fakeConn, query)}, nil
}

func (c fullConn) CheckNamedValue(v *driver.NamedValue) error {
	c.world.lock(func() { c.world.note("conn checks %T", v.Value) })
	return check(v)
}

func check(v *driver.NamedValue) error {
	switch x := v.Value.(type) {
	case struct{ X int }:
		v.Value = int64(x.X)
		return nil
	case bool:
		return driver.ErrRemoveArgument
	}
	return driver.ErrSkip
}

func (c fullConn) Ping(ctx context.Context) error { return c.run(ctx, "ping", "ping", nil) }

func (c fullConn) ResetSession(ctx context.Context) error {
	c.world.mu.Lock()
	reset, dead := c.host.reset, c.invalid
	c.world.mu.Unlock()
	if dead || c.tx {
		return driver.ErrBadConn
	}
	if reset != nil {
		return reset(ctx, c.fakeConn)
	}
	return nil
}

func (c fullConn) IsValid() bool {
	c.world.mu.Lock()
	defer c.world.mu.Unlock()
	return !c.invalid
}

// fakeStmt is a prepared statement of each kind.
type fakeStmt struct {
	conn  *fakeConn
	query string
}

func (s *fakeStmt) Close() error {
	s.conn.world.lock(func() {
		if s.conn.closed {
			panic("fake: a statement is closed after its connection")
		}
		s.conn.world.note("close statement %q", s.query)
		s.conn.stmts--
	})
	return nil
}

type bareStmt struct{ *fakeStmt }

func (s bareStmt) NumInput() int { return strings.Count(s.query, "?") }
func (s bareStmt) Exec(args []driver.Value) (driver.Result, error) {
	return driver.RowsAffected(1), s.conn.run(context.Background(), "stmt exec", s.query, args)
}
func (s bareStmt) Query(args []driver.Value) (driver.Rows, error) {
	if err := s.conn.run(context.Background(), "stmt query", s.query, args); err != nil {
		return nil, err
	}
	return newBareRows(s.conn, s.query), nil
}

// convertingStmt is a driver.ColumnConverter.
type convertingStmt struct{ bareStmt }

func (s convertingStmt) ColumnConverter(i int) driver.ValueConverter {
	if i == 0 {
		return driver.NotNull{Converter: driver.DefaultParameterConverter}
	}
	return driver.String
}

type fullStmt struct{ *fakeStmt }

func (s fullStmt) NumInput() int                                  { return -1 }
func (s fullStmt) Exec([]driver.Value) (driver.Result, error)     { panic("deprecated") }
func (s fullStmt) Query(args []driver.Value) (driver.Rows, error) { panic("deprecated") }
func (s fullStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return driver.RowsAffected(1), s.conn.run(ctx, "stmt exec", s.query, args)
}
func (s fullStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.conn.run(ctx, "stmt query", s.query, args); err != nil {
		return nil, err
	}
	return fullRows{newBareRows(s.conn, s.query)}, nil
}

// bareRows are three rows that say where they are from, and then another result set if they are of
// a kind that can.
type bareRows struct {
	conn *fakeConn
	next int
	set  int
	fail error // instead of the second row
}

var errStream = errors.New("fake: the stream broke")

func newBareRows(c *fakeConn, query string) *bareRows {
	r := &bareRows{conn: c}
	if strings.Contains(query, "empty") {
		r.next = 3
	}
	if strings.Contains(query, "breaks") {
		r.fail = errStream
	}
	return r
}

func (r *bareRows) Columns() []string { return []string{"host", "number"} }
func (r *bareRows) Close() error {
	r.conn.world.lock(func() { r.conn.world.note("close rows") })
	return nil
}

func (r *bareRows) Next(dest []driver.Value) error {
	if r.next++; r.next > 3 {
		return io.EOF
	}
	if r.next == 2 && r.fail != nil {
		r.conn.world.lock(func() { r.conn.invalid = true })
		return r.fail
	}
	dest[0], dest[1] = r.conn.host.address, int64(r.next)
	return nil
}

type fullRows struct{ *bareRows }

func (r fullRows) HasNextResultSet() bool { return r.set == 0 }
func (r fullRows) NextResultSet() error {
	if r.set > 0 {
		return io.EOF
	}
	r.set, r.next = 1, 1
	return nil
}
func (r fullRows) ColumnTypeDatabaseTypeName(int) string             { return "TEXT" }
func (r fullRows) ColumnTypeLength(int) (int64, bool)                { return 7, true }
func (r fullRows) ColumnTypeNullable(int) (bool, bool)               { return true, true }
func (r fullRows) ColumnTypePrecisionScale(int) (int64, int64, bool) { return 3, 4, true }

// newService returns a service of the world's hosts, in which nothing is dialled before it is
// needed.
func newService(t testing.TB, w *world, change func(*pooly.ServiceConfig, *poolysql.Driver)) *pooly.Service {
	t.Helper()
	d := poolysql.NewDriver(w.connector)
	config := &pooly.ServiceConfig{
		PoolConfig:    pooly.PoolConfig{Driver: d},
		PrespawnConns: -1,
		Logger:        slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(config, d)
	}
	s := pooly.NewService("db", config)
	t.Cleanup(func() { _ = s.Close() })
	addresses := make([]string, 0, len(w.hosts))
	for a := range w.hosts {
		addresses = append(addresses, a)
	}
	slices.Sort(addresses)
	s.SetHosts(addresses...)
	return s
}

// open returns a DB over a world of hosts.
func open(t testing.TB, w *world, change func(*pooly.ServiceConfig, *poolysql.Driver)) (*sql.DB, *pooly.Service) {
	t.Helper()
	s := newService(t, w, change)
	db := poolysql.Open(s)
	t.Cleanup(func() { _ = db.Close() })
	return db, s
}

// hostOf runs a query and returns the host that has answered.
func hostOf(ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (host string, err error) {
	var number int
	err = q.QueryRowContext(ctx, "select").Scan(&host, &number)
	return host, err
}

// requireIdle checks that no lease is out.
func requireIdle(t *testing.T, s *pooly.Service) {
	t.Helper()
	require.Zero(t, s.Stats().InUse, "leases are out")
}

func statsOf(s *pooly.Service, address string) pooly.HostStats {
	for _, h := range s.Stats().Hosts {
		if h.Address == address {
			return h
		}
	}
	return pooly.HostStats{}
}

const second = time.Second

// requireNoneOpen waits until all connections are closed, which happens in the background.
func requireNoneOpen(t *testing.T, s *pooly.Service) {
	t.Helper()
	require.Eventually(t, func() bool { return s.Stats().Open == 0 }, 10*time.Second, time.Millisecond)
}
