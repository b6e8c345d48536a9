package validutf8

import (
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestEscape(t *testing.T) {
	for s, want := range map[string]string{
		"":                       "",
		"10.0.0.1:80":            "10.0.0.1:80",
		"日本:80":                  "日本:80",
		"\ufffd":                 "\ufffd",
		`\\.\pipe\docker_engine`: `\\.\pipe\docker_engine`,
		"\xff":                   `\xff`,
		"a\xc3b\x80:1":           `a\xc3b\x80:1`,
		"\xe6\x97":               `\xe6\x97`,
		`\xff`:                   `\\xff`,
		`\\xff`:                  `\\\\xff`,
		"\\\xff":                 `\\\xff`,
	} {
		require.Equal(t, want, Escape(s), "%q", s)
	}
}

// Two hosts must not share a series.
func FuzzEscapeKeepsStringsApart(f *testing.F) {
	for _, s := range []string{"", "a", "\xff", `\xff`, `\\xff`, "\\\xff", "\ufffd", "\xfe\xff"} {
		f.Add(s, "\xff")
		f.Add(s, `\xff`)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		require.True(t, utf8.ValidString(Escape(a)))
		require.Equal(t, a == b, Escape(a) == Escape(b), "%q, %q", a, b)
	})
}
