package poolyotel_test

import (
	"errors"

	"github.com/3XX0/pooly"
	poolyotel "github.com/3XX0/pooly/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

// The code of docs/METRICS.md about OpenTelemetry. A test in docs compares them.

func register(provider metric.MeterProvider, orders, users *pooly.Service) error {
	registration, err := poolyotel.Register(provider.Meter("orders"), orders, users)
	if err != nil {
		return err
	}
	hosts, err := poolyotel.RegisterHosts(provider.Meter("orders"), orders) // eleven series for each host, and more for closed connections
	if err != nil {
		return err
	}
	return errors.Join(registration.Unregister(), hosts.Unregister())
}

func observe(provider metric.MeterProvider, tracer trace.Tracer) (*pooly.Service, error) {
	histograms, err := poolyotel.Histograms(provider.Meter("orders"))
	orders := pooly.NewService("orders", &pooly.ServiceConfig{
		Observer: pooly.JoinObservers(poolyotel.Spans(tracer), histograms),
	})
	return orders, err
}

var _ = []any{register, observe}
