package poolyprometheus_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"

	"github.com/3XX0/pooly"
	poolyprometheus "github.com/3XX0/pooly/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func ExampleNewCollector() {
	orders := pooly.NewService("orders", nil)
	defer func() { _ = orders.Close() }()

	registry := prometheus.NewRegistry()
	registry.MustRegister(poolyprometheus.NewCollector(orders))
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{}) // for /metrics

	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	text, _ := io.ReadAll(answer.Body)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "pooly_hosts") {
			fmt.Print(line)
		}
	}
	// Output:
	// pooly_hosts{service="orders",state="ejected"} 0
	// pooly_hosts{service="orders",state="up"} 0
}

// Histograms need an Observer in the service.
func ExampleNewHistograms() {
	histograms := poolyprometheus.NewHistograms()
	registry := prometheus.NewRegistry()
	registry.MustRegister(histograms)

	observer := histograms.Observer()
	observer.LeaseSampleRate = 0.1 // of a tenth of the leases
	orders := pooly.NewService("orders", &pooly.ServiceConfig{Observer: observer})
	defer func() { _ = orders.Close() }()
	fmt.Println(orders.Name(), "is observed")
	// Output: orders is observed
}
