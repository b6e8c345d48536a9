package pooly

import (
	"math/rand/v2"
	"slices"
)

// LeastLatency picks the host where a lease should take the least time: the host with the lowest
// latency · (in use + 1) / weight. The latency is the mean of the leases of the last second or so.
// It is the cost function of Finagle's peak EWMA (com.twitter.finagle.loadbalancer.PeakEwma) with a
// mean instead of a peak, over more hosts.
//
// It is for hosts that fill up, that differ in strength, or that share their machines with others.
// There is nothing to tune, and it needs no scores: release what went well with HostUp. If many
// clients share the hosts, latencies show what the other clients do to a host.
//
// It compares 16 hosts, drawn at random. In a service with more than 12,500 leases a second it
// compares fewer, at least 5. More choices help most if each client has few leases, and cost most
// if it has many.
//
// If hosts tell their load (see [Conn.ReportLoad] and [Prober]), the factor in use + 1 becomes
//
//	(1-a) · (in use + 1) + a · (in use + 1 + others + 4) / (1 + mean + 4)
//
// Others is how many requests of other clients the host had in flight when it last told its load,
// and mean is the mean of others over the hosts, without hosts that tell more than ten times what is
// usual. a is exp(-age / (4 · latency)), where age is the age of the report. So a report counts
// most at hosts that change slowly, and an old one counts for nothing. A host that tells nothing is
// judged as without reports. Reports change neither the latency nor the weight: a host that claims
// to be idle, but is slow or fails, attracts little traffic. Asking hosts for their load is as in
// Prequal (see [HotCold]).
//
// The weight is 1 for a host that does as well as the others. If a host fails, its weight drops to
// nearly nothing within a few leases, and failures show no speed. So a host that fails fast
// attracts no traffic (see [PowerOfTwo] for the formula).
//
// A host that looks slow is tried again after 5 to 60 s. With less traffic it is tried later,
// because each try may cost a slow lease.
//
// A pick reads the live figures of the hosts that it compares. The service times its leases (see
// [Arm.Latency]). It keeps no state, so services can share a value.
type LeastLatency struct{}

// NewLeastLatency returns a LeastLatency.
func NewLeastLatency() *LeastLatency {
	return new(LeastLatency)
}

// How many hosts LeastLatency compares: as many as a service can compare with comparisonsPerSecond,
// within these bounds.
const (
	fewestChoices        = 5
	mostChoices          = 16 // sample.BufferSize, so that a pick does not allocate
	comparisonsPerSecond = 200_000
)

// NewPicker implements Bandit in O(n), or O(n log n) if hosts tell their load.
func (*LeastLatency) NewPicker(arms []Arm) Picker {
	p := &leastLatencyPicker{choices: mostChoices, hosts: candidates(arms)}
	arms[0].ExpectedLatency() // so that leases are timed before the first pick
	if c := arms[0].cluster; c != nil {
		if rate := c.rate.Load(); rate > 0 {
			p.choices = int(max(fewestChoices, min(mostChoices, comparisonsPerSecond/rate)))
		}
	}
	p.compareReports()
	return p
}

// fewInFlight is a number of requests. A host with fewer is hardly faster, because it works on some
// at once. Without fewInFlight, reports do harm where loads are low.
const fewInFlight = 4

type leastLatencyPicker struct {
	choices int
	hosts   []candidate
	reports bool    // some hosts have told their load of late
	others  float64 // mean of the requests of other clients that they told
}

// incredible times what the median host tells is more than a host can have. One such report would
// make the mean so large that only hosts with fresh reports look idle.
const incredible = 10

// compareReports finds out what is usual among the hosts' reports.
func (p *leastLatencyPicker) compareReports() {
	var all []float64
	for _, c := range p.hosts {
		if c.host != nil && c.host.report.isNew(c.host.clock.now()) {
			all = append(all, float64(c.host.report.others.Load()))
		}
	}
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	most := incredible * (all[(len(all)-1)/2] + fewInFlight)
	n, sum := 0, 0.0
	for _, others := range all {
		if others <= most {
			n++
			sum += others
		}
	}
	p.reports, p.others = true, sum/float64(n)
}

func (p *leastLatencyPicker) Pick(rng *rand.Rand) int {
	if p.reports {
		return p.pickByReports(rng)
	}
	return leastOf(rng, len(p.hosts), p.choices, p.cost)
}

func (p *leastLatencyPicker) cost(i int) float64 {
	c := p.hosts[i]
	inUse := c.inUse()
	return timed(c.meanLatency(), inUse) * float64(inUse+1) / c.weight
}

// pickByReports is Pick if hosts have told their load.
func (p *leastLatencyPicker) pickByReports(rng *rand.Rand) int {
	now := p.hosts[0].host.clock.now()
	return leastOf(rng, len(p.hosts), p.choices, func(i int) float64 {
		c := p.hosts[i]
		inUse, latency := c.inUse(), c.meanLatency()
		load := float64(inUse + 1)
		if w := c.host.report.weight(latency, now); w > 0 {
			others := float64(c.host.report.others.Load())
			load += w * ((load+others+fewInFlight)/(1+p.others+fewInFlight) - load)
		}
		return timed(latency, inUse) * load / c.weight
	})
}
