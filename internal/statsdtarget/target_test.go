package statsdtarget

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// listen returns a socket on loopback and its port.
func listen(t *testing.T) (*net.UDPConn, string) {
	t.Helper()
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	t.Cleanup(func() { _ = socket.Close() })
	return socket, strconv.Itoa(socket.LocalAddr().(*net.UDPAddr).Port)
}

func requirePacket(t *testing.T, socket *net.UDPConn, want string) {
	t.Helper()
	require.NoError(t, socket.SetReadDeadline(time.Now().Add(5*time.Second)))
	packet := make([]byte, 100)
	n, err := socket.Read(packet)
	require.NoError(t, err)
	require.Equal(t, want, string(packet[:n]))
}

func TestLiteralAddressesAreKnownWithoutALookUp(t *testing.T) {
	server, port := listen(t)
	for _, host := range []string{"127.0.0.1", ""} {
		target := New(host+":"+port, time.Hour)
		require.False(t, target.Known())
		target.ResolveLiteral()
		require.True(t, target.Known())
		n, err := target.Send([]byte("a:1|c"))
		require.NoError(t, err)
		require.Equal(t, 5, n)
		requirePacket(t, server, "a:1|c")
		require.NoError(t, target.Close())
	}
}

func TestNamesAreLookedUpByResolveAlone(t *testing.T) {
	server, port := listen(t)
	target := New("localhost:"+port, time.Hour)
	target.ResolveLiteral()
	require.False(t, target.Known())
	target.Resolve(t.Context())
	require.True(t, target.Known())
	_, err := target.Send([]byte("a:1|c"))
	require.NoError(t, err)
	requirePacket(t, server, "a:1|c")
	require.NoError(t, target.Close())
}

func TestServerIsLookedUpAgainAfterThePeriodAndNotBefore(t *testing.T) {
	target := New("127.0.0.1:1", time.Hour)
	target.Resolve(t.Context())
	was := target.remote.Load()
	target.Resolve(t.Context())
	require.Same(t, was, target.remote.Load())
	target.lookedUp = time.Now().Add(-2 * time.Hour)
	target.Resolve(t.Context())
	require.NotSame(t, was, target.remote.Load())
	require.NoError(t, target.Close())
}

func TestPacketsToAnUnknownServerAreDropped(t *testing.T) {
	for _, address := range []string{
		"", "garbage", "127.0.0.1:nonsense", "[::1", "no-such-host.invalid:8125",
	} {
		target := New(address, time.Hour)
		target.ResolveLiteral()
		require.False(t, target.Known(), address)
		_, err := target.Send([]byte("a:1|c"))
		require.ErrorIs(t, err, net.ErrClosed, address)
		require.NoError(t, target.Close())
	}
}

func TestClosedTargetSendsAndResolvesNothing(t *testing.T) {
	target := New("127.0.0.1:1", time.Hour)
	target.ResolveLiteral()
	require.NoError(t, target.Close())
	_, err := target.Send([]byte("a:1|c"))
	require.ErrorIs(t, err, net.ErrClosed)

	target = New("127.0.0.1:1", time.Hour)
	require.NoError(t, target.Close())
	target.Resolve(t.Context())
	require.False(t, target.Known())
}
