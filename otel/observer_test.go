package poolyotel_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/3XX0/pooly"
	poolyotel "github.com/3XX0/pooly/otel"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
	"go.opentelemetry.io/otel/trace"
)

// sluggish is memory whose dials take 5 ms.
type sluggish struct{ memory }

func (s sluggish) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	time.Sleep(5 * time.Millisecond)
	return s.memory.Dial(ctx, address)
}

func observedService(t *testing.T, o *pooly.Observer, addresses ...string) *pooly.Service {
	s := pooly.NewService("orders", &pooly.ServiceConfig{
		PoolConfig:    pooly.PoolConfig{Driver: sluggish{}, MaxConns: 1, WaitTimeout: time.Second},
		GetAttempts:   1,
		PrespawnConns: -1,
		Observer:      o,
	})
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range addresses {
		s.Add(a)
	}
	return s
}

func TestSpansAreOfCallsThatWaitedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spans := tracetest.NewSpanRecorder()
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
		s := observedService(t, poolyotel.Spans(tracer), "up:80")
		ctx, request := tracer.Start(t.Context(), "request")
		began := time.Now()
		held, err := s.GetConnContext(ctx)
		require.NoError(t, err)
		waits := func() []sdktrace.ReadOnlySpan {
			return slices.DeleteFunc(spans.Ended(), func(s sdktrace.ReadOnlySpan) bool { return s.Name() != "pooly.wait" })
		}
		require.Len(t, spans.Ended(), 2, "it waited for a dial, and the dial was for it")
		require.Len(t, waits(), 1)
		span := waits()[0]
		require.Equal(t, "pooly.wait", span.Name())
		require.Equal(t, request.SpanContext().SpanID(), span.Parent().SpanID())
		require.Equal(t, began, span.StartTime())
		require.Equal(t, began.Add(5*time.Millisecond), span.EndTime())
		require.ElementsMatch(t, []attribute.KeyValue{
			attribute.String("db.client.connection.pool.name", "orders"),
			semconv.ServerAddress("up"), semconv.ServerPort(80),
		}, span.Attributes())
		require.Equal(t, codes.Unset, span.Status().Code)

		_, err = s.GetConnContext(ctx)
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.Len(t, waits(), 2)
		span = waits()[1]
		require.Equal(t, time.Second, span.EndTime().Sub(span.StartTime()))
		require.Equal(t, codes.Error, span.Status().Code)
		require.Equal(t, err.Error(), span.Status().Description)
		require.Len(t, span.Attributes(), 1, "no host served it")
		require.Len(t, span.Events(), 1)

		require.NoError(t, held.Release(nil, pooly.HostUp))
		held, err = s.GetConnContext(ctx)
		require.NoError(t, err)
		_, err = s.GetConn()
		require.ErrorIs(t, err, pooly.ErrOpTimeout)
		require.NoError(t, held.Release(nil, pooly.HostUp))
		require.Len(t, spans.Ended(), 3, "an idle connection, and a caller without a span")
	})
}

func TestSpansHaveTheDialsOfDialContextOverSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	s := pooly.NewService("orders", &pooly.ServiceConfig{Observer: poolyotel.Spans(tracer), PrespawnConns: 1})
	defer s.Close()
	s.Add(l.Addr().String())
	ctx, request := tracer.Start(t.Context(), "request")
	c, err := s.DialContext(ctx, "", "")
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Len(t, spans.Ended(), 1, "prespawned connections are nobody's")
	span := spans.Ended()[0]
	require.Equal(t, "pooly.dial", span.Name())
	require.Equal(t, trace.SpanKindClient, span.SpanKind())
	require.Equal(t, request.SpanContext().SpanID(), span.Parent().SpanID())
}

func TestHistogramsAreTheConventions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
		o, err := poolyotel.Histograms(meter)
		require.NoError(t, err)
		s := observedService(t, o, "up:80", "down:80")
		for range 3 { // the first dials
			c, err := s.GetConn()
			require.NoError(t, err)
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, c.Release(nil, pooly.HostUp))
		}
		found := collect(t, reader)
		require.Len(t, found, 3)
		for _, want := range []struct {
			name, unit, description string
			count                   uint64
			sum                     float64
		}{
			{dbconv.ClientConnectionWaitTime{}.Name(), dbconv.ClientConnectionWaitTime{}.Unit(),
				dbconv.ClientConnectionWaitTime{}.Description(), 3, s.Stats().WaitDuration.Seconds()},
			{dbconv.ClientConnectionUseTime{}.Name(), "s", dbconv.ClientConnectionUseTime{}.Description(), 3, .06},
			{dbconv.ClientConnectionCreateTime{}.Name(), "s", dbconv.ClientConnectionCreateTime{}.Description(), 1, .005},
		} {
			m := found[want.name]
			require.Equal(t, want.unit, m.Unit)
			require.Equal(t, want.description, m.Description)
			points := m.Data.(metricdata.Histogram[float64]).DataPoints
			require.Len(t, points, 1)
			require.Equal(t, attribute.NewSet(attribute.String("db.client.connection.pool.name", "orders")), points[0].Attributes)
			require.Equal(t, want.count, points[0].Count, want.name)
			require.InDelta(t, want.sum, points[0].Sum, 1e-6, want.name)
			require.Equal(t, 10.0, points[0].Bounds[len(points[0].Bounds)-1])
		}
	})
}

// A text that is not UTF-8 would stop an exporter.
func TestSpansEscapeErrors(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	ctx, _ := tracer.Start(t.Context(), "request")
	poolyotel.Spans(tracer).Waited(pooly.WaitEvent{Context: ctx, Err: errors.New("server said \xff")})
	require.Len(t, spans.Ended(), 1)
	span := spans.Ended()[0]
	require.Equal(t, `server said \xff`, span.Status().Description)
	require.Len(t, span.Events(), 1)
	for _, a := range span.Events()[0].Attributes {
		require.True(t, utf8.ValidString(a.Value.AsString()), "%s", a.Key)
	}
}

// A name that is not UTF-8 would stop an exporter.
func TestObserverEscapesNames(t *testing.T) {
	reader := sdk.NewManualReader()
	o, err := poolyotel.Histograms(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test"))
	require.NoError(t, err)
	o.Released(pooly.ReleaseEvent{Service: "a\xff"})
	points := collect(t, reader)["db.client.connection.use_time"].Data.(metricdata.Histogram[float64]).DataPoints
	value, _ := points[0].Attributes.Value("db.client.connection.pool.name")
	require.Equal(t, `a\xff`, value.AsString())
}

// BenchmarkHistograms is a pair with and without the histograms.
func BenchmarkHistograms(b *testing.B) {
	pair := func(b *testing.B, o *pooly.Observer) {
		s := pooly.NewService("bench", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: memory{}}, Observer: o})
		defer s.Close()
		s.Add("up:80")
		b.ReportAllocs()
		for b.Loop() {
			c, err := s.GetConn()
			if err != nil {
				b.Fatal(err)
			}
			if err := c.Release(nil, pooly.HostUp); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("none", func(b *testing.B) { pair(b, nil) })
	for name, rate := range map[string]float64{"rate=0.01": 0.01, "rate=0.1": 0.1, "rate=1": 1} {
		b.Run(name, func(b *testing.B) {
			o, err := poolyotel.Histograms(sdk.NewMeterProvider(sdk.WithReader(sdk.NewManualReader())).Meter("bench"))
			require.NoError(b, err)
			o.LeaseSampleRate = rate
			pair(b, o)
		})
	}
}
