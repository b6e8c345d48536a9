// Report turns the output of the benchmarks into RESULTS.md and a chart, and copies a few rows of the
// first table into another file. bench/run.sh calls it.
//
//	report -raw raw.txt -benchstat benchstat.txt -how "bench/run.sh" -results RESULTS.md -chart results.svg
//	report -results RESULTS.md -splice ../README.md
//
// bench/http.sh has it write the table of HTTP:
//
//	report -raw raw.txt -how "bench/http.sh" -http HTTP.md
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"slices"
)

// What lies between the markers is generated, in RESULTS.md and wherever it is spliced into.
const (
	begin = "<!-- bench:begin -->"
	end   = "<!-- bench:end -->"

	httpBegin = "<!-- http:begin -->"
	httpEnd   = "<!-- http:end -->"
)

func main() {
	log.SetFlags(0)
	raw := flag.String("raw", "", "output of the benchmarks, of all passes")
	benchstat := flag.String("benchstat", "", "what benchstat says of it")
	how := flag.String("how", "bench/run.sh", "the command that measured")
	results := flag.String("results", "RESULTS.md", "the report to write, or to splice from")
	chart := flag.String("chart", "results.svg", "the chart to write")
	target := flag.String("splice", "", "copy a few rows of the table in -results between the markers in this file, and do nothing else")
	web := flag.String("http", "", "write the table of HTTP between the markers in this file, and do nothing else")
	flag.Parse()

	var err error
	if *target != "" {
		err = splice(*results, *target)
	} else if *web != "" {
		err = writeHTTP(*raw, *how, *web)
	} else {
		err = write(*raw, *benchstat, *how, *results, *chart)
	}
	if err != nil {
		log.Fatal("report: ", err)
	}
}

func write(raw, benchstat, how, results, chart string) error {
	r, err := readResults(raw)
	if err != nil {
		return err
	}
	statistics, err := os.ReadFile(benchstat)
	if err != nil {
		return err
	}
	if err := os.WriteFile(results, report(r, string(statistics), how), 0o644); err != nil {
		return err
	}
	return drawChart(r, chart)
}

func splice(from, to string) error {
	source, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	table, _, _, err := cutMarked(source, begin, end)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	target, err := os.ReadFile(to)
	if err != nil {
		return err
	}
	_, before, after, err := cutMarked(target, begin, end)
	if err != nil {
		return fmt.Errorf("%s: %w", to, err)
	}
	return os.WriteFile(to, bytes.Join([][]byte{before, brief(table), after}, nil), 0o644)
}

// inBrief are the rows of the first table that a reader of the README sees.
var inBrief = []string{"puddle", "pooly-roundrobin", "pooly-leastlatency", "hostpool-epsilon"}

// brief returns the head of the first table and a few of its rows.
func brief(table []byte) []byte {
	keep := []string{"| | hosts |", "| --- |"}
	for _, c := range contestants {
		if slices.Contains(inBrief, c.peer) {
			keep = append(keep, "| "+c.label+" |")
		}
	}
	var b bytes.Buffer
	b.WriteByte('\n')
	for line := range bytes.Lines(table) {
		for _, start := range keep {
			if bytes.HasPrefix(line, []byte(start)) {
				b.Write(line)
			}
		}
	}
	return b.Bytes()
}

// cutMarked returns what lies between the markers, and what comes before and after, with the
// markers.
func cutMarked(text []byte, begin, end string) (marked, before, after []byte, err error) {
	i, j := bytes.Index(text, []byte(begin)), bytes.Index(text, []byte(end))
	if i < 0 || j < i {
		return nil, nil, nil, fmt.Errorf("no %s … %s", begin, end)
	}
	i += len(begin)
	return text[i:j], text[:i], text[j:], nil
}
