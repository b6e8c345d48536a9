// Package validutf8 makes any string fit for a format that takes UTF-8 only, such as the labels of
// metrics and JSON.
package validutf8

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Escape returns s if it is valid UTF-8, and otherwise s with each invalid byte written as \xNN.
// Different strings stay different. Therefore Escape doubles the backslashes of a string with an
// invalid byte, and of one that looks escaped: one that contains \x.
func Escape(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, `\x`) {
		return s
	}
	var b strings.Builder
	for s != "" {
		r, size := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(s[:size])
		}
		s = s[size:]
	}
	return b.String()
}
