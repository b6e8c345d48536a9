package nethttp

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// A result is what became of a test.
type result string

const (
	passed result = "PASS"
	failed result = "FAIL" // anything else: it was skipped
)

// results are those of a run of net/http's tests.
type results struct {
	ended map[string]result   // by name, subtests and their parents too
	sends map[string]bool     // top-level tests that have sent a request through pooly
	lines map[string][]string // what a top-level test has printed
}

// failures returns the tests that failed, without those that failed because of a subtest.
func (r *results) failures(test string) []string {
	var names []string
	for name, result := range r.ended {
		if result == failed && (name == test || strings.HasPrefix(name, test+"/")) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(parent string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return strings.HasPrefix(name, parent+"/")
		})
	})
}

func (r *results) output(test string) string {
	return strings.Join(r.lines[test], "\n")
}

// silence is how long a test may say nothing before it counts as hung.
const silence = 10 * time.Second

// variant runs a test binary of net/http.
type variant struct {
	binary, dir string
	skip        []string // tests and subtests that are not run

	// over is what serves an http.Transport: pooly, or by default the http.Transport itself.
	over string
}

// tests returns the names of all top-level tests, but for those that are not run.
func (v variant) tests() ([]string, error) {
	cmd := exec.Command(v.binary, "-test.list=^Test")
	cmd.Dir = v.dir
	out, err := cmd.Output()
	names := strings.Fields(string(out))
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(v.skip, name) })
	return names, err
}

// run runs the named top-level tests, one after the other. A test that ends the process or hangs
// has failed.
func (v variant) run(tests []string) (*results, error) {
	r := &results{
		ended: make(map[string]result),
		sends: make(map[string]bool),
		lines: make(map[string][]string),
	}
	for len(tests) > 0 {
		if err := v.runOnce(r, tests); err != nil {
			return nil, err
		}
		left := slices.Clone(tests)
		left = slices.DeleteFunc(left, func(test string) bool { return r.ended[test] != "" })
		if len(left) == len(tests) {
			return nil, fmt.Errorf("none ran of %s:\n%s", strings.Join(left, ", "), r.output(""))
		}
		tests = left
	}
	return r, nil
}

// runOnce runs the tests until the process ends.
func (v variant) runOnce(r *results, tests []string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, v.binary, "-test.v=test2json", "-test.parallel=1", "-test.timeout=0",
		"-test.run=^("+strings.Join(tests, "|")+")$")
	if len(v.skip) > 0 {
		skip := "^" + strings.ReplaceAll(strings.Join(v.skip, "$|^"), "/", "$/^") + "$"
		cmd.Args = append(cmd.Args, "-test.skip="+skip)
	}
	cmd.Dir = v.dir
	cmd.Env = append(os.Environ(), "POOLY_STDIN=1", "POOLY_NETHTTP="+v.over)
	alive, err := cmd.StdinPipe() // closed when this process ends
	if err != nil {
		return err
	}
	defer alive.Close()
	out, in := io.Pipe()
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	cmd.WaitDelay = time.Second // for processes that a test has left
	if err = cmd.Start(); err != nil {
		return err
	}
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	go func() {
		_ = cmd.Wait() // its tests tell
		in.Close()
	}()
	running := make(map[string]bool)
	current := "" // the top-level test
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		line := scanner.Text()
		if line == "POOLY sends" {
			r.sends[current] = true
			continue
		}
		if line != "" {
			r.lines[current] = append(r.lines[current], line)
		}
		_, event, ok := strings.Cut(line, "\x16")
		if !ok {
			continue
		}
		watchdog.Reset(silence)
		f := strings.Fields(event)
		if len(f) < 3 {
			continue
		}
		name := f[2]
		switch {
		case f[0] == "===" && f[1] == "RUN":
			running[name] = true
			fallthrough
		case f[0] == "===" && f[1] == "CONT":
			current, _, _ = strings.Cut(name, "/")
		case f[0] == "---":
			delete(running, name)
			r.ended[name] = result(strings.TrimSuffix(f[1], ":"))
		}
	}
	if err := scanner.Err(); err != nil {
		return err
	}
	for _, name := range slices.Collect(maps.Keys(running)) {
		if name == current || strings.HasPrefix(name, current+"/") {
			r.ended[name] = failed
		}
	}
	return nil
}
