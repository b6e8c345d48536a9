// Package decay keeps the recent history of a score: 60 slots of time, of which newer ones weigh
// more.
package decay

import "math"

// Slots is how many slots a full Window has.
const Slots = 60

// NoTrials is the value of a slot without trials: it speaks neither for nor against.
const NoTrials = 0.5

// Window is the history of one score: the last 60 slots, or as many as have begun since New.
//
// Its score is the weighted mean of the slots' values. The slot of age k (newest 0) of n weighs
// n-k. A slot's value is the mean of the scores of its trials, and NoTrials if it has none.
//
// The sums over the finished slots are kept as slots pass, so a score costs the same whether one
// slot or sixty have been recorded. They are floating-point numbers that drift by rounding, so each
// turn of the ring computes them anew.
//
// A Window is not safe for concurrent use.
type Window struct {
	// Over the finished slots. The oldest weighs 1, the next 2 and so on.
	total          float64 // Σ value
	weighted       float64 // Σ weight·value
	totalSum       float64 // Σ sum of scores
	weightedSum    float64 // Σ weight·sum of scores
	totalTrials    uint64  // Σ trials
	weightedTrials uint64  // Σ weight·trials
	past           *past   // nil until the first slot has finished

	// Over all slots that have finished since New, unweighted.
	everSum    float64
	everTrials uint64

	// The newest slot. These fields come last: Rate touches them alone, so they can share cache
	// lines with what follows the Window in its host (TestWhatAPairTouchesTakesFewCacheLines).
	newest int64 // its number
	sum    float64
	trials uint32

	count int32 // slots recorded, including the newest; from 1 to Slots
}

// past holds the finished slots in a ring: slot number i is at index i modulo Slots.
type past struct {
	values [Slots]float64
	tried  [Slots]uint32
}

// New returns a Window whose only slot has the given number, which must not be negative.
func New(slot int64) Window {
	return Window{newest: slot, count: 1}
}

// Rate records one trial with a score in [0, 1]. It counts for the given slot, or for the newest
// one if that is later.
func (w *Window) Rate(slot int64, score float64) {
	w.Advance(slot)
	w.sum += score
	if w.trials < math.MaxUint32 {
		w.trials++
	}
}

// Advance makes slot the newest. It does nothing if slot is the newest already, or older.
func (w *Window) Advance(slot int64) {
	if slot-w.newest >= Slots { // everything recorded has left the window
		sum, trials := w.Ever()
		*w = Window{newest: slot, count: Slots, past: new(past), everSum: sum, everTrials: trials}
		for i := range w.past.values {
			w.past.values[i] = NoTrials
		}
		w.resum()
		return
	}
	for w.newest < slot {
		w.next()
	}
}

// Score returns the weighted mean of the slots' values.
func (w *Window) Score() float64 {
	n := float64(w.count)
	return (w.weighted + n*w.value()) / (n * (n + 1) / 2)
}

// Trials returns the number of trials, each weighted by its slot: a trial in the newest slot counts
// 1, one in the oldest of n slots counts 1/n.
func (w *Window) Trials() float64 {
	n := float64(w.count)
	return float64(w.weightedTrials)/n + float64(w.trials)
}

// Mean returns the mean score of the trials, weighted as in Trials. It is NoTrials if there are
// none.
func (w *Window) Mean() float64 {
	trials := w.Trials()
	if trials == 0 {
		return NoTrials
	}
	mean := (w.weightedSum/float64(w.count) + w.sum) / trials
	return min(max(mean, 0), 1) // the sums drift
}

// Ever returns the sum of all scores since New, and the number of trials, unweighted.
func (w *Window) Ever() (sum float64, trials uint64) {
	return w.everSum + w.sum, w.everTrials + uint64(w.trials)
}

// History returns the values of the slots, oldest first. A slot without trials is NaN.
func (w *Window) History() []float64 {
	values := make([]float64, 0, w.count)
	for k := int64(w.count) - 1; k > 0; k-- { // the slot of age k
		value := math.NaN()
		if i := (w.newest - k) % Slots; w.past.tried[i] > 0 {
			value = w.past.values[i]
		}
		values = append(values, value)
	}
	if w.trials == 0 {
		return append(values, math.NaN())
	}
	return append(values, w.value())
}

// value returns the value of the newest slot.
func (w *Window) value() float64 {
	if w.trials == 0 {
		return NoTrials
	}
	return w.sum / float64(w.trials)
}

// next finishes the newest slot and begins another. While the window fills, finished slots keep
// their weights: the i-th weighs i. Once the window is full, the oldest slot leaves and each of the
// others weighs one less.
func (w *Window) next() {
	value, i := w.value(), w.newest%Slots
	weight := w.count
	if w.count == Slots {
		oldest := (w.newest + 1) % Slots
		w.weighted -= w.total
		w.weightedSum -= w.totalSum
		w.weightedTrials -= w.totalTrials
		w.total -= w.past.values[oldest]
		w.totalSum -= w.past.values[oldest] * float64(w.past.tried[oldest])
		w.totalTrials -= uint64(w.past.tried[oldest])
		weight--
	} else {
		w.count++
	}
	if w.past == nil {
		w.past = new(past)
	}
	w.past.values[i], w.past.tried[i] = value, w.trials
	w.total += value
	w.weighted += float64(weight) * value
	w.totalSum += w.sum
	w.weightedSum += float64(weight) * w.sum
	w.totalTrials += uint64(w.trials)
	w.weightedTrials += uint64(weight) * uint64(w.trials)
	w.everSum += w.sum
	w.everTrials += uint64(w.trials)
	w.newest++
	w.sum, w.trials = 0, 0
	if w.newest%Slots == 0 {
		w.resum()
	}
}

// resum computes the floating-point sums from the values.
func (w *Window) resum() {
	w.total, w.weighted, w.totalSum, w.weightedSum = 0, 0, 0, 0
	for k := int64(1); k < int64(w.count); k++ { // the slot of age k
		i, weight := (w.newest-k)%Slots, float64(int64(w.count)-k)
		v := w.past.values[i]
		w.total += v
		w.weighted += weight * v
		sum := v * float64(w.past.tried[i])
		w.totalSum += sum
		w.weightedSum += weight * sum
	}
}
