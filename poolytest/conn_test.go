package poolytest_test

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolytest"
	"github.com/stretchr/testify/require"
)

func TestDeadlinesEndReadsAndWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := dial(t, poolytest.NewNet(), "a")
		began := time.Now()
		require.NoError(t, c.SetDeadline(began.Add(time.Minute)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var failed net.Error
		require.ErrorAs(t, err, &failed)
		require.True(t, failed.Timeout())

		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		write(t, c, "x")
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "only writes may go on")
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		read(t, c, "x")

		time.AfterFunc(time.Second, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a Read in flight is interrupted")
		require.Equal(t, time.Minute+time.Second, time.Since(began))
	})
}

func TestADeadlineComesBeforeASlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		n.SlowAnswers("a", time.Minute)
		c := dial(t, n, "a")
		began := time.Now()
		write(t, c, "x")
		require.NoError(t, c.SetReadDeadline(began.Add(time.Second)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestCloseEndsAReadInFlight(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		c := dial(t, poolytest.NewNet(), "a")
		require.False(t, c.Closed())
		time.AfterFunc(time.Millisecond, func() { _ = c.Close() })
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		require.True(t, c.Closed())
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		for _, err := range []error{
			c.Close(), c.CloseRead(), c.CloseWrite(), c.SetDeadline(time.Time{}),
		} {
			require.ErrorIs(t, err, net.ErrClosed)
		}
	})
}

func TestWhatWasSentBeforeTheEndIsRead(t *testing.T) {
	n := poolytest.NewNet()
	n.Serve("a", func(c net.Conn) { _, _ = c.Write([]byte("greeting")) })
	c := dial(t, n, "a")
	text, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "greeting", string(text))
}

func TestCloseWriteEndsOneDirection(t *testing.T) {
	n := poolytest.NewNet()
	n.Serve("served", func(c net.Conn) {
		text, _ := io.ReadAll(c)
		_, _ = c.Write(text)
	})
	for _, address := range []string{"served", "echo"} {
		c := dial(t, n, address)
		write(t, c, "all")
		require.NoError(t, c.CloseWrite())
		_, err := c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		text, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "all", string(text))
	}
}

func TestCloseReadEndsReads(t *testing.T) {
	c := dial(t, poolytest.NewNet(), "a")
	require.NoError(t, c.CloseRead())
	write(t, c, "x")
	_, err := c.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err)
}

func TestBreakBreaksOneConnection(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		reset, closed, well := dial(t, n, "a"), dial(t, n, "a"), dial(t, n, "a")
		require.Equal(t, []int{0, 1, 2}, []int{reset.ID(), closed.ID(), well.ID()})
		reset.Break(syscall.ETIMEDOUT)
		_, err := reset.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		_, err = reset.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		write(t, closed, "x")
		closed.Break(nil)
		read(t, closed, "x")
		_, err = closed.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		write(t, well, "x")
		read(t, well, "x")
	})
}

// NetDriver and DriverOf look at sockets, and must see the same in memory.
func TestDriversSeeThatAnIdleConnectionIsUnfit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		tcp := n.Driver()
		for _, d := range []pooly.Driver{tcp, pooly.DriverOf(pooly.DriverFuncs[net.Conn]{
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				return n.DialContext(ctx, "tcp", address)
			},
		})} {
			for name, harm := range map[string]func(c *poolytest.Conn){
				"reset":       func(*poolytest.Conn) { n.Reset("a") },
				"closed":      func(*poolytest.Conn) { n.CloseIdle("a") },
				"unread":      func(c *poolytest.Conn) { write(t, c, "x") },
				"broken":      func(c *poolytest.Conn) { c.Break(syscall.EIO) },
				"closed here": func(c *poolytest.Conn) { _ = c.Close() },
			} {
				c, err := d.Dial(t.Context(), "a")
				require.NoError(t, err)
				require.NoError(t, d.TestOnBorrow(c))
				under := c.Interface().(*poolytest.Conn)
				write(t, under, "x")
				read(t, under, "x")
				require.NoError(t, d.TestOnBorrow(c))
				n.Hang("a")
				require.NoError(t, d.TestOnBorrow(c), "nothing can be known of it")
				n.Heal("a")
				harm(under)
				require.Error(t, d.TestOnBorrow(c), name)
				d.Close(c)
			}
		}
		poolytest.NoConns(t, n)
	})
}

func TestAnEndBehindABlackHoleIsNotSeen(t *testing.T) {
	n := poolytest.NewNet()
	d := n.Driver()
	c, err := d.Dial(t.Context(), "a")
	require.NoError(t, err)
	defer d.Close(c)
	n.Hang("a")
	n.CloseIdle("a")
	require.NoError(t, d.TestOnBorrow(c))
	n.Heal("a")
	require.Equal(t, io.EOF, d.TestOnBorrow(c))
}

func TestAnAnswerOnItsWayIsNotSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		n.SlowAnswers("a", time.Second)
		d := n.Driver()
		c, err := d.Dial(t.Context(), "a")
		require.NoError(t, err)
		defer d.Close(c)
		write(t, c.NetConn(), "x")
		require.NoError(t, d.TestOnBorrow(c))
		time.Sleep(time.Second)
		require.Error(t, d.TestOnBorrow(c), "unread bytes")
	})
}
