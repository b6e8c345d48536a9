package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const head = "figure,panel,line,x,y,low,high\n"

func write(t *testing.T, lines string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lines.csv"), []byte(head+lines), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestDrawsEachFigureThatHasLines(t *testing.T) {
	dir := write(t, `classic-regret,,round-robin,1,1,,
classic-regret,,round-robin,250,100,90,110
overload-rush,one; first,pooly,0,100,,
overload-rush,one; first,pooly,5,100,,
overload-rush,one; first,(trouble),1,50,,
overload-rush,one; first,(trouble),2,50,,
overload-rush,two,pooly,0,100,,
overload-rush,two,pooly,5,90,,
`)
	if err := run(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"classic-regret.png", "overload-rush.png"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !strings.HasPrefix(string(data), "\x89PNG") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*.png")); len(files) != 2 {
		t.Errorf("drew %v", files)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	var seven strings.Builder
	for _, name := range strings.Fields("a b c d e f g") {
		seven.WriteString("regret,,line " + name + ",1,1,,\n")
	}
	for lines, want := range map[string]string{
		"nosuch,,pooly,0,1,,\n": `"nosuch" is not described`,
		"regret,,pooly,0,x,,\n": "line 2, column y",
		"regret,,pooly,0\n":     "wrong number of fields",
		seven.String():          "7 lines, want at most 6",
	} {
		err := run(write(t, lines))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", lines, err, want)
		}
	}
	if err := run(t.TempDir()); err == nil {
		t.Error("no error without lines.csv")
	}
}
