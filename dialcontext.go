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

// DialContext connects to the host that the strategy picks, for clients that bring their own protocol and pool:
// http.Transport.DialContext, the Dialer of go-redis, pgx's DialFunc, RegisterDialContext of go-sql-driver/mysql,
// grpc.WithContextDialer. The network and the address are ignored: the service's driver and hosts say where to. A
// Dialer does the same and scores latencies. In the repository, examples/clients has go-redis, pgx and gRPC over it.
//
// The connection is the caller's until Close: it counts against MaxConns, has carried nothing before, and is not
// handed to another after. The driver's connection must be a net.Conn, as NetDriver's is. Hosts are found as by
// GetConnContext, whose errors it returns; ctx bounds the dial alone.
//
// The host is rated while the connection lives, not only at its end, which may be hours away:
//   - HostUp whenever bytes come after a write, since that is an answer, and for the first bytes of a server that
//     speaks first;
//   - HostDown at once, and for the last time, as by Release with a fatal error, if a write fails, or if a read fails,
//     times out or finds the end of the stream while an answer is due. A deadline set in the past is how clients
//     interrupt themselves, and rates nothing;
//   - HostDown if the client closes the connection after it waited for an answer for a second or more: that is how
//     http.Transport, for one, gives up.
//
// InUse tells how many connections are open, and strategies that weigh latencies get those of the answers.
//
// The connection has CloseRead, CloseWrite and SyscallConn if the driver's has, and ReadFrom. Remove and Close leave it
// to its user (Close until CloseDeadline), so close the client before the service, and bound the life of its
// connections, or they stay with hosts that were removed.
//
// Rather do not share the service with callers of GetConn: a connection that they gave back is closed when DialContext
// needs its place.
func (s *Service) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&Dialer{Service: s}).DialContext(ctx, network, address)
}

// Dialer is Service.DialContext with options.
type Dialer struct {
	Service *Service

	// Score rates an answer by the time from the first write to the first byte that was read after it. The result is
	// brought into [0, 1]. Also, for an answer that the client did not wait for, by the time that it did. Default nil:
	// HostUp.
	//
	//	func(firstByte time.Duration) float64 { return pooly.LatencyScore(firstByte, 5*time.Millisecond) }
	Score func(firstByte time.Duration) float64
}

// DialContext is Service.DialContext.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	s := d.Service
	q := s.newSearch(ctx, nil)
	if v, err := s.currentView(); err == nil {
		q.first, _ = v.pick(s) // an error comes again, from run
	}
	q.turn.unused = true
	lease, err := q.run()
	if err != nil {
		s.getFailures.Add(1)
		return nil, err
	}
	lease.conn.pool.spend(lease)
	nc := lease.NetConn()
	if nc == nil {
		_ = lease.conn.pool.put(lease, outcome{})
		return nil, fmt.Errorf("%w: service %s: DialContext needs a driver whose connections are net.Conns, not %T",
			ErrInvalidArg, s.name, lease.Interface())
	}
	return newClientConn(nc, lease, d.Score), nil
}

// clientConn is a connection of a client that has its own protocol. It watches what happens, to rate the host.
type clientConn struct {
	net.Conn
	lease *Conn
	score func(time.Duration) float64 // nil: HostUp

	asked   atomic.Int64 // when the first write was to which no answer has come, by the clock of the pool; 0: none
	heard   atomic.Bool  // something was read
	failed  atomic.Bool  // the host was rated HostDown, for the last time
	closed  atomic.Bool
	noRead  atomic.Bool // the deadline for reads was in the past when it was set
	noWrite atomic.Bool
}

// patience is how long a client waits for an answer before closing the connection tells against the host. Less is how
// some say goodbye: MySQL's and PostgreSQL's clients write a last message and close.
const patience = time.Second

var errGaveUp = errors.New("the client waited for an answer and closed the connection")

// newClientConn returns nc with the methods that it has: code that asks by a type assertion must not be misled.
func newClientConn(nc net.Conn, lease *Conn, score func(time.Duration) float64) net.Conn {
	c := &clientConn{Conn: nc, lease: lease, score: score}
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

// socketMethods are those of net.TCPConn and net.UnixConn.
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

// NetConn returns the driver's connection, as that of tls.Conn does. What is done with it directly rates nothing.
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

// ReadFrom lets the kernel copy, where it can. An error may be that of r, so only one that r cannot have counts.
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

// Close closes the connection, and gives up its place.
func (c *clientConn) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	var o outcome
	if at := c.asked.Load(); at != 0 && !c.failed.Load() {
		waited := c.lease.conn.pool.clock.now() - time.Duration(at)
		switch {
		case waited >= patience:
			o = outcome{score: HostDown, rated: true, fatal: true, cause: errGaveUp}
		case c.score != nil:
			o = outcome{score: c.rule(waited), rated: true}
		}
	}
	return c.lease.conn.pool.put(c.lease, o)
}

// interrupted reports whether an error is of the user's making.
func (c *clientConn) interrupted(err error, past *atomic.Bool) bool {
	return c.closed.Load() || errors.Is(err, net.ErrClosed) || past.Load() && errors.Is(err, os.ErrDeadlineExceeded)
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
	return clampScore(c.score(elapsed))
}

func (c *clientConn) fail(cause error) {
	if !c.failed.Swap(true) {
		c.lease.rate(outcome{score: HostDown, rated: true, fatal: true, cause: cause}, 0, c.lease.conn.pool.clock.now())
	}
}

// rate tells of one request among several of a lease that goes on. Without elapsed it tells nothing of latency.
func (c *Conn) rate(o outcome, elapsed, now time.Duration) {
	p := c.conn.pool
	h := p.host
	if h == nil {
		return
	}
	h.service.touch()
	if p.rate(c, o, elapsed, now) {
		h.reportEjected(o.cause)
	}
}

// rate reports whether the outcome ejected the host.
func (p *Pool) rate(l *Conn, o outcome, elapsed, now time.Duration) (newly bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.conn.lease != l || l.conn.cut {
		return false
	}
	h := p.host
	h.trialLocked(o.score)
	if elapsed > 0 && h.service.timing.Load() {
		h.timeLocked(l.conn, elapsed, now)
	}
	return (o.fatal || p.doubted) && h.judgeLocked(l.conn, o)
}

// getUnused is get for a caller who needs a connection that nobody has used.
func (p *Pool) getUnused(w *waiter, forced bool) got {
	for {
		now := p.ageNow()
		p.mu.Lock()
		if p.closed || p.health == ejected && !forced {
			p.mu.Unlock()
			return gone
		}
		c := p.idle.takeUnused()
		if c == nil {
			outcome := busy
			if p.enlistLocked(w) {
				w.pool, w.chosen, outcome = p, p, waiting
			}
			p.mu.Unlock()
			return outcome
		}
		expired := now > 0 && now >= p.expiry(c)
		l := p.grantLocked(c)
		p.mu.Unlock()
		if !expired && p.unusedFit(c) {
			w.lease = l
			return leased
		}
		if c := p.discard(l); c != nil {
			go p.destroy(c)
		}
	}
}

// unusedFit tests a connection that nobody has used. What it has to read is no reply to someone else, but the greeting
// of a server that speaks first.
func (p *Pool) unusedFit(c *conn) bool {
	err := p.test(c, p.config.TestTimeout)
	return err == nil || errors.Is(err, errUnread) && c.live != nil && c.live.tls == nil
}

// evict takes out an idle connection, for the caller to destroy; nil if there is none.
func (p *Pool) evict() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.idle.length == 0 {
		return nil
	}
	return p.idle.pop()
}

// takeUnused takes out a connection that nobody has leased, nil if there is none.
func (s *idleStack) takeUnused() (c *conn) {
	s.filter(func(candidate *conn) bool {
		if c == nil && candidate.leases == nil {
			c = candidate
			return false
		}
		return true
	})
	return c
}
