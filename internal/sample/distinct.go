// Package sample draws random numbers below n: several without repetition, or one by weight.
package sample

import (
	"math/rand/v2"
	"slices"
)

// BufferSize is how many numbers a Buffer holds.
const BufferSize = 16

// Buffer is memory for the result of Distinct, for callers that must not allocate.
type Buffer [BufferSize]int

// Distinct returns d distinct numbers below n in random order. Each choice, and each order of it,
// is equally likely. If d is larger than n, it returns all n numbers. The result is in buffer if
// that is large enough, else it is allocated.
//
// It is for small d, since it takes O(d²). It is algorithm P of Floyd (Bentley and Floyd, A Sample
// of Brilliance, CACM 30(9), 1987), with the order reversed.
func Distinct(rng *rand.Rand, n, d int, buffer *Buffer) []int {
	drawn := buffer[:0]
	for j := max(0, n-d); j < n; j++ {
		i := rng.IntN(j + 1)
		if at := slices.Index(drawn, i); at >= 0 {
			drawn = slices.Insert(drawn, at, j)
		} else {
			drawn = append(drawn, i)
		}
	}
	return drawn
}
