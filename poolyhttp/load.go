package poolyhttp

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/3XX0/pooly"
)

// InFlightMetric is the ORCA metric in which ReportLoad tells how many requests a server has in
// flight. It is meant for Options.LoadMetric.
const InFlightMetric = "in_flight"

// loadHeader is the header of ORCA reports in answers.
const loadHeader = "Endpoint-Load-Metrics"

// ReportLoad returns a handler that tells the load of its server in each answer, for clients with
// Options.LoadMetric. The load is how many requests next handles at once. Wrap all handlers of a
// server in one ReportLoad, because the server's load is their load together.
//
// The header is "endpoint-load-metrics: TEXT named_metrics.in_flight=3", the text format of ORCA
// (Open Request Cost Aggregation), which Envoy reads as well. It has the load at the moment when
// next begins to answer, the answered request included.
func ReportLoad(next http.Handler) http.Handler {
	var inFlight atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		inFlight.Add(1)
		defer inFlight.Add(-1)
		lw := &loadWriter{ResponseWriter: w, inFlight: &inFlight}
		next.ServeHTTP(lw, req)
		lw.tell()
	})
}

// loadWriter writes the load before the header goes out.
type loadWriter struct {
	http.ResponseWriter
	inFlight *atomic.Int64
	told     bool
}

func (w *loadWriter) tell() {
	if !w.told {
		w.told = true
		w.Header().Set(loadHeader,
			fmt.Sprintf("TEXT named_metrics.%s=%d", InFlightMetric, w.inFlight.Load()))
	}
}

func (w *loadWriter) WriteHeader(status int) {
	w.tell()
	w.ResponseWriter.WriteHeader(status)
}

func (w *loadWriter) Write(p []byte) (int, error) {
	w.tell()
	return w.ResponseWriter.Write(p)
}

// Flush implements http.Flusher. It does nothing if the server's writer cannot flush.
func (w *loadWriter) Flush() {
	w.tell()
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

// Hijack implements http.Hijacker. Its error is http.ErrNotSupported if the server's writer cannot.
func (w *loadWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is for http.ResponseController.
func (w *loadWriter) Unwrap() http.ResponseWriter {
	w.tell() // the header may go out behind our back
	return w.ResponseWriter
}

// reportLoad tells pooly what an answer says of the host's load.
func (x *exchange) reportLoad(h http.Header) {
	metric := x.transport.loadMetric
	if metric == "" {
		return
	}
	for _, report := range h[loadHeader] {
		if l, ok := loadIn(report, metric); ok {
			_ = x.lease.ReportLoad(l)
			return
		}
	}
}

// loadIn reads a named metric from an ORCA report, as text or as JSON.
func loadIn(report, metric string) (l pooly.Load, ok bool) {
	format, rest, _ := strings.Cut(strings.TrimSpace(report), " ")
	value := math.NaN()
	switch {
	case strings.EqualFold(format, "TEXT"):
		for pair := range strings.SplitSeq(rest, ",") {
			name, text, _ := strings.Cut(pair, "=")
			if n, ok := strings.CutPrefix(strings.TrimSpace(name), "named_metrics."); ok && n == metric {
				if v, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
					value = v
				}
			}
		}
	case strings.EqualFold(format, "JSON"):
		var parsed struct {
			Named map[string]float64 `json:"named_metrics"`
		}
		if json.Unmarshal([]byte(rest), &parsed) == nil {
			if v, ok := parsed.Named[metric]; ok {
				value = v
			}
		}
	}
	if !(value >= 0 && value <= math.MaxInt32) { // so that NaN fails too
		return l, false
	}
	return pooly.Load{InFlight: int(math.Round(value))}, true
}
