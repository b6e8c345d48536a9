package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, standin.Redis)
}

func TestRunAgainstRealServers(t *testing.T) {
	servers := real.Redis(t)
	servers[1].Stop()
	var out strings.Builder
	require.NoError(t, run(&out, real.Addresses(servers)...))
	require.Contains(t, out.String(), `greeting is "hello"`)
}

// Readers do not notice that one of the servers is killed under them.
func TestReadsGoOnWhenARealServerIsKilled(t *testing.T) {
	servers := real.Redis(t)
	s := newService(real.Addresses(servers)...)
	defer func() { _ = s.Close() }()
	require.NoError(t, demo.Load(10_000, servers[2].Kill, func() error {
		reply, err := read(t.Context(), s, "GET", "greeting")
		if err == nil && reply != "hello" {
			err = fmt.Errorf("wrong reply %v", reply)
		}
		return err
	}))
	for _, h := range s.Stats().Hosts {
		require.NotZero(t, h.Gets, h.Address)
	}
}

// A server's refusal is an answer: the connection stays, and no other server is asked.
func TestAnErrorReplyKeepsTheConnection(t *testing.T) {
	s := newService(real.Addresses(real.Redis(t))[:1]...)
	defer func() { _ = s.Close() }()
	for range 3 {
		_, err := read(t.Context(), s, "LPUSH", "greeting", "x")
		require.ErrorContains(t, err, "WRONGTYPE")
	}
	require.EqualValues(t, 1, s.Stats().Dials)
	require.EqualValues(t, 3, s.Stats().Gets)
}

func TestRepliesOfEveryKindAreRead(t *testing.T) {
	for sent, want := range map[string]any{
		"+OK\r\n":                         "OK",
		":42\r\n":                         int64(42),
		"$5\r\nhe\r\no\r\n":               "he\r\no",
		"$-1\r\n":                         nil,
		"*-1\r\n":                         nil,
		"*3\r\n+a\r\n:1\r\n*1\r\n$-1\r\n": []any{"a", int64(1), []any{nil}},
	} {
		c := conn{r: bufio.NewReader(strings.NewReader(sent))}
		reply, err := c.reply()
		require.NoError(t, err, sent)
		require.Equal(t, want, reply, sent)
		_, err = c.reply()
		require.ErrorIs(t, err, io.EOF, "all was read of %q", sent)
	}
	for _, sent := range []string{"-ERR no\r\n", "?\r\n", ":x\r\n", "\n", "$5\r\nhe", ""} {
		c := conn{r: bufio.NewReader(strings.NewReader(sent))}
		_, err := c.reply()
		require.Error(t, err, sent)
		require.Equal(t, sent == "-ERR no\r\n", errors.As(err, new(replyError)), sent)
	}
}

// The driver keeps an unread reply from the next caller.
func TestAConnectionWithAnUnreadReplyIsReplaced(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if _, err := c.Read(make([]byte, 64)); err == nil {
				_, _ = c.Write([]byte("+mine\r\n+late\r\n")) // in one packet, so that both get into the reader
			}
			defer func() { _ = c.Close() }()
		}
	}()
	s := newService(l.Addr().String())
	defer func() { _ = s.Close() }()
	for range 2 {
		reply, err := read(t.Context(), s, "PING")
		require.NoError(t, err)
		require.Equal(t, "mine", reply, "not the late reply to another")
	}
}
