package main

import (
	"fmt"
	"math"
	"strings"

	"golang.org/x/perf/benchfmt"
	"golang.org/x/perf/benchmath"
)

// results are the measurements of all passes: by benchmark, without Benchmark and the suffix for
// the number of processors, and by unit.
type results struct {
	values map[string]map[string][]float64
	cpu    string
}

func readResults(path string) (*results, error) {
	r := &results{values: make(map[string]map[string][]float64)}
	files := benchfmt.Files{Paths: []string{path}}
	for files.Scan() {
		switch record := files.Result().(type) {
		case *benchfmt.SyntaxError:
			return nil, record
		case *benchfmt.Result:
			r.add(record)
		}
	}
	return r, files.Err()
}

func (r *results) add(record *benchfmt.Result) {
	r.cpu = record.GetConfig("cpu")
	base, parts := record.Name.Parts()
	name := string(base)
	for _, part := range parts {
		if !strings.HasPrefix(string(part), "-") {
			name += string(part)
		}
	}
	if r.values[name] == nil {
		r.values[name] = make(map[string][]float64)
	}
	for _, v := range record.Values {
		value, unit := v.Value, v.Unit
		if v.OrigUnit != "" {
			value, unit = v.OrigValue, v.OrigUnit
		}
		r.values[name][unit] = append(r.values[name][unit], value)
	}
}

// median returns NaN for what was not measured.
func (r *results) median(name, unit string) float64 {
	values := r.values[name][unit]
	if len(values) == 0 {
		return math.NaN()
	}
	return summary(values).Center
}

// ns returns the median time of an operation.
func (r *results) ns(name string) float64 { return r.median(name, "ns/op") }

// ratio is the median of how many times that of round-robin over 3 hosts a pair takes.
func (r *results) ratio(name string) float64 { return r.median(name, "x-roundrobin") }

// nsByRatio returns the time of a pair as the ratio times the median that round-robin over 3 hosts
// took in all of the run. Each benchmark has a slow or a fast moment of the machine; so all have
// the same.
func (r *results) nsByRatio(name string) float64 { return r.ratio(name) * r.yardstick(name) }

// yardstick is the median time of a pair of round-robin over 3 hosts, in the mode of the given
// benchmark.
func (r *results) yardstick(name string) float64 {
	_, mode, _ := strings.Cut(name, "/mode=")
	var all []float64
	for other, values := range r.values {
		if strings.HasPrefix(other, "Pair/") && strings.HasSuffix(other, "/mode="+mode) {
			all = append(all, values["roundrobin-ns"]...)
		}
	}
	if len(all) == 0 {
		return math.NaN()
	}
	return summary(all).Center
}

// spreadByRatio formats nsByRatio with the confidence interval of the ratio.
func (r *results) spreadByRatio(name string) string {
	ratios := r.values[name]["x-roundrobin"]
	if len(ratios) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s %s", number(r.nsByRatio(name)), summary(ratios).PctRangeString())
}

// spread formats a median with its 95 % confidence interval, as benchstat does.
func (r *results) spread(name, unit string) string {
	values := r.values[name][unit]
	if len(values) == 0 {
		return "–"
	}
	s := summary(values)
	return fmt.Sprintf("%s %s", number(s.Center), s.PctRangeString())
}

func summary(values []float64) benchmath.Summary {
	sample := benchmath.NewSample(append([]float64(nil), values...), &benchmath.DefaultThresholds)
	return benchmath.AssumeNothing.Summary(sample, 0.95)
}

// number formats with three significant digits, more for integers.
func number(x float64) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case x >= 1e6:
		return fmt.Sprintf("%.3g M", x/1e6)
	case x >= 1e4:
		return fmt.Sprintf("%.3g k", x/1e3)
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0")
	}
	return strings.TrimSuffix(fmt.Sprintf("%.2f", x), ".00")
}
