package pooly

import (
	"fmt"
	"math"
	"time"
)

// Computer maps a host's score to the score that the strategy sees. Both are in [0, 1]. A Computer
// can make small differences between good hosts larger, for example.
//
// Compute may be called concurrently. GetConn does not call it. If it panics or returns NaN, the
// score stays as it was. A result outside [0, 1] is brought to the nearer end.
type Computer interface {
	Compute(score float64) float64
}

// LatencyScore rates how long something took: target / (target + elapsed). That is 1 at 0, 0.5 at
// target, and nears 0 as elapsed grows. So it tells fast from very fast as well as slow from very
// slow.
//
// The result is in [0, 1], whatever the arguments. It is 1 if elapsed is not positive, and
// otherwise 0 if target is not positive.
//
//	began := time.Now()
//	_, err = c.NetConn().Write(request)
//	c.Release(err, pooly.LatencyScore(time.Since(began), 50*time.Millisecond))
func LatencyScore(elapsed, target time.Duration) float64 {
	if elapsed <= 0 {
		return HostUp
	}
	if target <= 0 {
		return HostDown
	}
	return float64(target) / (float64(target) + float64(elapsed))
}

// LinearComputer is a Computer that stretches the scores above worst over all of [0, 1]. A host at
// or below worst counts as down. A worst of 0 leaves scores as they are.
//
// The score becomes (score - worst) / (1 - worst), and 0 if that is negative.
type LinearComputer struct {
	worst float64
}

// NewLinearComputer returns a LinearComputer. It panics if worst is not in [0, 1).
func NewLinearComputer(worst float64) *LinearComputer {
	if !(worst >= 0 && worst < 1) {
		panic(fmt.Errorf("%w: NewLinearComputer: worst %v is outside [0, 1)", ErrInvalidArg, worst))
	}
	return &LinearComputer{worst}
}

// Compute implements Computer.
func (c *LinearComputer) Compute(score float64) float64 {
	return clampScore((score - c.worst) / (1 - c.worst))
}

// ExponentialComputer is a Computer that spreads good scores and draws bad scores together: with
// steepness 5, 0.9 and 0.8 become 0.60 and 0.36. Use it to tell good hosts from very good ones.
//
// The score becomes (exp(steepness · score) - 1) / (exp(steepness) - 1).
type ExponentialComputer struct {
	steepness float64
}

// NewExponentialComputer returns an ExponentialComputer. It panics if steepness is not a positive
// number.
func NewExponentialComputer(steepness float64) *ExponentialComputer {
	return &ExponentialComputer{checkSteepness("NewExponentialComputer", steepness)}
}

// Compute implements Computer.
func (c *ExponentialComputer) Compute(score float64) float64 {
	s := clampScore(score)
	// This is the formula with both parts divided by exp(steepness), which may be too large for a
	// float64.
	k := c.steepness
	return clampScore(math.Exp(-k*(1-s)) * math.Expm1(-k*s) / math.Expm1(-k))
}

// LogarithmicComputer is a Computer that spreads bad scores and draws good scores together: with
// steepness 100, 0.1 and 0.01 become 0.52 and 0.15. Use it for scores that are all low, such as a
// LatencyScore with an ambitious target.
//
// The score becomes ln(1 + steepness · score) / ln(1 + steepness).
type LogarithmicComputer struct {
	steepness float64
}

// NewLogarithmicComputer returns a LogarithmicComputer. It panics if steepness is not a positive
// number.
func NewLogarithmicComputer(steepness float64) *LogarithmicComputer {
	return &LogarithmicComputer{checkSteepness("NewLogarithmicComputer", steepness)}
}

// Compute implements Computer.
func (c *LogarithmicComputer) Compute(score float64) float64 {
	return clampScore(math.Log1p(c.steepness*clampScore(score)) / math.Log1p(c.steepness))
}

func checkSteepness(constructor string, steepness float64) float64 {
	if !(steepness > 0 && steepness <= math.MaxFloat64) {
		panic(fmt.Errorf("%w: %s: steepness %v is not a positive number",
			ErrInvalidArg, constructor, steepness))
	}
	return steepness
}

// clampScore returns the number in [0, 1] that is nearest to score, and 0 for NaN.
func clampScore(score float64) float64 {
	if math.IsNaN(score) {
		return HostDown
	}
	return min(max(score, HostDown), HostUp)
}
