// Package debug serves a page about services. For each host it shows the score, the share of the
// picks, ejections and connections. For each service it shows callers that wait, calls that were
// turned away, retries, and whether hosts fail alike.
//
//	http.Handle("/debug/pooly", debug.Handler(orders, users))
//
// Keep it off public listeners, as net/http/pprof. It changes nothing, but it shows the addresses
// of your hosts, the errors of their dials, and how much traffic they have.
package debug

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/3XX0/pooly"
)

// Handler serves a page about the given services, in their order. It answers GET and HEAD only, and
// loads nothing from elsewhere. While somebody looks at the page, it refreshes itself each second,
// or more rarely if an answer takes long. Without JavaScript it does so every five seconds.
//
// With ?format=json, or an Accept header that prefers JSON to HTML, it answers with the same
// figures as JSON, one host a line. With ?sort=score, share, use or failed the hosts come in that
// order, worst or most first. Otherwise they are sorted by address. The page shows at most 500
// hosts of a service, and the JSON shows all.
//
// Bytes of names and addresses that are not UTF-8 are written as \xNN.
//
// A request locks each pool twice, and takes processor time that grows with the number of hosts
// (BenchmarkHandler). One answer is prepared at a time, so all requests together take at most one
// core.
func Handler(services ...*pooly.Service) http.Handler {
	return &handler{services: slices.Clone(services), turn: make(chan struct{}, 1)}
}

type handler struct {
	services []*pooly.Service
	turn     chan struct{} // holds one while an answer is prepared
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Vary", "Accept")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD: this page changes nothing", http.StatusMethodNotAllowed)
		return
	}
	format := r.URL.Query().Get("format")
	if format == "" && prefersJSON(r.Header.Get("Accept")) {
		format = "json"
	}
	if !slices.Contains([]string{"", "html", "fragment", "json"}, format) {
		http.Error(w, "format is none of html and json", http.StatusBadRequest)
		return
	}
	nonce := rand.Text()
	body, err := h.prepare(r, format, nonce)
	switch {
	case r.Context().Err() != nil:
		return // the client has gone
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if format == "json" {
		header.Set("Content-Type", "application/json")
	} else {
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", policy(nonce))
	}
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	_, _ = body.WriteTo(w) // the client may have gone
}

// prepare returns the whole answer, since an error halfway would send half of it. It waits until no
// other answer is prepared, or the client leaves. It never waits for the client to read.
func (h *handler) prepare(r *http.Request, format, nonce string) (*bytes.Buffer, error) {
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	sort := r.URL.Query().Get("sort")
	now := read(h.services, sort)
	body := new(bytes.Buffer)
	if format == "json" {
		return body, writeJSON(body, now)
	}
	return body, writePage(body, format == "fragment", nonce, sort, now)
}

// policy allows the page to load only what is in it.
func policy(nonce string) string {
	return fmt.Sprintf("default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; "+
		"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "+
		"frame-ancestors 'none'", nonce)
}

// prefersJSON reports whether an Accept header names JSON, and HTML not before it. Browsers name
// HTML first. Clients that take anything get the page.
func prefersJSON(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		switch kind, params, _ := mime.ParseMediaType(part); {
		case params["q"] == "0":
		case kind == "text/html" || kind == "application/xhtml+xml":
			return false
		case kind == "application/json":
			return true
		}
	}
	return false
}
