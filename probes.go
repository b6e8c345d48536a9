package pooly

import (
	"context"
	"time"

	"github.com/3XX0/pooly/internal/sample"
)

// Prober is what a driver implements so that pooly can ask hosts for their load, see
// ServiceConfig.ProbeRate.
//
// Probe asks the host at address. It should use a connection of its own that stays open, and must
// heed ctx, which ends after a second, and when the host is removed. It is called concurrently, but
// not for an address while another Probe of that address runs.
//
// An error, a panic or an invalid Load says nothing about the host's load or its health.
type Prober interface {
	Probe(ctx context.Context, address string) (Load, error)
}

// probeTimeout bounds each probe.
const probeTimeout = time.Second

// probes asks hosts for their load. The hosts are drawn at random for each GetConn, so there are no
// probes while the service is idle.
type probes struct {
	service *Service      // immutable
	prober  Prober        // immutable
	rate    float64       // immutable; probes for each GetConn
	wait    time.Duration // immutable; how long GetConn waits for them
}

// newProbes returns nil if there are none.
func newProbes(s *Service) *probes {
	prober, ok := s.config.Driver.(Prober)
	if !ok || s.config.ProbeRate == 0 {
		return nil
	}
	return &probes{s, prober, s.config.ProbeRate, s.config.ProbeWait}
}

// ask begins the probes of one GetConn, and waits for them if so configured.
func (p *probes) ask(ctx context.Context) {
	v := p.service.snapshot.Load()
	if v == nil || len(v.hosts) == 0 {
		return
	}
	rng := p.service.rng
	n := int(p.rate)
	if rng.Float64() < p.rate-float64(n) {
		n++
	}
	now := p.service.clock.now()
	var buffer sample.Buffer
	ended, begun := make(chan struct{}, mostProbes), 0
	for _, i := range sample.Distinct(rng, len(v.hosts), n, &buffer) {
		if h := v.hosts[i]; h.probing.begin(now) {
			begun++
			p.service.tasks.start(func() {
				defer func() { ended <- struct{}{} }()
				p.probe(h)
			})
		}
	}
	if begun == 0 || p.wait == 0 {
		return
	}
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	for range begun {
		select {
		case <-ended:
		case <-ctx.Done():
			return
		case <-p.service.done: // probes may not even begin now
			return
		case <-timer.C:
			return
		}
	}
}

// probe asks one host.
func (p *probes) probe(h *host) {
	defer func() {
		if v := recover(); v != nil {
			_ = recovered(h.log, "Prober.Probe", v)
		}
		h.probing.end(h.clock.now())
	}()
	ctx, cancel := context.WithTimeout(h.ctx, probeTimeout)
	defer cancel()
	if l, err := p.prober.Probe(ctx, h.address); err == nil && l.validate() == nil {
		h.reported(l)
	}
}
