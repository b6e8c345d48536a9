package nethttp

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var (
	all  = flag.Bool("all", false, "run all of net/http's tests, and print the names for the list")
	keep = flag.String("keep", "", "where to leave the binary of net/http's tests, see docs/HTTP.md")
	race = flag.Bool("detect", false, "run net/http's tests with the race detector")
)

// version is the Go release whose tests are in the list.
const version = "go1.26"

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
	known, err := pooly.tests()
	require.NoError(t, err)
	if *all {
		printList(t, known, own, pooly)
		return
	}
	var names []string
	for _, test := range tests {
		if slices.Contains(known, test.name) {
			names = append(names, test.name)
		}
	}
	over, err := pooly.run(names)
	require.NoError(t, err)
	baseline, err := own.run(names)
	require.NoError(t, err)

	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			switch {
			case slices.Contains(pooly.skip, test.name):
				t.Skip(test.differs[0].reason)
			case !slices.Contains(names, test.name):
				t.Skipf("%s has no such test", runtime.Version())
			case baseline.ended[test.name] != passed:
				t.Skipf("over http.Transport: %s\n%s", baseline.ended[test.name], baseline.output(test.name))
			}
			r := over
			surprises := compare(test, r.failures(test.name))
			for try := 1; len(surprises) > 0 && try < tries; try++ {
				var err error
				r, err = pooly.run([]string{test.name})
				require.NoError(t, err)
				surprises = compare(test, r.failures(test.name))
			}
			if !r.sends[test.name] && !test.has(absent) {
				surprises = append(surprises, "no request went through pooly")
			}
			if len(surprises) > 0 {
				t.Errorf("%s\n%s", strings.Join(surprises, "\n"), r.output(test.name))
			}
		})
	}
	t.Logf("%d tests send requests: %v", len(tests), counts(tests))
}

// printList runs all tests, and prints the lines of tests.txt.
func printList(t *testing.T, names []string, own, pooly variant) {
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
			fmt.Printf("%s\t?\n", failure)
		}
	}
}
