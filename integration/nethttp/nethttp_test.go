package nethttp

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	all  = flag.Bool("all", false, "run all of net/http's tests, and print the list anew, without the reasons")
	keep = flag.String("keep", "", "the file to write the binary of net/http's tests to, which runs them over pooly if POOLY_NETHTTP is set")
	race = flag.Bool("detect", false, "run net/http's tests with the race detector")
)

// version is the Go release whose tests are in the list.
const version = "go1.26"

//go:embed tests.txt
var list string

// listed is a top-level test that sends requests through the transport.
type listed struct {
	name    string
	differs []difference // none: it passes
}

func (t listed) has(kind string) bool {
	return slices.ContainsFunc(t.differs, func(d difference) bool { return d.kind == kind })
}

// difference is a test or subtest that does not pass over pooly. All that fails is below a difference.
type difference struct{ name, kind, reason string }

const absent = "absent"

// kinds says whose a difference is.
var kinds = map[string]string{
	"design":   "pooly is meant to do otherwise",
	"inside":   "the test looks into http.Transport",
	"net/http": "http.ClientConn does otherwise than http.Transport",
	"fault":    "pooly's fault",
	absent:     "pooly does not have what the test needs; it would hang, and is not run",
}

func parse(list string) (tests []listed, err error) {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(line, "\t", 3)
		top, _, _ := strings.Cut(f[0], "/")
		i := slices.IndexFunc(tests, func(t listed) bool { return t.name == top })
		if i < 0 {
			i = len(tests)
			tests = append(tests, listed{name: top})
		}
		if len(f) == 1 {
			continue
		}
		if len(f) != 3 || kinds[f[1]] == "" {
			return nil, fmt.Errorf("%q is not a test, a kind and a reason, separated by tabs", line)
		}
		tests[i].differs = append(tests[i].differs, difference{f[0], f[1], f[2]})
	}
	return tests, nil
}

// compare returns how the failures of a test differ from the list.
func compare(test listed, failures []string) (surprises []string) {
	for _, name := range failures {
		if !slices.ContainsFunc(test.differs, func(d difference) bool { return below(name, d.name) }) {
			surprises = append(surprises, name+" fails over pooly, and tests.txt says that it passes")
		}
	}
	for _, d := range test.differs {
		if d.kind != absent && !slices.ContainsFunc(failures, func(name string) bool { return below(name, d.name) }) {
			surprises = append(surprises, d.name+" passes over pooly, and tests.txt says that it fails: "+d.reason)
		}
	}
	return surprises
}

func below(name, parent string) bool {
	return name == parent || strings.HasPrefix(name, parent+"/")
}

// tries is how often a test that surprises is run. The machine may be too busy for it.
const tries = 3

func TestNetHTTPsOwnTestsPassOverPooly(t *testing.T) {
	if !strings.HasPrefix(runtime.Version(), version+".") && runtime.Version() != version {
		t.Skipf("this is %s, and the list of tests is of %s", runtime.Version(), version)
	}
	binary, dir := compile(t)
	tests, err := parse(list)
	require.NoError(t, err)
	own, pooly := variant{binary: binary, dir: dir}, variant{binary: binary, dir: dir, over: "pooly"}
	for _, test := range tests {
		for _, d := range test.differs {
			if d.kind == absent {
				pooly.skip = append(pooly.skip, d.name)
			}
		}
	}
	if *all {
		printList(t, own, pooly)
		return
	}
	var names []string
	for _, test := range tests {
		if !slices.Contains(pooly.skip, test.name) {
			names = append(names, test.name)
		}
	}
	over, err := pooly.run(names)
	require.NoError(t, err)

	count := make(map[string]int)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			surprises := compare(test, over.failures(test.name))
			if !over.sends[test.name] && !test.has(absent) {
				surprises = append(surprises, "no request went through pooly")
			}
			r := over
			for try := 1; len(surprises) > 0 && try < tries; try++ {
				var err error
				r, err = pooly.run([]string{test.name})
				require.NoError(t, err)
				surprises = compare(test, r.failures(test.name))
			}
			if len(surprises) == 0 {
				return
			}
			baseline, err := own.run([]string{test.name})
			require.NoError(t, err)
			if baseline.ended[test.name] != passed {
				t.Skip("fails over http.Transport too, on this machine")
			}
			t.Errorf("%s\n%s", strings.Join(surprises, "\n"), strings.Join(r.lines[test.name], "\n"))
		})
		count["send requests"]++
		if len(test.differs) == 0 {
			count["pass"]++
			continue
		}
		count[test.differs[0].kind]++
	}
	t.Log(count)
}

// printList runs all tests, and prints the lines of tests.txt.
func printList(t *testing.T, own, pooly variant) {
	cmd := exec.Command(pooly.binary, "-test.list=^Test")
	cmd.Dir = pooly.dir
	out, err := cmd.Output()
	require.NoError(t, err)
	names := strings.Fields(string(out))
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(pooly.skip, name) })
	over, err := pooly.run(names)
	require.NoError(t, err)
	names = slices.DeleteFunc(names, func(name string) bool { return !over.sends[name] })
	baseline, err := own.run(names)
	require.NoError(t, err)
	for _, name := range names {
		failures := over.failures(name)
		switch {
		case baseline.ended[name] != passed:
			fmt.Printf("# %s\t%s over http.Transport\n", name, baseline.ended[name])
		case len(failures) == 0:
			fmt.Println(name)
		}
		for _, failure := range failures {
			fmt.Printf("%s\t%s\n", failure, "?")
		}
		if dir := os.Getenv("LOGS"); dir != "" && len(failures) > 0 {
			text := strings.Join(over.lines[name], "\n")
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
		}
	}
}
