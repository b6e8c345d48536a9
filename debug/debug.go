// Package debug shows services on a page: their hosts with scores, shares of the picks and ejections, connections in
// use and idle, and who waits.
//
//	http.Handle("/debug/pooly", debug.Handler(orders, users))
//
// Keep it off public listeners, as net/http/pprof: it changes nothing, but tells the addresses of your hosts, what
// their dials failed with, and how much traffic they have.
package debug

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/3XX0/pooly"
)

// Handler serves a page about the given services, in their order. It answers GET and HEAD only, loads nothing from
// elsewhere, and refreshes itself each second while it is looked at; without JavaScript every five.
//
// With ?format=json, or an Accept header that prefers JSON to HTML, it answers with the same figures as JSON. With
// ?sort=score, share, use or failed the hosts come in that order, worst or most first, else by address. The page shows
// at most 500 hosts of a service, the JSON all.
//
// A request costs a lock of each pool twice, and some milliseconds of processor time; with ten thousand hosts, a fifth
// of a second for the JSON (BenchmarkHandler).
func Handler(services ...*pooly.Service) http.Handler {
	return handler(slices.Clone(services))
}

type handler []*pooly.Service

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	sort := r.URL.Query().Get("sort")
	state := h.read(sort)
	var body bytes.Buffer // whole before it is sent, or an error would be half a page
	var err error
	switch format := r.URL.Query().Get("format"); {
	case format == "json" || format == "" && prefersJSON(r.Header.Get("Accept")):
		header.Set("Content-Type", "application/json")
		encoder := json.NewEncoder(&body)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(state)
	case format == "" || format == "html" || format == "fragment":
		nonce := rand.Text()
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", fmt.Sprintf("default-src 'none'; style-src 'nonce-%[1]s'; script-src 'nonce-%[1]s'; "+
			"connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nonce))
		err = writePage(&body, format == "fragment", nonce, sort, state)
	default:
		http.Error(w, "format is none of html and json", http.StatusBadRequest)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	_, _ = body.WriteTo(w) // the client may have gone
}

// prefersJSON reports whether an Accept header names JSON, and HTML not before it. Browsers name HTML first, and those
// who take anything get the page.
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

// state is what the page shows, and what is sent as JSON.
type state struct {
	Time     time.Time `json:"time"`
	Services []service `json:"services"`
}

type service struct {
	Name        string `json:"name"`
	Strategy    string `json:"strategy"`
	Waiting     int    `json:"waiting"`     // callers, while no host has room
	GetFailures uint64 `json:"getFailures"` // GetConn calls that returned an error
	Registered  int    `json:"registered"`  // hosts; with MaxHosts set, that may be more than are in use
	pool
	Hosts []host `json:"hosts"`
}

type host struct {
	Address   string     `json:"address"`
	Score     float64    `json:"score"`
	History   []*float64 `json:"history"` // of the score, one for each sixtieth of DecayDuration; null: nothing was released
	Share     *float64   `json:"share"`   // of the picks; null: the strategy cannot tell
	Trials    float64    `json:"trials"`
	Latency   float64    `json:"latencySeconds"`
	Ejected   bool       `json:"ejected"`
	Ejections uint64     `json:"ejections"`
	Cause     string     `json:"cause,omitempty"` // of the ejection
	NextProbe float64    `json:"nextProbeSeconds"`
	pool
}

type pool struct {
	Open         int     `json:"open"`
	InUse        int     `json:"inUse"`
	Idle         int     `json:"idle"`
	Dialing      int     `json:"dialing"`
	Gets         uint64  `json:"gets"`
	Puts         uint64  `json:"puts"`
	Dials        uint64  `json:"dials"`
	Failures     uint64  `json:"failures"` // dials that failed
	Waits        uint64  `json:"waits"`
	WaitDuration float64 `json:"waitSeconds"`
}

// read takes the figures of all services. Those of one service come from three calls, so a host that is added in
// between lacks its history and share.
func (h handler) read(sort string) state {
	s := state{Time: time.Now().UTC(), Services: make([]service, 0, len(h))}
	for _, from := range h {
		stats, shares, history := from.Stats(), from.Shares(), from.History()
		to := service{
			Name:        from.Name(),
			Strategy:    stats.Strategy,
			Waiting:     stats.Waiting,
			GetFailures: stats.GetFailures,
			Registered:  stats.Registered,
			pool:        readPool(stats.PoolStats),
			Hosts:       make([]host, 0, len(stats.Hosts)),
		}
		for _, hs := range stats.Hosts {
			host := host{
				Address:   hs.Address,
				Score:     hs.Score,
				History:   make([]*float64, 0, len(history[hs.Address])),
				Trials:    hs.Trials,
				Latency:   hs.Latency.Seconds(),
				Ejected:   hs.Ejected,
				Ejections: hs.Ejections,
				NextProbe: hs.NextProbe.Seconds(),
				pool:      readPool(hs.PoolStats),
			}
			if hs.Cause != nil {
				host.Cause = hs.Cause.Error()
			}
			if share, ok := shares[hs.Address]; ok {
				host.Share = &share
			}
			for _, v := range history[hs.Address] {
				if v != v { // NaN
					host.History = append(host.History, nil)
				} else {
					host.History = append(host.History, &v)
				}
			}
			to.Hosts = append(to.Hosts, host)
		}
		slices.SortFunc(to.Hosts, order(sort))
		s.Services = append(s.Services, to)
	}
	return s
}

func readPool(s pooly.PoolStats) pool {
	return pool{s.Open, s.InUse, s.Idle, s.Dialing, s.Gets, s.Puts, s.Dials, s.Failures, s.Waits, s.WaitDuration.Seconds()}
}

// order returns how hosts are compared; by address where they are equal.
func order(sort string) func(a, b host) int {
	return func(a, b host) int {
		first := 0
		switch sort {
		case "score":
			first = cmp.Compare(a.Score, b.Score)
		case "share":
			first = cmp.Compare(b.share(), a.share())
		case "use":
			first = cmp.Compare(b.InUse, a.InUse)
		case "failed":
			first = cmp.Compare(b.Failures, a.Failures)
		}
		return cmp.Or(first, compareAddresses(a.Address, b.Address), cmp.Compare(a.Address, b.Address))
	}
}

// compareAddresses compares as people do: 10.0.0.9 comes before 10.0.0.10.
func compareAddresses(a, b string) int {
	for a != "" && b != "" {
		m, n := digits(a), digits(b)
		if m == 0 || n == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
		if order := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y)); order != 0 {
			return order
		}
		a, b = a[m:], b[n:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits returns how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

func (h host) share() float64 {
	if h.Share == nil {
		return -1
	}
	return *h.Share
}
