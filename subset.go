package pooly

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
)

// subset says which of a service's hosts are in use where MaxHosts is set: those that rank first. An address ranks by a
// hash of itself and the client's seed. That is rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Trans. Networking
// 6(1), 1998), and with a random seed per client gRPC's random_subsetting (proposal A68): a host that comes or goes
// changes at most one place of a client's subset, and the connections per host follow a binomial distribution.
// Deterministic subsetting (Site Reliability Engineering, 2016, chapter 20) would spread them evenly, but has to number
// the clients, and changes most subsets when hosts come or go.
//
// If all that are in use are ejected, as many again come into use, up to widest times MaxHosts, so that the client is
// not cut off while its subset is. When half of the first MaxHosts are up again, the others leave. The limit is for the
// case in which everything is down: otherwise each client would probe each host, which is what MaxHosts is against.
//
// It is guarded by the service's lock.
type subset struct {
	max    int // MaxHosts
	size   int // how many hosts may be in use: max, or more while those were ejected
	seed   uint64
	ranked []ranked // all that are registered; the first size of them are in use
}

// widest is how many times MaxHosts may be in use. Two doublings reach it.
const widest = 4

type ranked struct {
	rank    uint64
	address string
}

// newSubset returns nil, which means all hosts, if max is 0.
func newSubset(max int, seed uint64) *subset {
	if max == 0 {
		return nil
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	return &subset{max: max, size: max, seed: mix(seed)}
}

// rank returns the place of an address among all strings: FNV-1a, and the finalizer of SplitMix64 for what FNV lacks
// in avalanche.
func (s *subset) rank(address string) ranked {
	h := uint64(14695981039346656037)
	for i := range len(address) {
		h = (h ^ uint64(address[i])) * 1099511628211
	}
	return ranked{mix(mix(h) ^ s.seed), address}
}

func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (r ranked) compare(other ranked) int {
	return cmp.Or(cmp.Compare(r.rank, other.rank), strings.Compare(r.address, other.address))
}

func (s *subset) find(address string) (r ranked, i int, known bool) {
	r = s.rank(address)
	i, known = slices.BinarySearchFunc(s.ranked, r, ranked.compare)
	return r, i, known
}

func (s *subset) has(address string) bool {
	_, _, known := s.find(address)
	return known
}

// add registers an address that is not. It returns which comes into use and which goes out for it, nil for none.
func (s *subset) add(address string) (in, out *string) {
	r, i, _ := s.find(address)
	s.ranked = slices.Insert(s.ranked, i, r)
	if i >= s.size {
		return nil, nil
	}
	if len(s.ranked) > s.size {
		out = &s.ranked[s.size].address
	}
	return &address, out
}

// remove forgets an address that is registered.
func (s *subset) remove(address string) (out, in *string) {
	_, i, _ := s.find(address)
	s.ranked = slices.Delete(s.ranked, i, i+1)
	if i >= s.size {
		return nil, nil
	}
	if len(s.ranked) >= s.size {
		in = &s.ranked[s.size-1].address
	}
	return &address, in
}

// set registers the given addresses and no others, and returns those in use.
func (s *subset) set(addresses []string) []string {
	s.ranked = make([]ranked, 0, len(addresses))
	for _, a := range addresses {
		s.ranked = append(s.ranked, s.rank(a))
	}
	slices.SortFunc(s.ranked, ranked.compare)
	s.ranked = slices.Compact(s.ranked)
	return s.inUse()
}

func (s *subset) inUse() []string {
	var in []string
	for _, r := range s.ranked[:min(s.size, len(s.ranked))] {
		in = append(in, r.address)
	}
	return in
}

// widen brings more hosts into use if all that are so have been ejected. It reports whether the caller, whose view is
// of the given generation, should look again.
func (s *Service) widen(generation uint64) bool {
	if s.config.MaxHosts == 0 {
		return false
	}
	c := s.newChange()
	s.mu.Lock()
	if s.available.Load() > 0 {
		s.mu.Unlock()
		return s.generation.Load() != generation
	}
	sub := s.subset
	if s.closed || sub.size >= len(sub.ranked) || sub.size >= widest*sub.max {
		s.mu.Unlock()
		return false
	}
	sub.size = min(2*sub.size, widest*sub.max)
	c.setLocked(sub.inUse())
	c.commitLocked()
	s.mu.Unlock()
	s.log.Warn("pooly: all hosts of the subset are ejected, using more", "service", s.name, "hosts", len(c.joined))
	c.settle()
	return true
}

// narrow undoes widen once half of the first MaxHosts are up.
func (s *Service) narrow() {
	if s.config.MaxHosts == 0 {
		return
	}
	c := s.newChange()
	s.mu.Lock()
	sub := s.subset
	if s.closed || sub.size == sub.max {
		s.mu.Unlock()
		return
	}
	first := sub.ranked[:min(sub.max, len(sub.ranked))]
	up := 0
	for _, r := range first {
		if h := s.hosts[r.address]; h.up() {
			up++
		}
	}
	if 2*up >= len(first) {
		sub.size = sub.max
		c.setLocked(sub.inUse())
		c.commitLocked()
	}
	s.mu.Unlock()
	c.settle()
}

// up reports whether the host is not ejected.
func (h *host) up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.health != ejected
}
