package main

import (
	"net"
	"syscall"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	require.NoError(t, run(nil))
}

func TestRunSucceedsOnTheHostThatIsUp(t *testing.T) {
	servers, err := startServers(1)
	require.NoError(t, err)
	defer func() { _ = servers[0].Close() }()
	require.NoError(t, run([]string{closedPort(t), servers[0].Addr().String()}))
}

func TestRunNamesEveryHostIfAllAreDown(t *testing.T) {
	addresses := []string{closedPort(t), closedPort(t)}
	err := run(addresses)
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	for _, a := range addresses {
		require.ErrorContains(t, err, a)
	}
}

// closedPort returns an address at which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}
