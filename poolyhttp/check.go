package poolyhttp

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// check returns why a request cannot be sent to the service, whatever its state.
func (t *Transport) check(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("http: nil Request.URL") // as http.Transport says it
	case req.Header == nil:
		return errors.New("http: nil Request.Header")
	case req.URL.Host == "":
		return errors.New("http: no Host in request URL")
	case hasControl(req.URL.RawQuery) || hasControl(req.URL.Opaque):
		return errors.New("poolyhttp: control character in Request.URL") // HTTP/2 would send it
	case !t.owns(req.URL):
		return fmt.Errorf("%w %s: %q; see Options.Hosts and Options.Fallback",
			ErrForeignHost, t.service.Name(), req.URL.Host)
	case req.URL.Scheme != t.driver.scheme:
		return fmt.Errorf("%w: service %s speaks %s, and the URL says %q",
			ErrScheme, t.service.Name(), t.driver.scheme, req.URL.Scheme)
	}
	return malformed(req)
}

// malformed returns why net/http would refuse a request, in its words. It would do so only once a
// connection is there.
func malformed(req *http.Request) error {
	if flaw := flawOf(req.Header); flaw != "" {
		return fmt.Errorf("net/http: invalid header %s", flaw)
	}
	if flaw := flawOf(req.Trailer); flaw != "" {
		return fmt.Errorf("net/http: invalid trailer %s", flaw)
	}
	if req.Method != "" && !isToken(req.Method) {
		return fmt.Errorf("net/http: invalid method %q", req.Method)
	}
	return nil
}

// flawOf returns what is wrong with a header. It does not tell a value, which may be secret.
func flawOf(header http.Header) string {
	for name, values := range header {
		if !isToken(name) {
			return fmt.Sprintf("field name %q", name)
		}
		for _, v := range values {
			if !isFieldValue(v) {
				return fmt.Sprintf("field value for %q", name)
			}
		}
	}
	return ""
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

// isFieldValue reports whether s has no control characters except tabs.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

var tokenBytes = func() (is [256]bool) {
	const all = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for _, c := range []byte(all) {
		is[c] = true
	}
	return is
}()

func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}
