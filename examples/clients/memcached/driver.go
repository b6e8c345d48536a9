package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/3XX0/pooly"
)

// driver makes memcached connections. NetDriver does most of it.
type driver struct{ net *pooly.NetDriver }

// conn is one memcached connection: a socket and its buffered reader, which must stay together.
type conn struct {
	net *pooly.Conn
	r   *bufio.Reader
}

// errMiss is an answer that leaves the connection as good as before.
var errMiss = errors.New("cache miss")

func (d driver) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.net.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(&conn{c, bufio.NewReader(c.NetConn())}), nil
}

func (d driver) Close(c *pooly.Conn) {
	d.net.Close(c.Interface().(*conn).net)
}

func (d driver) TestOnBorrow(c *pooly.Conn) error {
	mc := c.Interface().(*conn)
	if n := mc.r.Buffered(); n > 0 { // or the next caller would read it
		return fmt.Errorf("%d bytes of a reply that nobody read", n)
	}
	return d.net.TestOnBorrow(mc.net)
}

func (d driver) Temporary(err error) bool {
	return errors.Is(err, errMiss)
}

// get returns the value of a key, or errMiss.
func (c *conn) get(key string) (value []byte, err error) {
	if _, err := fmt.Fprintf(c.net.NetConn(), "get %s\r\n", key); err != nil {
		return nil, err
	}
	line, err := c.r.ReadString('\n')
	switch {
	case err != nil:
		return nil, err
	case line == "END\r\n":
		return nil, errMiss
	}
	var name string
	var flags, size int
	if _, err := fmt.Sscanf(line, "VALUE %s %d %d", &name, &flags, &size); err != nil {
		return nil, fmt.Errorf("memcached answered %q", line)
	}
	value = make([]byte, size+len("\r\nEND\r\n"))
	_, err = io.ReadFull(c.r, value)
	return value[:size], err
}

// set stores a value for an hour.
func (c *conn) set(key string, value []byte) error {
	if _, err := fmt.Fprintf(c.net.NetConn(), "set %s 0 3600 %d\r\n%s\r\n", key, len(value), value); err != nil {
		return err
	}
	line, err := c.r.ReadString('\n')
	if err == nil && line != "STORED\r\n" {
		err = fmt.Errorf("memcached answered %q", line)
	}
	return err
}
