package debug

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/internal/validutf8"
)

// reading is what the services said at one time.
type reading struct {
	time     time.Time
	services []serviceReading
}

// serviceReading has the figures of one service from three calls. A host that is added in between
// lacks its history and share. There may be very many hosts, so each becomes a host only when it is
// written.
type serviceReading struct {
	name    string
	stats   pooly.ServiceStats
	hosts   []*pooly.HostStats // the hosts of stats, sorted
	shares  map[string]float64
	history map[string][]float64
}

// read takes the figures of all services.
func read(services []*pooly.Service, sort string) reading {
	r := reading{time: time.Now().UTC()}
	for _, s := range services {
		of := serviceReading{name: s.Name(), stats: s.Stats(), shares: s.Shares(), history: s.History()}
		of.hosts = make([]*pooly.HostStats, len(of.stats.Hosts))
		for i := range of.stats.Hosts {
			of.hosts[i] = &of.stats.Hosts[i]
		}
		slices.SortFunc(of.hosts, order(sort, of.shares))
		r.services = append(r.services, of)
	}
	return r
}

// hostSize is about how many bytes the JSON of a host takes.
const hostSize = 470

// writeJSON writes a state, with a line for each host. Besides the output it holds only one host at
// a time.
func writeJSON(w *bytes.Buffer, r reading) error {
	e := json.NewEncoder(w)
	w.WriteString(`{"time":`)
	if err := e.Encode(r.time); err != nil {
		return err
	}
	w.WriteString(`,"services":[`)
	for i := range r.services {
		of := &r.services[i]
		if i > 0 {
			w.WriteByte(',')
		}
		if err := e.Encode(of.head()); err != nil {
			return err
		}
		w.Truncate(w.Len() - len("}\n")) // the hosts are its last field
		w.WriteString(",\"hosts\":[\n")
		w.Grow(hostSize * len(of.hosts)) // or it would be copied again and again
		for i, h := range of.hosts {
			if i > 0 {
				w.WriteByte(',')
			}
			if err := e.Encode(of.host(h)); err != nil {
				return err
			}
		}
		w.WriteString("]}")
	}
	w.WriteString("]}\n")
	return nil
}

// state is the shape of the JSON.
type state struct {
	Time     time.Time `json:"time"`
	Services []service `json:"services"`
}

type service struct {
	head
	Hosts []host `json:"hosts"`
}

type head struct {
	Name        string `json:"name"`
	Strategy    string `json:"strategy"`
	Panic       bool   `json:"panic"`       // hosts fail alike, so none is ejected for it
	Waiting     int    `json:"waiting"`     // callers, while no host has room
	Shed        uint64 `json:"shed"`        // callers that were turned away in overload
	GetFailures uint64 `json:"getFailures"` // GetConn calls that returned an error
	Retries     uint64 `json:"retries"`     // times Do ran a function again
	Refused     uint64 `json:"retriesRefused"`
	Registered  int    `json:"registered"` // hosts; with MaxHosts, more than are in use
	pool
}

func (s *serviceReading) head() head {
	return head{
		Name:        validutf8.Escape(s.name),
		Strategy:    validutf8.Escape(s.stats.Strategy),
		Panic:       s.stats.Panic,
		Waiting:     s.stats.Waiting,
		Shed:        s.stats.Shed,
		GetFailures: s.stats.GetFailures,
		Retries:     s.stats.Retries,
		Refused:     s.stats.RetriesRefused,
		Registered:  s.stats.Registered,
		pool:        readPool(s.stats.PoolStats),
	}
}

type host struct {
	Address   string   `json:"address"`
	Score     float64  `json:"score"`
	History   history  `json:"history"` // of the score, one for each sixtieth of DecayDuration
	Share     *float64 `json:"share"`   // of the picks; null: the strategy cannot tell
	Trials    float64  `json:"trials"`
	Latency   float64  `json:"latencySeconds"`
	Ejected   bool     `json:"ejected"`
	Draining  bool     `json:"draining"`
	Ejections uint64   `json:"ejections"`
	Cause     string   `json:"cause,omitempty"` // of the ejection
	NextProbe float64  `json:"nextProbeSeconds"`
	pool
}

func (s *serviceReading) host(from *pooly.HostStats) *host {
	to := &host{
		Address:   validutf8.Escape(from.Address),
		Score:     from.Score,
		History:   s.history[from.Address],
		Trials:    from.Trials,
		Latency:   from.Latency.Seconds(),
		Ejected:   from.Ejected,
		Draining:  from.Draining,
		Ejections: from.Ejections,
		NextProbe: from.NextProbe.Seconds(),
		pool:      readPool(from.PoolStats),
	}
	if from.Cause != nil {
		to.Cause = validutf8.Escape(from.Cause.Error())
	}
	if share, ok := s.shares[from.Address]; ok {
		to.Share = &share
	}
	return to
}

// history is as of pooly.Service.History. Where nothing was released, it is NaN, and null in JSON.
type history []float64

// MarshalJSON implements json.Marshaler.
func (h history) MarshalJSON() ([]byte, error) {
	b := append(make([]byte, 0, 2+5*len(h)), '[')
	for i, v := range h {
		if i > 0 {
			b = append(b, ',')
		}
		if v != v { // NaN
			b = append(b, "null"...)
		} else {
			b = strconv.AppendFloat(b, v, 'g', -1, 64)
		}
	}
	return append(b, ']'), nil
}

type pool struct {
	Open         int     `json:"open"`
	InUse        int     `json:"inUse"`
	Idle         int     `json:"idle"`
	Dialing      int     `json:"dialing"`
	MaxConns     int     `json:"maxConns"`
	Limit        int     `json:"limit"` // leases that may be out at once, at most MaxConns
	OldestLease  float64 `json:"oldestLeaseSeconds"`
	Leaked       int     `json:"leaked"` // leases that are out longer than LeakTimeout
	Gets         uint64  `json:"gets"`
	Puts         uint64  `json:"puts"`
	Dials        uint64  `json:"dials"`
	Failures     uint64  `json:"failures"` // dials that failed
	Waits        uint64  `json:"waits"`
	WaitDuration float64 `json:"waitSeconds"`

	Closed map[string]uint64 `json:"closed,omitempty"` // by reason, without those that are zero
}

func readPool(s pooly.PoolStats) pool {
	var closed map[string]uint64
	for reason, n := range s.Closed.All() {
		if n == 0 {
			continue
		}
		if closed == nil {
			closed = make(map[string]uint64)
		}
		closed[reason] = n
	}
	return pool{
		Closed:       closed,
		Open:         s.Open,
		InUse:        s.InUse,
		Idle:         s.Idle,
		Dialing:      s.Dialing,
		MaxConns:     s.MaxConns,
		Limit:        s.Limit,
		OldestLease:  s.OldestLease.Seconds(),
		Leaked:       s.Leaked,
		Gets:         s.Gets,
		Puts:         s.Puts,
		Dials:        s.Dials,
		Failures:     s.Failures,
		Waits:        s.Waits,
		WaitDuration: s.WaitDuration.Seconds(),
	}
}

// order returns how hosts are compared. Equal hosts are compared by address.
func order(sort string, shares map[string]float64) func(a, b *pooly.HostStats) int {
	return func(a, b *pooly.HostStats) int {
		first := 0
		switch sort {
		case "score":
			first = cmp.Compare(a.Score, b.Score)
		case "share":
			first = cmp.Compare(shares[b.Address], shares[a.Address])
		case "use":
			first = cmp.Compare(b.InUse, a.InUse)
		case "failed":
			first = cmp.Compare(b.Failures, a.Failures)
		}
		if first != 0 {
			return first
		}
		return cmp.Or(compareAddresses(a.Address, b.Address), cmp.Compare(a.Address, b.Address))
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
