package poolyprometheus_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	poolyprometheus "github.com/3XX0/pooly/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
)

// sluggish is memory whose dials take 5 ms.
type sluggish struct{ memory }

func (s sluggish) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	time.Sleep(5 * time.Millisecond)
	return s.memory.Dial(ctx, address)
}

// histograms returns the only histogram of each name.
func histograms(t *testing.T, h *poolyprometheus.Histograms) map[string]*dto.Histogram {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(h)
	families, err := registry.Gather()
	require.NoError(t, err)
	found := make(map[string]*dto.Histogram)
	for _, f := range families {
		require.Len(t, f.Metric, 1)
		require.Equal(t, "service", f.Metric[0].Label[0].GetName())
		require.Equal(t, "orders", f.Metric[0].Label[0].GetValue())
		found[f.GetName()] = f.Metric[0].Histogram
	}
	return found
}

func TestHistogramsHaveWaitsLeasesAndDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := poolyprometheus.NewHistograms()
		s := pooly.NewService("orders", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: sluggish{}}, PrespawnConns: -1, Observer: h.Observer(),
		})
		defer s.Close()
		s.Add("up")
		for range 3 { // the first dials
			c, err := s.GetConn()
			require.NoError(t, err)
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, c.Release(nil, pooly.HostUp))
		}
		found := histograms(t, h)
		for name, want := range map[string]struct {
			count uint64
			sum   float64
		}{
			"pooly_get_seconds": {3, .005}, "pooly_lease_seconds": {3, .06}, "pooly_dial_seconds": {1, .005},
		} {
			require.Equal(t, want.count, found[name].GetSampleCount(), name)
			require.InDelta(t, want.sum, found[name].GetSampleSum(), 1e-9, name)
			require.NotEmpty(t, found[name].PositiveSpan, "%s is native", name)
			require.Empty(t, found[name].Bucket, name)
		}
		problems, err := testutil.CollectAndLint(h)
		require.NoError(t, err)
		require.Empty(t, problems)
	})
}

func TestHistogramsLeaveOutDialsThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := poolyprometheus.NewHistograms()
		s := pooly.NewService("orders", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: memory{}}, GetAttempts: 1, Observer: h.Observer(),
		})
		defer s.Close()
		s.Add("down")
		_, err := s.GetConn()
		require.Error(t, err)
		require.Empty(t, histograms(t, h))
	})
}

func TestHistogramsOverSockets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	h := poolyprometheus.NewHistograms()
	s := pooly.NewService("orders", &pooly.ServiceConfig{Observer: h.Observer()})
	defer s.Close()
	s.Add(l.Addr().String())
	for range 10 {
		require.NoError(t, s.Do(t.Context(), func(*pooly.Conn) error { return nil }))
	}
	found := histograms(t, h)
	require.EqualValues(t, 10, found["pooly_get_seconds"].GetSampleCount())
	require.EqualValues(t, 10, found["pooly_lease_seconds"].GetSampleCount())
	require.EqualValues(t, s.Stats().Dials, found["pooly_dial_seconds"].GetSampleCount())
}

// BenchmarkHistograms is a pair with and without the histograms.
func BenchmarkHistograms(b *testing.B) {
	pair := func(b *testing.B, o *pooly.Observer) {
		s := pooly.NewService("bench", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: memory{}}, Observer: o})
		defer s.Close()
		s.Add("up")
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
			o := poolyprometheus.NewHistograms().Observer()
			o.LeaseSampleRate = rate
			pair(b, o)
		})
	}
}
