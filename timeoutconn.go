package pooly

import (
	"net"
	"sync"
	"time"
)

// timeoutConn bounds each Read and Write by a time of its own, besides the deadlines that the user
// sets. Of the two, the earlier holds, whichever was set last.
type timeoutConn struct {
	net.Conn
	read, write deadline
}

func newTimeoutConn(c net.Conn, read, write time.Duration) *timeoutConn {
	t := &timeoutConn{Conn: c}
	t.read = deadline{timeout: read, set: c.SetReadDeadline}
	t.write = deadline{timeout: write, set: c.SetWriteDeadline}
	return t
}

func (c *timeoutConn) Read(b []byte) (int, error) {
	if err := c.read.begin(); err != nil {
		return 0, err
	}
	defer c.read.end()
	return c.Conn.Read(b)
}

func (c *timeoutConn) Write(b []byte) (int, error) {
	if err := c.write.begin(); err != nil {
		return 0, err
	}
	defer c.write.end()
	return c.Conn.Write(b)
}

func (c *timeoutConn) SetDeadline(t time.Time) error {
	if err := c.read.setByUser(t); err != nil {
		return err
	}
	return c.write.setByUser(t)
}

func (c *timeoutConn) SetReadDeadline(t time.Time) error {
	return c.read.setByUser(t)
}

func (c *timeoutConn) SetWriteDeadline(t time.Time) error {
	return c.write.setByUser(t)
}

// NetConn returns the connection beneath, like tls.Conn's NetConn. The timeouts do not bound what
// is done with it directly.
func (c *timeoutConn) NetConn() net.Conn {
	c.read.expose()
	c.write.expose()
	return c.Conn
}

// deadline is the deadline of a connection's reads, or of its writes.
type deadline struct {
	timeout time.Duration         // immutable; for each call; 0: none
	set     func(time.Time) error // immutable; sets the connection's deadline

	mu      sync.Mutex // guards the fields below, and makes set agree with them
	user    time.Time  // what the user has set; zero: none
	calls   int        // in flight
	own     time.Time  // from timeout, for the call in flight that began last; zero: none
	exposed bool       // the user may call the connection beneath directly
}

// begin is called before a Read or Write.
func (d *deadline) begin() error {
	if d.timeout <= 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	own := time.Now().Add(d.timeout)
	if err := d.set(earlier(d.user, own)); err != nil {
		return err
	}
	d.own = own
	d.calls++
	return nil
}

// end is called after a Read or Write.
func (d *deadline) end() {
	if d.timeout <= 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls--; d.calls > 0 {
		return
	}
	d.own = time.Time{}
	if d.exposed {
		_ = d.set(d.user)
	}
	// Otherwise the deadline stays: the next call sets it anew.
}

// expose keeps our timeout off the connection beneath whenever no call is in flight.
func (d *deadline) expose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timeout > 0 && !d.exposed && d.calls == 0 {
		_ = d.set(d.user)
	}
	d.exposed = true
}

// setByUser may be called while a Read or Write is in flight, which must heed it.
func (d *deadline) setByUser(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.set(earlier(t, d.own)); err != nil {
		return err
	}
	d.user = t
	return nil
}

// earlier returns the earlier of two deadlines. A zero deadline means none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
