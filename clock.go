package pooly

import "time"

// clock measures the time since a service or pool was made. It reads only the monotonic clock,
// which is cheaper than time.Now.
type clock struct {
	base time.Time
}

// forever is later than any clock reading.
const forever time.Duration = 1<<63 - 1

func newClock() clock {
	return clock{base: time.Now().Add(-1)} // so that no reading is 0, which means none
}

func (c clock) now() time.Duration {
	return time.Since(c.base)
}

// later returns the time d after t, or forever if that does not fit a Duration: math.MaxInt64 is a
// common way to write "no limit".
func later(t, d time.Duration) time.Duration {
	if d > forever-t {
		return forever
	}
	return t + d
}
