package poolygrpc

import (
	"strings"
	"time"

	"github.com/3XX0/pooly"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// judge says what RPCs tell about their servers. It is immutable.
type judge struct {
	failures [17]bool // by code
	target   time.Duration
	metric   string // metric of the server's load; "": none
}

// rpc is one RPC, from Pick to Done.
type rpc struct {
	lease  *pooly.Conn
	method string
	began  time.Time
}

// done ends the lease of an RPC with what the RPC tells.
func (j *judge) done(r rpc, info balancer.DoneInfo) {
	code := codes.OK
	if info.Err != nil {
		code = status.Code(info.Err)
	}
	elapsed := time.Since(r.began)
	if j.metric != "" {
		if l, ok := loadIn(info, j.metric); ok {
			_ = r.lease.ReportLoad(l)
		}
	}
	switch {
	case code == codes.Canceled, !info.BytesSent && !info.BytesReceived:
		_ = r.lease.End()
	case int(code) < len(j.failures) && j.failures[code]:
		j.failed(r, info, code, elapsed)
	case isStream(r.method):
		_ = r.lease.Rate(pooly.Outcome{Score: pooly.HostUp})
		_ = r.lease.End()
	case j.target > 0:
		_ = r.lease.Release(nil, pooly.LatencyScore(elapsed, j.target))
	default:
		_ = r.lease.Release(nil, pooly.HostUp)
	}
}

func (j *judge) failed(r rpc, info balancer.DoneInfo, code codes.Code, elapsed time.Duration) {
	// With its latency, a failure has the server look slow at once. Without it, a server that fails
	// fast would look fast and empty until the next scores.
	o := pooly.Outcome{Score: pooly.HostDown, Err: info.Err, Elapsed: elapsed}
	streams := isStream(r.method)
	switch {
	case code == codes.DeadlineExceeded && streams && info.BytesReceived:
		_ = r.lease.End() // the stream has lasted as long as its user wanted
		return
	case code == codes.DeadlineExceeded:
		o.Err = timeout{info.Err}
	case streams:
		o.Elapsed = 1 // as long as a failure counts at least
	}
	_ = r.lease.Rate(o)
	_ = r.lease.End()
}

// timeout marks a status as a timeout, for which pooly has rules of its own.
type timeout struct{ error }

func (timeout) Timeout() bool   { return true }
func (t timeout) Unwrap() error { return t.error }

// isStream reports whether a method is known to be streaming. Its descriptor is known if generated
// code of it is linked.
func isStream(method string) bool {
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		return false
	}
	m, ok := d.(protoreflect.MethodDescriptor)
	return ok && (m.IsStreamingClient() || m.IsStreamingServer())
}
