package main

import (
	"strings"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	servers, addresses := standin.Start(nil, standin.GRPC)
	defer servers.StopAll()
	var out strings.Builder
	require.NoError(t, run(&out, addresses...))
	require.Equal(t, 3, strings.Count(out.String(), "answered"))
	servers.StopOne()
	out.Reset()
	require.NoError(t, run(&out, addresses...))
	require.Equal(t, 2, strings.Count(out.String(), "answered"))
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Etcd(t))
}
