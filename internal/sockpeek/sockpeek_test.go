package sockpeek

import (
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two ends of a TCP connection. They are closed when the test ends.
func pair(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	client, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	server, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close(); _ = server.Close() })
	return client, server
}

// becomes waits until a check says so. What one end does takes a while to reach the other.
func becomes(t *testing.T, c Checker, want error) {
	t.Helper()
	require.NotNil(t, c)
	eventually(t, func() bool { return c.Check() == want })
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

// layer is a connection that passes everything on, and says what is beneath.
type layer struct{ net.Conn }

func (l layer) NetConn() net.Conn { return l.Conn }

// cover is a connection that passes everything on, and does not say what is beneath.
type cover struct{ net.Conn }

func TestCheckTellsIdleFromUnreadAndClosed(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"socket":     func(c net.Conn) net.Conn { return c },
		"layer":      func(c net.Conn) net.Conn { return layer{Conn: c} },
		"two layers": func(c net.Conn) net.Conn { return layer{Conn: layer{Conn: c}} },
	} {
		t.Run(name, func(t *testing.T) {
			client, server := pair(t)
			c := Of(wrap(client))
			require.NotNil(t, c)
			require.NoError(t, c.Check())

			_, err := io.WriteString(server, "late")
			require.NoError(t, err)
			becomes(t, c, ErrUnread)
			got := make([]byte, 4)
			_, err = io.ReadFull(client, got)
			require.NoError(t, err)
			require.Equal(t, "late", string(got), "a check consumes nothing")
			require.NoError(t, c.Check())

			require.NoError(t, server.Close())
			becomes(t, c, io.EOF)
			require.NoError(t, client.Close())
			require.ErrorIs(t, c.Check(), net.ErrClosed)
		})
	}
}

func TestCheckSeesThatThePeerWasReset(t *testing.T) {
	client, server := pair(t)
	c := Of(client)
	require.NoError(t, server.(*net.TCPConn).SetLinger(0))
	require.NoError(t, server.Close())
	eventually(t, func() bool { return c.Check() != nil })
}

func TestCheckDoesNotWaitForAReader(t *testing.T) {
	client, _ := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = client.Read(make([]byte, 1))
	}()
	c := Of(client)
	for range 1000 {
		require.NoError(t, c.Check())
	}
	require.NoError(t, client.Close())
	<-done
}

func TestCheckOfASocketAllocatesNothing(t *testing.T) {
	client, _ := pair(t)
	c := Of(client)
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = c.Check() }))
}

type circle struct{ net.Conn }

func (c circle) NetConn() net.Conn { return c }

func TestNoSocketIsFoundWhereNoneIsTold(t *testing.T) {
	client, _ := pair(t)
	pipe, other := net.Pipe()
	defer pipe.Close()
	defer other.Close()
	for name, c := range map[string]net.Conn{
		"pipe":              pipe,
		"embedded":          cover{client},
		"layer over a pipe": layer{Conn: pipe},
		"layer over cover":  layer{Conn: cover{client}},
		"layer over nil":    layer{},
		"circle":            circle{client},
	} {
		require.Nil(t, Of(c), name)
	}
}

// fileConn is a connection by way of a file, such as a serial line.
type fileConn struct {
	net.Conn
	file *os.File
}

func (c fileConn) SyscallConn() (syscall.RawConn, error) { return c.file.SyscallConn() }

// A pool would close it at each borrow, were it taken for broken.
func TestADescriptorThatIsNoSocketPassesForFit(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	require.NoError(t, Of(fileConn{file: r}).Check())
}
