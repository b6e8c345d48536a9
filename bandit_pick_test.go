package pooly

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkLeastOf is the choice of the strategies that weigh load. Compare by turns: -count and
// the median.
func BenchmarkLeastOf(b *testing.B) {
	for _, hosts := range []int{3, 16, 10_000} {
		figures := make([]hostFigures, hosts)
		for i := range figures {
			figures[i] = hostFigures{inUse: i % 3, latency: time.Millisecond, perLease: time.Millisecond, trials: 100, scores: 1}
		}
		arms := armsOf(figures...)
		for _, rate := range []float64{0, 1e6} {
			arms[0].cluster.rate.Store(rate)
			p := NewLeastLatency().NewPicker(arms)
			b.Run(fmt.Sprintf("hosts=%d/rate=%v", hosts, rate), func(b *testing.B) {
				rng := rand.New(sharedSource{})
				for b.Loop() {
					p.Pick(rng)
				}
			})
		}
		p := NewPowerOfTwo().NewPicker(arms)
		b.Run(fmt.Sprintf("hosts=%d/two", hosts), func(b *testing.B) {
			rng := rand.New(sharedSource{})
			for b.Loop() {
				p.Pick(rng)
			}
		})
	}
}
