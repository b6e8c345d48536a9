// Package demo has what the examples share and a user need not copy: load to watch, and a report.
package demo

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"

	"github.com/3XX0/pooly"
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

// Report writes what went where.
func Report(w io.Writer, s *pooly.Service) {
	hosts := s.Stats().Hosts
	slices.SortFunc(hosts, func(a, b pooly.HostStats) int { return strings.Compare(a.Address, b.Address) })
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "host\tleases\topen\tdials\tfailed\tscore\t")
	for _, h := range hosts {
		state := ""
		if h.Ejected {
			state = fmt.Sprintf("down: %v", h.Cause)
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%.2f\t%s\n", h.Address, h.Gets, h.Open, h.Dials, h.Failures, h.Score, state)
	}
	table.Flush()
}
