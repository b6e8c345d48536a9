// Package nethttp runs the tests of net/http over poolyhttp.Transport. docs/HTTP.md says what they
// show.
package nethttp
