package poolyotel

import (
	"context"
	"errors"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/validutf8"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/semconv/v1.43.0/dbconv"
	"go.opentelemetry.io/otel/trace"
)

// dbPoolName is the attribute that the conventions require.
const dbPoolName = attribute.Key("db.client.connection.pool.name")

// Spans returns an Observer that makes spans of what callers waited for:
//
//	pooly.wait  a call that found no idle connection, from its first wait to its end
//	pooly.dial  a dial that was made with a caller's context, as those of DialContext are
//
// A span is a child of the span in the caller's context. If the context has no span, no span is
// made. A call that gets an idle connection makes no span, and costs nothing.
//
// The attributes are db.client.connection.pool.name, the name of the service, and server.address
// and server.port. A call that got no connection has only the first, and its error.
func Spans(tracer trace.Tracer) *pooly.Observer {
	return &pooly.Observer{
		Waited: func(e pooly.WaitEvent) {
			s := span{name: "pooly.wait", kind: trace.SpanKindInternal, service: e.Service}
			s.record(e.Context, tracer, e.Address, e.Duration, e.Err)
		},
		Dialled: func(e pooly.DialEvent) {
			s := span{name: "pooly.dial", kind: trace.SpanKindClient, service: e.Service}
			s.record(e.Context, tracer, e.Address, e.Duration, e.Err)
		},
	}
}

type span struct {
	name    string
	kind    trace.SpanKind
	service string
}

// record makes a span that ends now, if the context has a parent for it.
func (s span) record(
	ctx context.Context, tracer trace.Tracer, address string, took time.Duration, err error,
) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	now := time.Now()
	attributes := []attribute.KeyValue{dbPoolName.String(validutf8.Escape(s.service))}
	if address != "" {
		attributes = append(attributes, server(address)...)
	}
	_, made := tracer.Start(ctx, s.name, trace.WithTimestamp(now.Add(-took)),
		trace.WithSpanKind(s.kind), trace.WithAttributes(attributes...))
	if err != nil {
		text := validutf8.Escape(err.Error())
		if !utf8.ValidString(err.Error()) {
			err = errors.New(text) // an exporter would drop all spans of its batch
		}
		made.RecordError(err, trace.WithTimestamp(now))
		made.SetStatus(codes.Error, text)
	}
	made.End(trace.WithTimestamp(now))
}

// bounds are the advised bounds of the histograms' buckets, in seconds. The SDK's default bounds
// are made for milliseconds.
var bounds = metric.WithExplicitBucketBoundaries(
	.00001, .00005, .0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5, 10,
)

// Histograms returns an Observer that records the semantic conventions' histograms, in seconds. Their
// attribute is db.client.connection.pool.name, the name of the service:
//
//	db.client.connection.wait_time    how long a call took that got a connection
//	db.client.connection.use_time     how long a lease lasted
//	db.client.connection.create_time  how long a dial took that connected
//
// Their names begin with db whatever is pooled, so that dashboards made for the conventions work. A
// lease costs two records. Set LeaseSampleRate of the Observer to record a share of the leases.
//
// Bounds from 10 µs to 10 s are advised. A view of the SDK overrides them, for example with
// exponential buckets.
func Histograms(meter metric.Meter) (*pooly.Observer, error) {
	wait, err1 := dbconv.NewClientConnectionWaitTime(meter, bounds)
	use, err2 := dbconv.NewClientConnectionUseTime(meter, bounds)
	create, err3 := dbconv.NewClientConnectionCreateTime(meter, bounds)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	var services services
	return &pooly.Observer{
		Leased: func(e pooly.LeaseEvent) {
			wait.RecordSet(e.Context, e.Wait.Seconds(), services.attributes(e.Service))
		},
		Released: func(e pooly.ReleaseEvent) {
			use.RecordSet(context.Background(), e.Lasted.Seconds(), services.attributes(e.Service))
		},
		Dialled: func(e pooly.DialEvent) {
			if e.Err == nil {
				create.RecordSet(e.Context, e.Duration.Seconds(), services.attributes(e.Service))
			}
		},
	}, nil
}

// services remembers the attributes of each service, since making them costs more than a record.
type services struct{ sets sync.Map }

func (s *services) attributes(service string) attribute.Set {
	if set, ok := s.sets.Load(service); ok {
		return set.(attribute.Set)
	}
	set := attribute.NewSet(dbPoolName.String(validutf8.Escape(service)))
	s.sets.Store(service, set)
	return set
}
