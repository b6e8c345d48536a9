// Package demo puts load on the examples in their tests.
package demo

import (
	"fmt"
	"sync"
	"sync/atomic"
)

const workers = 8

// Load calls request n times, by several goroutines, and halfway once in between. It returns the first error and
// how many failed.
func Load(n int, halfway func(), request func() error) error {
	var wg sync.WaitGroup
	var next, failures atomic.Int64
	var first error
	var once, half sync.Once
	for range workers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if i > int64(n)/2 {
					half.Do(halfway)
				}
				if err := request(); err != nil {
					failures.Add(1)
					once.Do(func() { first = err })
				}
			}
		})
	}
	wg.Wait()
	if failures.Load() > 0 {
		return fmt.Errorf("%d of %d requests failed, the first with: %w", failures.Load(), n, first)
	}
	return nil
}
