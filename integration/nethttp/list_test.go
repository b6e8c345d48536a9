package nethttp

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

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

// difference is a test or subtest that does not pass over pooly, perhaps because of tests below it.
type difference struct{ name, kind, reason string }

const (
	pass   = "pass"   // no difference
	absent = "absent" // not run
	client = "client" // passes or fails
)

// kinds are the kinds of differences. docs/HTTP.md says what they mean.
var kinds = []string{"design", "inside", client, absent, "fault"}

// counts returns how many tests pass, and how many differ in which way first.
func counts(tests []listed) map[string]int {
	count := make(map[string]int)
	for _, test := range tests {
		if len(test.differs) == 0 {
			count[pass]++
		} else {
			count[test.differs[0].kind]++
		}
	}
	return count
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
		if len(f) != 3 || !slices.Contains(kinds, f[1]) {
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
			surprises = append(surprises, name+" fails over pooly, not as in tests.txt")
		}
	}
	for _, d := range test.differs {
		if d.kind == absent || d.kind == client {
			continue
		}
		if !slices.ContainsFunc(failures, func(name string) bool { return below(name, d.name) }) {
			surprises = append(surprises, d.name+" passes over pooly, not as in tests.txt: "+d.reason)
		}
	}
	return surprises
}

func below(name, parent string) bool {
	return name == parent || strings.HasPrefix(name, parent+"/")
}

func TestListSaysWhichTestsMayFail(t *testing.T) {
	tests, err := parse("# a comment\n\nTestA\nTestB/h1\tdesign\twhy\n" +
		"TestB/h2/x\tabsent\twhy\nTestC/h1\tclient\twhy\n")
	require.NoError(t, err)
	require.Len(t, tests, 3)
	require.Empty(t, compare(tests[0], nil))
	require.Len(t, compare(tests[0], []string{"TestA/h1"}), 1)
	require.Empty(t, compare(tests[1], []string{"TestB/h1/deep"}))
	require.Len(t, compare(tests[1], []string{"TestB/h1", "TestB/h11"}), 1)
	require.Len(t, compare(tests[1], nil), 1, "it passes, and should not")
	require.Empty(t, compare(tests[2], nil))
	require.Empty(t, compare(tests[2], []string{"TestC/h1"}))
	require.Len(t, compare(tests[2], []string{"TestC/h2"}), 1)

	for _, line := range []string{"TestA\tdesign", "TestA\tnonsense\twhy"} {
		_, err := parse(line)
		require.ErrorContains(t, err, fmt.Sprintf("%q", line))
	}
}

func TestCountsInDocsAreThoseOfTheList(t *testing.T) {
	tests, err := parse(list)
	require.NoError(t, err)
	text, err := os.ReadFile("../../docs/HTTP.md")
	require.NoError(t, err)
	count := counts(tests)
	require.Contains(t, string(text), fmt.Sprintf("%d send requests", len(tests)))
	for _, kind := range append(kinds, pass) {
		require.Contains(t, string(text), fmt.Sprintf("| %s | %d |", kind, count[kind]))
	}
}
