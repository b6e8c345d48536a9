package main

import (
	"context"
	"errors"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/apache/thrift/lib/go/thrift"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// greeter serves with the library's own framing and protocol. The name "nobody" is refused.
func greeter() *standin.Server {
	return standin.Thrift(func(ctx context.Context, in, out thrift.TProtocol) error {
		name, _, seq, err := in.ReadMessageBegin(ctx)
		if err != nil {
			return err
		}
		args := &text{field: 1}
		if err := errors.Join(args.Read(ctx, in), in.ReadMessageEnd(ctx)); err != nil {
			return err
		}
		kind, reply := thrift.REPLY, thrift.TStruct(&text{field: 0, value: "hello " + args.value})
		if args.value == "nobody" {
			kind, reply = thrift.EXCEPTION, thrift.NewTApplicationException(thrift.UNKNOWN_METHOD, "who is that")
		}
		return errors.Join(out.WriteMessageBegin(ctx, name, kind, seq), reply.Write(ctx, out),
			out.WriteMessageEnd(ctx), out.Flush(ctx))
	})
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, greeter)
}

func TestCallsGoOnWhenAServerDies(t *testing.T) {
	servers, addresses := standin.Start(nil, greeter)
	defer servers.StopAll()
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	require.NoError(t, demo.Load(2000, servers.StopOne, func() error {
		greeting, err := greet(t.Context(), s, "you")
		if err == nil && greeting != "hello you" {
			err = errors.New("wrong reply: " + greeting)
		}
		return err
	}))
}

func TestAnExceptionOfTheServiceKeepsTheConnection(t *testing.T) {
	servers, addresses := standin.Start(nil, greeter)
	defer servers.StopAll()
	s := newService(addresses[0])
	defer func() { _ = s.Close() }()
	for range 20 {
		_, err := greet(t.Context(), s, "nobody")
		require.ErrorContains(t, err, "who is that")
	}
	require.EqualValues(t, 1, s.Stats().Dials)
	require.Zero(t, s.Stats().Hosts[0].Ejections)
}
