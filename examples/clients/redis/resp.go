package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/3XX0/pooly"
)

// driver makes Redis connections. NetDriver does most of it.
type driver struct{ net *pooly.NetDriver }

// conn is one Redis connection: a socket and its buffered reader, which must stay together.
type conn struct {
	net *pooly.Conn
	r   *bufio.Reader
}

// replyError is an answer of the server, which leaves the connection as good as before.
type replyError string

func (e replyError) Error() string { return string(e) }

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
	rc := c.Interface().(*conn)
	if n := rc.r.Buffered(); n > 0 { // or the next caller would read it
		return fmt.Errorf("%d bytes of a reply that nobody read", n)
	}
	return d.net.TestOnBorrow(rc.net)
}

func (d driver) Temporary(err error) bool {
	return errors.As(err, new(replyError))
}

// do sends a command and reads its reply: a string, an int64, a []any, or nil.
func (c *conn) do(args ...string) (any, error) {
	b := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := c.net.NetConn().Write(b); err != nil {
		return nil, err
	}
	return c.reply()
}

// reply reads a reply (https://redis.io/docs/latest/develop/reference/protocol-spec, RESP2).
func (c *conn) reply() (any, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' {
		return nil, fmt.Errorf("malformed reply %q", line)
	}
	kind, text := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return text, nil
	case '-':
		return nil, replyError(text)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	switch {
	case err != nil:
		return nil, fmt.Errorf("malformed reply %q", line)
	case kind == ':':
		return n, nil
	case kind == '$' && n < 0, kind == '*' && n < 0:
		return nil, nil
	case kind == '$':
		b := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, err
		}
		return string(b[:n]), nil
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			if list[i], err = c.reply(); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, fmt.Errorf("reply of unknown kind %q", line)
}
