package poolyprometheus

import (
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/validutf8"
	"github.com/prometheus/client_golang/prometheus"
)

// Histograms has native histograms of what services do. Their label is service, the service's name:
//
//	pooly_get_seconds    how long a GetConn took that got a connection
//	pooly_lease_seconds  how long a lease lasted
//	pooly_dial_seconds   how long a dial took that connected
//
// Unlike the collectors, they need an Observer in each service:
//
//	h := poolyprometheus.NewHistograms()
//	registry.MustRegister(h)
//	s := pooly.NewService("orders", &pooly.ServiceConfig{Observer: h.Observer()})
//
// Each bucket is at most 10 % wider than the one before. A histogram has at most 160 buckets. Beyond
// that it is reset once an hour, or else made coarser. A server that does not scrape native
// histograms gets the count and the sum of each.
type Histograms struct {
	gets, leases, dials *prometheus.HistogramVec
}

// NewHistograms returns empty histograms, for any number of services.
func NewHistograms() *Histograms {
	vec := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            name,
			Help:                            help,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"service"})
	}
	return &Histograms{
		gets:   vec("pooly_get_seconds", "How long a GetConn took that got a connection."),
		leases: vec("pooly_lease_seconds", "How long a lease lasted."),
		dials:  vec("pooly_dial_seconds", "How long a dial took that connected."),
	}
}

// Observer returns an Observer that fills the histograms. It makes each GetConn and Release slower.
// Set its LeaseSampleRate to observe a share of the leases.
func (h *Histograms) Observer() *pooly.Observer {
	observe := func(v *prometheus.HistogramVec, service string, d time.Duration) {
		v.WithLabelValues(validutf8.Escape(service)).Observe(d.Seconds())
	}
	return &pooly.Observer{
		Leased:   func(e pooly.LeaseEvent) { observe(h.gets, e.Service, e.Wait) },
		Released: func(e pooly.ReleaseEvent) { observe(h.leases, e.Service, e.Lasted) },
		Dialled: func(e pooly.DialEvent) {
			if e.Err == nil {
				observe(h.dials, e.Service, e.Duration)
			}
		},
	}
}

// Describe implements prometheus.Collector.
func (h *Histograms) Describe(out chan<- *prometheus.Desc) {
	for _, v := range []*prometheus.HistogramVec{h.gets, h.leases, h.dials} {
		v.Describe(out)
	}
}

// Collect implements prometheus.Collector.
func (h *Histograms) Collect(out chan<- prometheus.Metric) {
	for _, v := range []*prometheus.HistogramVec{h.gets, h.leases, h.dials} {
		v.Collect(out)
	}
}
