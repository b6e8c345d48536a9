// Package nethttp holds net/http's own tests, run over pooly's HTTP transport. docs/HTTP.md says what they show.
package nethttp
