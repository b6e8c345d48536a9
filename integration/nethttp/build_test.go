package nethttp

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// edit replaces a text that is in a file of net/http exactly once.
type edit struct{ file, old, new string }

// edits have an http.Transport call the hooks of testdata/overlay/pooly_hooks.go. They are made in copies.
var edits = []edit{
	{"roundtrip.go", "return t.roundTrip(req)", "return t.hookedRoundTrip(req)"},

	// A Client must see a RoundTripper that is not net/http's own.
	{"client.go", "\tcase *Transport:\n", "\tcase *Transport:\n\t\tif foreign {\n\t\t\treturn false\n\t\t}\n"},
	{
		"transport.go", "func (t *Transport) CloseIdleConnections() {\n",
		"func (t *Transport) CloseIdleConnections() {\n" +
			"\tif poolyHooks != nil {\n\t\tpoolyHooks.CloseIdleConnections(t)\n\t}\n",
	},

	// What tests ask of the inside of a Transport and a service can answer.
	{
		"export_test.go", "\tkeys = make([]string, 0)\n",
		"\tif poolyHooks != nil {\n\t\tfor key := range poolyHooks.Idle(t) {\n\t\t\tkeys = append(keys, key)\n\t\t}\n" +
			"\t\tslices.Sort(keys)\n\t\treturn\n\t}\n\tkeys = make([]string, 0)\n",
	},
	{
		"export_test.go", "func (t *Transport) IdleConnKeyCountForTesting() int {\n",
		"func (t *Transport) IdleConnKeyCountForTesting() int {\n" +
			"\tif poolyHooks != nil {\n\t\treturn len(poolyHooks.Idle(t))\n\t}\n",
	},
	{
		"export_test.go", "func (t *Transport) IdleConnCountForTesting(scheme, addr string) int {\n",
		"func (t *Transport) IdleConnCountForTesting(scheme, addr string) int {\n" +
			"\tif poolyHooks != nil {\n\t\treturn poolyHooks.Idle(t)[\"|\"+scheme+\"|\"+addr]\n\t}\n",
	},
	{
		"export_test.go", "func (t *Transport) IdleConnStrsForTesting() []string {\n",
		"func (t *Transport) IdleConnStrsForTesting() []string {\n" +
			"\tif poolyHooks != nil {\n\t\treturn poolyHooks.idleStrings(t)\n\t}\n",
	},
	{
		"export_test.go", "func (t *Transport) IdleConnStrsForTesting_h2() []string {\n",
		"func (t *Transport) IdleConnStrsForTesting_h2() []string {\n" +
			"\tif poolyHooks != nil {\n\t\treturn poolyHooks.idleStrings(t)\n\t}\n",
	},
	{
		"export_test.go", "SetRoundTripRetried   = hookSetter(&testHookRoundTripRetried)",
		"SetRoundTripRetried = func(f func()) {\n\t\twatchesRetries = f != nil\n" +
			"\t\thookSetter(&testHookRoundTripRetried)(f)\n\t}",
	},
	{
		"export_test.go", "func (t *Transport) NumPendingRequestsForTesting() int {\n",
		"func (t *Transport) NumPendingRequestsForTesting() int {\n" +
			"\tif poolyHooks != nil {\n\t\treturn poolyHooks.Pending(t)\n\t}\n",
	},

	// The hooks are set before all tests, and services are closed after each.
	{"main_test.go", "\tv := m.Run()\n", "\tinstallPooly()\n\tv := m.Run()\n"},
	{
		"main_test.go", "func afterTest(t testing.TB) {\n",
		"func afterTest(t testing.TB) {\n\tcloseServices()\n",
	},
}

// compile compiles net/http's tests, with the hooks. It returns the test binary and the directory to run it in.
func compile(t *testing.T) (binary, dir string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	dir = filepath.Join(strings.TrimSpace(string(out)), "src", "net", "http")
	overlay, err := copies(dir, t.TempDir())
	require.NoError(t, err)
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	temp := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(temp, "overlay.json"), list, 0o600))
	if binary = *keep; binary == "" {
		binary = filepath.Join(temp, "nethttp.test")
	}
	args := []string{"test", "-c", "-vet=off", "-o", binary, "-overlay", filepath.Join(temp, "overlay.json")}
	if *race {
		args = append(args, "-race")
	}
	out, err = exec.Command("go", append(args, "net/http")...).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
	return binary, dir
}

// copies writes the edited files of net/http to temp. It returns which file replaces which.
func copies(dir, temp string) (overlay map[string]string, err error) {
	overlay = make(map[string]string)
	added, err := filepath.Glob("testdata/overlay/*.go")
	if err != nil {
		return nil, err
	}
	for _, name := range added {
		if overlay[filepath.Join(dir, filepath.Base(name))], err = filepath.Abs(name); err != nil {
			return nil, err
		}
	}
	texts := make(map[string]string)
	tests, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, name := range tests {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if s := string(text); strings.Contains(s, "synctest.Test(") && strings.Contains(s, "\npackage http_test\n") {
			// synctest may be used for nothing else.
			texts[filepath.Base(name)] = strings.ReplaceAll(s, "synctest.Test(", "synctestTest(") + "\nvar _ = synctest.Test\n"
		}
	}
	for _, e := range edits {
		if texts[e.file] == "" {
			text, err := os.ReadFile(filepath.Join(dir, e.file))
			if err != nil {
				return nil, err
			}
			texts[e.file] = string(text)
		}
		if n := strings.Count(texts[e.file], e.old); n != 1 {
			return nil, fmt.Errorf("%s: %q occurs %d times, not once", e.file, e.old, n)
		}
		texts[e.file] = strings.Replace(texts[e.file], e.old, e.new, 1)
	}
	for name, text := range texts {
		copied := filepath.Join(temp, name)
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			return nil, err
		}
		overlay[filepath.Join(dir, name)] = copied
	}
	return overlay, nil
}
