package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
)

// writeHTTP writes the table of HTTP between its markers in a file.
func writeHTTP(raw, how, path string) error {
	r, err := readResults(raw)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, before, after, err := cutMarked(text, httpBegin, httpEnd)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, bytes.Join([][]byte{before, httpTable(r, how), after}, nil), 0o644)
}

func httpTable(r *results, how string) []byte {
	var b bytes.Buffer
	out := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	out("\nWritten by `%s` on %s, %d cores, %s.\n", how, r.cpu, runtime.NumCPU(), runtime.Version())
	out("| HTTP | hosts | callers | answer | µs | × net/http | processor × | allocations | net/http's | B | net/http's |")
	out("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
	for version := 1; version <= 2; version++ {
		for _, hosts := range []int{1, 4} {
			for _, variant := range []struct{ name, callers, answer string }{
				{"callers=1/bytes=100", "1", "100 B"},
				{"callers=1/bytes=100/deadline=1s", "1", "100 B, deadline"},
				{"callers=64/bytes=100", "64", "100 B"},
				{"callers=1/bytes=1000000", "1", "1 MB"},
				{"callers=64/bytes=1000000", "64", "1 MB"},
			} {
				name := fmt.Sprintf("HTTP/version=%d/backends=%d/%s", version, hosts, variant.name)
				out("| %d | %d | %s | %s | %.0f | %.2f | %.2f | %.0f | %.0f | %.0f | %.0f |", version, hosts,
					variant.callers, variant.answer, r.ns(name)/1000, r.median(name, "x-nethttp"),
					r.median(name, "cpu-x-nethttp"), r.median(name, "allocs/op"), r.median(name, "nethttp-allocs"),
					r.median(name, "B/op"), r.median(name, "nethttp-B"))
			}
		}
	}
	return b.Bytes()
}
