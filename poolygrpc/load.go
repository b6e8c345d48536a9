package poolygrpc

import (
	"math"

	"github.com/3XX0/pooly"
	"google.golang.org/grpc/balancer"

	orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	_ "google.golang.org/grpc/orca" // has gRPC read the reports
)

// loadIn reads a named metric from the ORCA report of an RPC.
func loadIn(info balancer.DoneInfo, metric string) (l pooly.Load, ok bool) {
	report, ok := info.ServerLoad.(*orcapb.OrcaLoadReport)
	if !ok {
		return l, false
	}
	value, ok := report.GetNamedMetrics()[metric]
	if !ok || !(value >= 0 && value <= math.MaxInt32) { // so that NaN fails too
		return l, false
	}
	return pooly.Load{InFlight: int(math.Round(value))}, true
}
