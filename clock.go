package pooly

import (
	"math"
	"time"
)

// clock measures time since a service or pool was made, which costs half of time.Now: the monotonic reading
// alone.
type clock struct {
	base time.Time
}

// forever is later than any clock reading.
const forever time.Duration = math.MaxInt64

func newClock() clock {
	return clock{base: time.Now().Add(-1)} // so that no reading is 0, which means none
}

func (c clock) now() time.Duration {
	return time.Since(c.base)
}
