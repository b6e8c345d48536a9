package poolyotel_test

import (
	"context"
	"fmt"

	"github.com/3XX0/pooly"
	poolyotel "github.com/3XX0/pooly/otel"
	"go.opentelemetry.io/otel"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func ExampleRegister() {
	orders := pooly.NewService("orders", nil)
	defer func() { _ = orders.Close() }()

	reader := sdk.NewManualReader() // or a periodic one, with an exporter
	provider := sdk.NewMeterProvider(sdk.WithReader(reader))
	registration, err := poolyotel.Register(provider.Meter("orders"), orders)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = registration.Unregister() }()

	var data metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &data); err != nil {
		fmt.Println(err)
	}
	fmt.Println(data.ScopeMetrics[0].Metrics[0].Name)
	// Output: pooly.client.connection.count
}

// Spans of calls that waited, and histograms of a tenth of the leases.
func ExampleHistograms() {
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("orders")
	histograms, err := poolyotel.Histograms(meter)
	if err != nil {
		fmt.Println(err)
		return
	}
	histograms.LeaseSampleRate = 0.1
	spans := poolyotel.Spans(otel.Tracer("orders"))
	orders := pooly.NewService("orders", &pooly.ServiceConfig{
		Observer: pooly.JoinObservers(spans, histograms),
	})
	defer func() { _ = orders.Close() }()
	fmt.Println(orders.Name(), "is observed")
	// Output: orders is observed
}
