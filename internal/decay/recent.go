package decay

// Recent is the memory of the newest trials of one host. It forgets within seconds, where a Window
// remembers for minutes.
//
// Two bounds keep it nimble. It holds at most maxTrials, so that old successes do not hide new
// failures. And it holds at most maxLost, so that a host that failed for long is forgiven as soon
// as one that failed for a moment.
type Recent struct {
	Trials, Sum float64 // Sum is the sum of the scores

	everSum    float64 // the window's totals when it was last added
	everTrials uint64
}

const (
	maxTrials = 50
	maxLost   = 10 // what the trials may have scored less than usual trials, in sum
)

// Add forgets a part of the trials, so that the share keep of them is left, and adds the trials
// that w got since the last call, and returns their number. usual is the mean score that trials of
// other hosts get.
func (r *Recent) Add(w *Window, keep, usual float64) (added float64) {
	sum, trials := w.Ever()
	added = float64(trials - r.everTrials)
	r.Trials = keep*r.Trials + added
	r.Sum = max(0, keep*r.Sum+sum-r.everSum) // the sums drift
	r.everSum, r.everTrials = sum, trials
	shrink := 1.0
	if r.Trials > maxTrials {
		shrink = maxTrials / r.Trials
	}
	if lost := usual*r.Trials - r.Sum; lost*shrink > maxLost {
		shrink = maxLost / lost
	}
	r.Trials *= shrink
	r.Sum *= shrink
	return added
}

// Mean returns the mean score of the trials, or otherwise if there are none.
func (r *Recent) Mean(otherwise float64) float64 {
	if r.Trials == 0 {
		return otherwise
	}
	return min(r.Sum/r.Trials, 1) // the sums drift
}
