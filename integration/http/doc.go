// Package http holds the tests of poolyhttp against servers that restart in good order, beside http.Transport, and
// against nginx as a load balancer. docs/RELIABILITY.md and docs/GUIDE.md say what they show.
package http
