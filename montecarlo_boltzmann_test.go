//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// boltzmannSpy is softmax as its formula has it: for each picker, the probability of the host with the best mean.
type boltzmannSpy struct {
	*pooly.SoftMax
	temperature float64
	probability []float64 // of each arm, for the current picker
	addresses   []string
}

func (b *boltzmannSpy) NewPicker(arms []pooly.Arm) pooly.Picker {
	b.probability, b.addresses = make([]float64, len(arms)), make([]string, len(arms))
	total := 0.0
	for i, a := range arms {
		b.addresses[i] = a.Address
		b.probability[i] = math.Exp(a.Score / b.temperature)
		total += b.probability[i]
	}
	for i := range b.probability {
		b.probability[i] /= total
	}
	return b.SoftMax.NewPicker(arms)
}

// TestMonteCarloSoftMaxFollowsBoltzmann compares how often each host was picked with the probabilities that the
// scores of the time gave it.
func TestMonteCarloSoftMaxFollowsBoltzmann(t *testing.T) {
	s := &scenarios[0]
	for _, temperature := range []float64{0.1, 0.5, 0.9} {
		parts := make([]sum, chunks) // of the difference, for the best host
		inParallel(t, max(chunks, learningRuns()/10), func(t *testing.T, chunk int, seed uint64) {
			b := &boltzmannSpy{SoftMax: pooly.NewSoftMax(temperature), temperature: temperature}
			service := simulatedService(b, s.hosts, s.decay, seed)
			defer service.Close()
			rng := rand.New(rand.NewPCG(seed, 2))
			for range horizon {
				c, err := service.GetConn()
				require.NoError(t, err)
				host := c.Interface().(int)
				difference := 0.0
				for i, address := range b.addresses {
					if address == strconv.Itoa(s.hosts-1) {
						difference -= b.probability[i]
					}
				}
				if host == s.hosts-1 {
					difference++
				}
				parts[chunk].add(difference)
				score, _ := s.draw(rng, host, 0)
				require.NoError(t, c.Release(nil, score))
				time.Sleep(s.step)
			}
		})
		var total sum
		for _, part := range parts {
			total.merge(part)
		}
		require.InDelta(t, 0, total.mean(), 3.5*total.deviation(), fmt.Sprintf("temperature %v", temperature))
	}
}
