package decay

// Recent is the memory of the newest trials of one host. It forgets within seconds, where a Window
// remembers for minutes.
//
// Two bounds keep it nimble. It holds at most maxTrials, so that old successes do not hide new
// failures. And it holds at most maxLost, so that a host that failed for long is forgiven as soon
// as one that failed for a moment.
type Recent struct {
	Segment

	everSum    float64 // the window's totals when it was last added
	everTrials uint64
}

const (
	maxTrials = 50
	maxLost   = 10 // what the trials may have scored less than usual trials, in sum
)

// Add forgets a part of the trials, so that the share keep of them is left, and adds the trials
// that w got since the last call. usual is the mean score that trials of other hosts get. It
// returns what was added.
func (r *Recent) Add(w *Window, keep, usual float64) (added Segment) {
	sum, trials := w.Ever()
	added = Segment{float64(trials - r.everTrials), sum - r.everSum}
	r.scale(keep)
	r.add(added)
	r.everSum, r.everTrials = sum, trials
	shrink := 1.0
	if r.Trials > maxTrials {
		shrink = maxTrials / r.Trials
	}
	if lost := usual*r.Trials - r.Sum; lost*shrink > maxLost {
		shrink = maxLost / lost
	}
	r.scale(shrink)
	return added
}
