package debug

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS template.CSS
	//go:embed page.js
	pageJS template.JS

	pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
		"count":   count,
		"percent": percent,
		"seconds": seconds,
		"grade":   grade,
		"spark":   spark,
	}).Parse(pageHTML))
)

// pageLimit is how many hosts of a service the page shows.
const pageLimit = 500

// page is what the template gets.
type page struct {
	Nonce, Sort string
	CSS         template.CSS
	JS          template.JS
	Time        time.Time
	Services    []section
}

// section is a service on the page.
type section struct {
	service
	Sort    string
	Total   int // hosts
	Ejected int
	Drained int
	Hidden  int // hosts beyond pageLimit
	Columns []column
}

type column struct{ Key, Title, Explanation string }

var columns = []column{
	{"", "Host", "by address"},
	{"score", "Score", "the worst first"},
	{"share", "Picks", "the most picked first"},
	{"use", "Connections", "the most in use first"},
	{"failed", "Calls", "the most failed dials first"},
}

// writePage writes the page, or the part of it that a refresh replaces.
func writePage(w io.Writer, fragment bool, nonce, sort string, r reading) error {
	p := page{Nonce: nonce, Sort: sort, CSS: pageCSS, JS: pageJS, Time: r.time}
	for i := range r.services {
		from := &r.services[i]
		to := section{Sort: sort, Total: len(from.hosts), Columns: columns}
		to.head = from.head()
		for _, h := range from.hosts {
			if h.Ejected {
				to.Ejected++
			}
			if h.Draining {
				to.Drained++
			}
		}
		to.Hidden = max(0, to.Total-pageLimit)
		for _, h := range from.hosts[:to.Total-to.Hidden] {
			to.Hosts = append(to.Hosts, *from.host(h))
		}
		p.Services = append(p.Services, to)
	}
	name := "page"
	if fragment {
		name = "services"
	}
	return pageTemplate.ExecuteTemplate(w, name, p)
}

// MeanWait returns how long callers that waited have waited on average.
func (p pool) MeanWait() float64 {
	if p.Waits == 0 {
		return 0
	}
	return p.WaitDuration / float64(p.Waits)
}

// ClosedTotal returns how many connections were closed.
func (p pool) ClosedTotal() (n uint64) {
	for _, closed := range p.Closed {
		n += closed
	}
	return n
}

// ClosedFor says how many connections were closed for which reasons.
func (p pool) ClosedFor() string {
	var each []string
	for _, reason := range slices.Sorted(maps.Keys(p.Closed)) {
		each = append(each, fmt.Sprintf("%s %s", count(p.Closed[reason]), reason))
	}
	return strings.Join(each, ", ")
}

// Picked returns the share of the picks, 0 if the strategy cannot tell.
func (h host) Picked() float64 {
	if h.Share == nil {
		return 0
	}
	return *h.Share
}

// count writes a whole number, 1234567 as 1 234 567, with narrow spaces that do not break.
func count(n any) string {
	digits := fmt.Sprint(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(d)
	}
	return b.String()
}

// percent writes a share as percent, with one digit after the point if it is small.
func percent(share float64) string {
	if share > 0 && share < 0.0995 {
		return fmt.Sprintf("%.1f", 100*share)
	}
	return fmt.Sprintf("%.0f", 100*share)
}

// seconds writes a duration with two digits or three, which is what a person reads.
func seconds(s float64) string {
	switch {
	case s >= 60:
		return time.Duration(math.Round(s) * float64(time.Second)).String()
	case s >= 1:
		return fmt.Sprintf("%.1f s", s)
	case s >= 0.01:
		return fmt.Sprintf("%.0f ms", 1e3*s)
	case s >= 0.001:
		return fmt.Sprintf("%.1f ms", 1e3*s)
	}
	return fmt.Sprintf("%.0f µs", 1e6*s)
}

// grade is the class of a score's color.
func grade(score float64) string {
	switch {
	case score >= 0.7:
		return "good"
	case score >= 0.4:
		return "fair"
	}
	return "poor"
}

// sparkWidth and sparkHeight are the size of the drawing, in which a slot is two wide.
const sparkWidth, sparkHeight = 120, 24

// spark returns the path of a history, with the newest slot at the right edge. Where nothing was
// released there is a gap, and a slot between two gaps is a dot.
func spark(h history) string {
	var b strings.Builder
	pen := "M"
	for i, v := range h {
		if v != v { // NaN
			pen = "M"
			continue
		}
		x := sparkWidth - 1 - 2*(len(h)-1-i)
		y := 2 + (sparkHeight-4)*(1-v)
		fmt.Fprintf(&b, "%s%d %.1f", pen, x, y)
		if pen == "M" {
			b.WriteString("h0") // a line of no length is a dot, with round ends
		}
		pen = "L"
	}
	return b.String()
}
