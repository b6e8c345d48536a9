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

// after returns the edit that adds text after a line.
func after(file, line, text string) edit {
	return edit{file, line + "\n", line + "\n" + text + "\n"}
}

// edits have an http.Transport call the hooks of testdata/overlay/pooly_hooks.go. They are made in
// copies.
var edits = []edit{
	{"roundtrip.go", "return t.roundTrip(req)", "return t.hookedRoundTrip(req)"},

	// A Client must see a RoundTripper that is not net/http's own.
	after("client.go", "\tcase *Transport:", "if foreign { return false }"),

	after("transport.go", "func (t *Transport) CloseIdleConnections() {",
		"if poolyHooks != nil { poolyHooks.CloseIdleConnections(t) }"),

	// What tests ask of the inside of a Transport, and a service can answer.
	after("export_test.go", "func (t *Transport) IdleConnKeysForTesting() (keys []string) {",
		"if poolyHooks != nil { return poolyHooks.idleKeys(t) }"),
	after("export_test.go", "func (t *Transport) IdleConnKeyCountForTesting() int {",
		"if poolyHooks != nil { return len(poolyHooks.Idle(t)) }"),
	after("export_test.go", "func (t *Transport) IdleConnCountForTesting(scheme, addr string) int {",
		`if poolyHooks != nil { return poolyHooks.Idle(t)["|"+scheme+"|"+addr] }`),
	after("export_test.go", "func (t *Transport) IdleConnStrsForTesting() []string {",
		"if poolyHooks != nil { return poolyHooks.idleStrings(t) }"),
	after("export_test.go", "func (t *Transport) IdleConnStrsForTesting_h2() []string {",
		"if poolyHooks != nil { return poolyHooks.idleStrings(t) }"),
	after("export_test.go", "func (t *Transport) NumPendingRequestsForTesting() int {",
		"if poolyHooks != nil { return poolyHooks.Pending(t) }"),
	{"export_test.go", "= hookSetter(&testHookRoundTripRetried)", "= setRetriedHook"},

	// The hooks are set before all tests, and services are closed after each.
	{"main_test.go", "\tv := m.Run()\n", "\tinstallPooly()\n\tv := m.Run()\n"},
	after("main_test.go", "func afterTest(t testing.TB) {", "closeServices()"),
}

// compile compiles net/http's tests, with the hooks. It returns the test binary and the directory to
// run it in.
func compile(t *testing.T) (binary, dir string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	dir = filepath.Join(strings.TrimSpace(string(out)), "src", "net", "http")
	if strings.Contains(dir, "golang.org"+string(filepath.Separator)+"toolchain@") {
		t.Skipf("go has downloaded its toolchain to %s, where it allows no -overlay", dir)
	}
	overlay, err := copies(dir, t.TempDir())
	require.NoError(t, err)
	list, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	temp := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(temp, "overlay.json"), list, 0o600))
	if binary = *keep; binary == "" {
		binary = filepath.Join(temp, "nethttp.test")
	}
	args := []string{"test", "-c", "-vet=off", "-o", binary, "-overlay=" + filepath.Join(temp, "overlay.json")}
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
		s := string(text)
		if strings.Contains(s, "\npackage http_test\n") && strings.Contains(s, "synctest.Test(") {
			s = strings.ReplaceAll(s, "synctest.Test(", "synctestTest(")
			texts[filepath.Base(name)] = s + "\nvar _ = synctest.Test\n" // or its import may be unused
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
