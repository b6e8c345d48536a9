package poolyprometheus_test

import (
	"github.com/3XX0/pooly"
	poolyprometheus "github.com/3XX0/pooly/prometheus"
	"github.com/prometheus/client_golang/prometheus"
)

// The code of docs/METRICS.md about Prometheus. A test in docs compares them.

func collect(registry *prometheus.Registry, orders, users *pooly.Service) {
	registry.MustRegister(
		poolyprometheus.NewCollector(orders, users),
		poolyprometheus.NewHostCollector(orders), // nineteen series for each host, and more for closed connections
	)
}

func observe(registry *prometheus.Registry) *pooly.Service {
	histograms := poolyprometheus.NewHistograms()
	registry.MustRegister(histograms)
	orders := pooly.NewService("orders", &pooly.ServiceConfig{Observer: histograms.Observer()})
	return orders
}

var _ = []any{collect, observe}
