package pooly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// DialContext connects to the host that the strategy picks. It is for clients that bring their own
// protocol and pool:
//   - http.Transport.DialContext
//   - the Dialer of go-redis
//   - DialFunc of pgx
//   - RegisterDialContext of go-sql-driver/mysql
//   - grpc.WithContextDialer
//
// The network and the address are ignored: the service's driver and hosts decide. A Dialer does the
// same and scores latencies. In the repository, examples/clients has go-redis, pgx and gRPC.
//
// DialContext always dials, with ctx and its values; it takes no connection from the pool. Each
// call makes up to GetAttempts rounds over the hosts, ejected ones only if all are. If a dial takes
// longer than FallbackDelay, the next host is dialled in parallel, and the first to connect wins.
// ctx and WaitTimeout bound the call. It returns the same errors as GetConnContext.
//
// The connection is the caller's until Close, and nobody else has used it or will. The driver's
// connection must be a net.Conn, as NetDriver's is.
//
// There is no limit of connections, since the client has its own. If MaxConns is set, it is a limit
// per host. A call that would have to wait, because all hosts that are up have reached the limit,
// fails at once with ErrOverloaded.
//
// The host is rated while the connection lives, and not only at its end, which may be hours away:
//   - HostUp whenever bytes come after a write, since they are an answer. Also for the first bytes
//     of a server that speaks first.
//   - HostDown if a write fails. Also if a read fails, times out or finds the end of the stream
//     while an answer is due. This counts against the host's health, and from then on the
//     connection does not rate the host. A timeout rates nothing if the host had less time than its
//     answers usually take, and has answered somebody in the last two seconds. A deadline in the
//     past rates nothing: clients set it to interrupt themselves.
//   - HostDown if the client closes the connection after it waited for an answer for a second or
//     more, and the host hangs. A host hangs if it has answered nobody while each other host has
//     answered five times. http.Transport gives up in this way. Users who leave a long poll close
//     their connections in the same way, but the host does not hang then.
//
// InUse counts the open connections. Strategies that go by latency get the latencies of the
// answers.
//
// After Remove, the connection stays open until its user closes it. After Close, it stays open
// until CloseDeadline at most. So close the client before the service. Clients keep connections, so
// hosts that are added or restored would get no traffic. Outdated says which connections a client
// should close. go-redis and go-sql-driver/mysql close them without it.
//
// The connection has ReadFrom. It has CloseRead, CloseWrite and SyscallConn if the driver's
// connection has them. It is no *net.TCPConn: set socket options in the driver (see
// NetDriver.SetDialContext).
//
// The first call closes the connections that were dialled in advance. From then on PrespawnConns
// has no effect: a client begins each connection with a handshake of its own.
//
// Use a service for either DialContext or GetConn. If both use it, DialContext closes idle
// connections of GetConn's callers to make room for its own.
func (s *Service) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&Dialer{Service: s}).DialContext(ctx, network, address)
}

// Dialer is Service.DialContext with options. It may be used concurrently.
type Dialer struct {
	Service *Service

	// Score rates an answer by the time from the first write to the first byte read after it. If
	// the client closes the connection without an answer in less than a second, Score gets the time
	// that the client waited. A result outside [0, 1] becomes the nearer bound. Score may be called
	// concurrently. Default nil: HostUp.
	//
	//	func(firstByte time.Duration) float64 {
	//		return pooly.LatencyScore(firstByte, 5*time.Millisecond)
	//	}
	Score func(firstByte time.Duration) float64
}

// DialContext is Service.DialContext.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	s := d.Service
	called := s.sample()
	lease, err := s.dialOutside(ctx)
	if err != nil {
		s.getFailures.Add(1)
		return nil, s.explain(err)
	}
	nc := lease.NetConn()
	if nc == nil || lease.conn.share != nil {
		_ = lease.conn.pool.put(lease, outcome{})
		return nil, fmt.Errorf(
			"%w: service %s: DialContext needs a driver whose connections are net.Conns, not %T",
			ErrInvalidArg, s.name, lease.Interface())
	}
	s.begin(ctx, lease, called)
	return newClientConn(nc, lease, d.Score), nil
}

// clientConn is a connection of a client with its own protocol. It watches reads and writes to rate
// the host.
type clientConn struct {
	net.Conn
	lease *Conn
	host  *host
	score func(time.Duration) float64 // nil: HostUp
	born  time.Duration               // by the pool's clock
	stays time.Duration               // how long after a host was added or restored, see outdated

	asked   atomic.Int64 // time of the first unanswered write, by the pool's clock; 0: none
	heard   atomic.Bool  // something was read
	failed  atomic.Bool  // the host was rated HostDown, so nothing more is rated
	closed  atomic.Bool
	noRead  atomic.Bool // the read deadline was in the past when it was set
	noWrite atomic.Bool
}

// longWait is how long a client must have waited for an answer before its Close counts against the
// host. Clients of MySQL and PostgreSQL write a last message and close at once.
const longWait = time.Second

var errGaveUp = errors.New("the client waited for an answer and closed the connection")

// newClientConn returns a connection with only the optional methods that nc has, because callers
// ask by type assertion.
func newClientConn(nc net.Conn, lease *Conn, score func(time.Duration) float64) net.Conn {
	h := hostOf(lease)
	c := &clientConn{Conn: nc, lease: lease, host: h, score: score, born: h.clock.now()}
	c.stays = time.Duration(h.cluster.rng.Float64() * float64(outdatedWithin))
	bottom := nc
	if t, ok := nc.(*timeoutConn); ok {
		bottom = t.Conn
	}
	switch b := bottom.(type) {
	case socketMethods:
		return &clientSocket{c, b}
	case writeCloser:
		return &clientTLS{c, b}
	}
	return c
}

type writeCloser interface{ CloseWrite() error }

// socketMethods are the methods of net.TCPConn and net.UnixConn.
type socketMethods interface {
	writeCloser
	syscall.Conn
	CloseRead() error
}

type clientTLS struct {
	*clientConn
	writeCloser
}

type clientSocket struct {
	*clientConn
	socketMethods
}

// NetConn returns the driver's connection, like tls.Conn's NetConn. Reads and writes on it rate
// nothing.
func (c *clientConn) NetConn() net.Conn {
	return c.Conn
}

func (c *clientConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.answered()
	}
	if err != nil && c.asked.Load() != 0 && !c.interrupted(err, &c.noRead) {
		c.fail(err)
	}
	return n, err
}

func (c *clientConn) Write(b []byte) (int, error) {
	c.ask()
	n, err := c.Conn.Write(b)
	if err != nil && !c.interrupted(err, &c.noWrite) {
		c.fail(err)
	}
	return n, err
}

// ReadFrom lets the kernel copy if it can. An error may be r's, so only an error that r cannot
// cause counts.
func (c *clientConn) ReadFrom(r io.Reader) (int64, error) {
	to, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	c.ask()
	n, err := to.ReadFrom(r)
	if errors.Is(err, syscall.EPIPE) {
		c.fail(err)
	}
	return n, err
}

func (c *clientConn) SetDeadline(t time.Time) error {
	c.setDeadline(t, &c.noRead, &c.noWrite)
	return c.Conn.SetDeadline(t)
}

func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.setDeadline(t, &c.noRead)
	return c.Conn.SetReadDeadline(t)
}

func (c *clientConn) SetWriteDeadline(t time.Time) error {
	c.setDeadline(t, &c.noWrite)
	return c.Conn.SetWriteDeadline(t)
}

func (c *clientConn) setDeadline(t time.Time, past ...*atomic.Bool) {
	over := !t.IsZero() && !t.After(time.Now())
	for _, p := range past {
		p.Store(over)
	}
}

// Close closes the connection and frees its place.
func (c *clientConn) Close() (err error) {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	var o outcome
	defer func() { err = c.lease.conn.pool.put(c.lease, o) }() // even if Score ends the goroutine
	if at := c.asked.Load(); at != 0 && !c.failed.Load() {
		waited := c.lease.conn.pool.clock.now() - time.Duration(at)
		switch {
		case waited >= longWait && !c.host.hangs():
		case waited >= longWait:
			o = outcome{score: HostDown, rated: true, failure: true, cause: errGaveUp}
		case c.score != nil:
			o = outcome{score: c.rule(waited), rated: true}
		}
	}
	return nil
}

// silentFor is how many answers each other host must have given since a host last answered, so that
// the host counts as hanging. By chance, a host that works gets none of that many requests in one
// case of e⁵.
const silentFor = 5

// hangs reports whether a host has answered nobody while the others have. Otherwise a user may just
// have left a long poll.
func (h *host) hangs() bool {
	others := max(1, int(h.up.Load())-1)
	return h.cluster.answers.Load()-h.answered.Load() >= uint64(silentFor*others)
}

// interrupted reports whether the user caused an error.
func (c *clientConn) interrupted(err error, past *atomic.Bool) bool {
	return c.closed.Load() || errors.Is(err, net.ErrClosed) ||
		past.Load() && errors.Is(err, os.ErrDeadlineExceeded)
}

func (c *clientConn) ask() {
	if c.asked.Load() == 0 {
		c.asked.Store(int64(c.lease.conn.pool.clock.now()))
	}
}

func (c *clientConn) answered() {
	at := time.Duration(c.asked.Swap(0))
	first := !c.heard.Load() && !c.heard.Swap(true)
	if at == 0 && !first || c.failed.Load() {
		return
	}
	now := c.lease.conn.pool.clock.now()
	c.host.answered.Store(c.host.cluster.answers.Add(1))
	if at == 0 { // the server speaks first
		c.lease.rate(outcome{score: HostUp, rated: true}, 0, now)
		return
	}
	c.lease.rate(outcome{score: c.rule(now - at), rated: true}, now-at, now)
}

func (c *clientConn) rule(elapsed time.Duration) float64 {
	if c.score == nil {
		return HostUp
	}
	score := HostUp
	func() {
		defer func() {
			if v := recover(); v != nil {
				_ = recovered(c.lease.conn.pool.log, "Dialer.Score", v)
			}
		}()
		score = clampScore(c.score(elapsed))
	}()
	return score
}

func (c *clientConn) fail(cause error) {
	if c.failed.Swap(true) {
		return
	}
	now, waited := c.lease.conn.pool.clock.now(), time.Duration(0)
	o := outcome{score: HostDown, rated: true, failure: true, cause: cause, timeout: isTimeout(cause)}
	if at := time.Duration(c.asked.Load()); at != 0 {
		waited = max(1, now-at) // known, so that the host looks slow at once
	}
	c.lease.rate(o, waited, now)
}
