package peers

import (
	"context"
	"errors"
	"net"
	"sync"
)

// bareChannel is the least that can hand out connections: a buffered channel that holds them all.
// It does nothing else, and is the lower bound.
type bareChannel chan net.Conn

// NewBareChannel returns a buffered channel of connections, all dialled at once.
func NewBareChannel(size int, dial Dial) Peer {
	p := make(bareChannel, size)
	for range size {
		c, err := dial(context.Background())
		must(err)
		p <- c
	}
	return p
}

func (p bareChannel) Pair(use func(net.Conn)) error {
	c := <-p
	if use != nil {
		use(c)
	}
	p <- c
	return nil
}

func (p bareChannel) Close() {
	for range cap(p) {
		closeConn(<-p)
	}
}

var errClosed = errors.New("pool is closed")

// ChannelPool is the pool that most Go programs have had at some time, from a library or copied: a
// buffered channel behind a read-write mutex, that hands out the connection in a wrapper whose
// Close gives it back. When no connection is idle it dials another, so it has no limit; the one
// here waits instead, so that it can be compared under contention.
type ChannelPool struct {
	mu    sync.RWMutex // guards conns, which Close sets to nil
	conns chan net.Conn
}

// NewChannelPool returns a pool of connections, all dialled at once.
func NewChannelPool(size int, dial Dial) *ChannelPool {
	p := &ChannelPool{conns: make(chan net.Conn, size)}
	for range size {
		c, err := dial(context.Background())
		must(err)
		p.conns <- c
	}
	return p
}

// Get takes an idle connection, or dials one.
func (p *ChannelPool) Get() (*ChannelConn, error) {
	p.mu.RLock()
	conns := p.conns
	p.mu.RUnlock()
	if conns == nil {
		return nil, errClosed
	}
	c, ok := <-conns
	if !ok {
		return nil, errClosed
	}
	return &ChannelConn{Conn: c, pool: p}, nil
}

func (p *ChannelPool) put(c net.Conn) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.conns == nil {
		closeConn(c)
		return nil
	}
	select {
	case p.conns <- c:
	default:
		closeConn(c)
	}
	return nil
}

// Pair implements Peer.
func (p *ChannelPool) Pair(use func(net.Conn)) error {
	c, err := p.Get()
	if err != nil {
		return err
	}
	if use != nil {
		use(c.Conn)
	}
	return c.Close()
}

// Close closes the idle connections.
func (p *ChannelPool) Close() {
	p.mu.Lock()
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	close(conns)
	for c := range conns {
		closeConn(c)
	}
}

// ChannelConn is a connection that Close gives back, unless MarkUnusable was called.
type ChannelConn struct {
	net.Conn
	pool     *ChannelPool
	mu       sync.RWMutex // guards unusable
	unusable bool
}

// MarkUnusable has Close close the connection instead of giving it back.
func (c *ChannelConn) MarkUnusable() {
	c.mu.Lock()
	c.unusable = true
	c.mu.Unlock()
}

// Close gives the connection back.
func (c *ChannelConn) Close() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.unusable {
		closeConn(c.Conn)
		return nil
	}
	return c.pool.put(c.Conn)
}
