package pooly

import "math"

// slots is how many slots span DecayDuration.
const slots = 60

// noTrials is the value of a slot in which nothing was released: it speaks neither for nor against a host.
const noTrials = 0.5

// window is a host's recent history: one slot for each sixtieth of DecayDuration since the host was added, at
// most 60 of them. Its score is the weighted mean of the slots' values, where the slot of age k (newest 0) of n
// weighs n-k and a slot's value is the mean of its scores.
//
// The sums over the finished slots are kept as slots pass, so that a score costs the same whether one slot or
// sixty have been recorded. They are floating-point numbers that drift by rounding; each turn of the ring
// computes them anew.
//
// It is guarded by its pool's lock.
type window struct {
	// Over the finished slots, of which the oldest weighs 1, the next 2 and so on.
	total          float64 // Σ value
	weighted       float64 // Σ weight·value
	totalSum       float64 // Σ sum of scores
	weightedSum    float64 // Σ weight·sum of scores
	totalTrials    uint64  // Σ trials
	weightedTrials uint64  // Σ weight·trials
	past           *past   // nil while there are none

	// The newest slot.
	newest int64 // its number
	sum    float64
	trials uint32

	count int32 // slots recorded, the newest included
}

// past are the finished slots of a window, in a ring: index i has slot number i modulo slots.
type past struct {
	values [slots]float64
	tried  [slots]uint32
}

func newWindow(slot int64) window {
	return window{newest: slot, count: 1}
}

// rate records one trial in the given slot, or in the newest if that is later.
func (w *window) rate(slot int64, score float64) {
	w.advance(slot)
	w.sum += score
	if w.trials < math.MaxUint32 {
		w.trials++
	}
}

// score returns the weighted mean of all slots.
func (w *window) score() float64 {
	n := float64(w.count)
	return (w.weighted + n*w.value()) / (n * (n + 1) / 2)
}

// effectiveTrials returns the number of trials, each weighted like its slot: one in the newest slot counts 1,
// one in the oldest of n counts 1/n.
func (w *window) effectiveTrials() float64 {
	n := float64(w.count)
	return float64(w.weightedTrials)/n + float64(w.trials)
}

// mean returns the mean score of the trials, weighted as effectiveTrials counts them; noTrials if there are none.
func (w *window) mean() float64 {
	trials := w.effectiveTrials()
	if trials == 0 {
		return noTrials
	}
	return clampScore((w.weightedSum/float64(w.count) + w.sum) / trials) // sums drift
}

// value returns the value of the newest slot.
func (w *window) value() float64 {
	if w.trials == 0 {
		return noTrials
	}
	return w.sum / float64(w.trials)
}

// advance makes slot the newest. It does nothing if it is already, or is older.
func (w *window) advance(slot int64) {
	if slot-w.newest >= slots { // nothing that was recorded is left in the window
		*w = window{newest: slot, count: slots, past: new(past)}
		for i := range w.past.values {
			w.past.values[i] = noTrials
		}
		w.resum()
		return
	}
	for w.newest < slot {
		w.next()
	}
}

// next finishes the newest slot and begins another. While the window fills, the finished slots keep their
// weights: the i-th weighs i. Once it is full, the oldest leaves and each of the others weighs one less.
func (w *window) next() {
	value, i := w.value(), w.newest%slots
	weight := w.count
	if w.count == slots {
		oldest := (w.newest + 1) % slots
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
	w.newest++
	w.sum, w.trials = 0, 0
	if w.newest%slots == 0 {
		w.resum()
	}
}

// resum computes the floating-point sums from the values.
func (w *window) resum() {
	w.total, w.weighted, w.totalSum, w.weightedSum = 0, 0, 0, 0
	for k := int64(1); k < int64(w.count); k++ { // the slot of age k
		i, weight := (w.newest-k)%slots, float64(int64(w.count)-k)
		v := w.past.values[i]
		w.total += v
		w.weighted += weight * v
		sum := v * float64(w.past.tried[i])
		w.totalSum += sum
		w.weightedSum += weight * sum
	}
}
