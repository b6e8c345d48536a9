// Package rendezvous chooses which of many addresses one client uses, by rendezvous hashing.
package rendezvous

import (
	"cmp"
	"slices"
	"strings"
)

// Subset says which of the registered addresses are in use: the ones that rank first. An address
// ranks by a hash of itself and of the client's seed.
//
// That is rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Trans. Networking 6(1), 1998). With
// a random seed per client it is gRPC's random_subsetting (proposal A68): an address that comes or
// goes changes at most one place of a client's subset, and the clients per address follow a
// binomial distribution. Deterministic subsetting (Site Reliability Engineering, 2016, chapter 20)
// would spread them evenly. But it has to number the clients, and it changes most subsets when
// addresses come or go.
//
// The same seed and addresses lead to the same subset, in any process and in any order of Add.
//
// A Subset is not safe for concurrent use.
type Subset struct {
	max    int // how many addresses are in use, unless Widen raised it
	size   int // how many may be in use now: from max to widest·max
	seed   uint64
	ranked []ranked // all registered addresses by rank; the first size of them are in use
}

// widest bounds Widen, as a multiple of max. Two doublings reach it.
const widest = 4

type ranked struct {
	rank    uint64
	address string
}

// New returns a Subset without addresses, of which at most max will be in use. max must be
// positive.
func New(max int, seed uint64) *Subset {
	return &Subset{max: max, size: max, seed: mix(seed)}
}

// Len returns the number of registered addresses.
func (s *Subset) Len() int {
	return len(s.ranked)
}

// Has reports whether an address is registered.
func (s *Subset) Has(address string) bool {
	_, _, known := s.find(address)
	return known
}

// InUse returns the addresses in use, best rank first.
func (s *Subset) InUse() []string {
	return s.first(s.size)
}

// First returns the addresses that are in use when the subset is not widened, best rank first.
func (s *Subset) First() []string {
	return s.first(s.max)
}

// Add registers an address, which must not be registered yet. It returns the address that comes
// into use and the one that goes out of use for it; nil stands for none.
func (s *Subset) Add(address string) (in, out *string) {
	r, i, _ := s.find(address)
	s.ranked = slices.Insert(s.ranked, i, r)
	if i >= s.size {
		return nil, nil
	}
	return &address, s.at(s.size)
}

// Remove forgets an address, which must be registered. It returns the address that goes out of use
// and the one that comes into use for it; nil stands for none.
func (s *Subset) Remove(address string) (out, in *string) {
	_, i, _ := s.find(address)
	s.ranked = slices.Delete(s.ranked, i, i+1)
	if i >= s.size {
		return nil, nil
	}
	return &address, s.at(s.size - 1)
}

// Set registers the given addresses and no others, and returns the ones in use. Duplicates count
// once.
func (s *Subset) Set(addresses []string) (inUse []string) {
	s.ranked = make([]ranked, 0, len(addresses))
	for _, a := range addresses {
		s.ranked = append(s.ranked, s.rank(a))
	}
	slices.SortFunc(s.ranked, ranked.compare)
	s.ranked = slices.Compact(s.ranked)
	return s.InUse()
}

// Widen doubles how many addresses may be in use. It reports false, and does nothing, if all of
// them are in use, or four times max.
func (s *Subset) Widen() bool {
	if s.size >= len(s.ranked) || s.size >= widest*s.max {
		return false
	}
	s.size = min(2*s.size, widest*s.max)
	return true
}

// Widened reports whether more addresses than max may be in use.
func (s *Subset) Widened() bool {
	return s.size > s.max
}

// Narrow undoes Widen.
func (s *Subset) Narrow() {
	s.size = s.max
}

func (s *Subset) first(n int) []string {
	var addresses []string
	for _, r := range s.ranked[:min(n, len(s.ranked))] {
		addresses = append(addresses, r.address)
	}
	return addresses
}

// at returns the address in place i, nil if there is none.
func (s *Subset) at(i int) *string {
	if i >= len(s.ranked) {
		return nil
	}
	address := s.ranked[i].address
	return &address
}

// find returns the rank of an address and its place in s.ranked, or where it would be inserted.
func (s *Subset) find(address string) (r ranked, i int, known bool) {
	r = s.rank(address)
	i, known = slices.BinarySearchFunc(s.ranked, r, ranked.compare)
	return r, i, known
}

// rank hashes an address with FNV-1a and mixes in the seed. The finalizer makes up for what FNV
// lacks in avalanche.
func (s *Subset) rank(address string) ranked {
	h := uint64(14695981039346656037)
	for i := range len(address) {
		h = (h ^ uint64(address[i])) * 1099511628211
	}
	return ranked{mix(mix(h) ^ s.seed), address}
}

// compare orders by rank, and by address if two hashes are equal.
func (r ranked) compare(other ranked) int {
	return cmp.Or(cmp.Compare(r.rank, other.rank), strings.Compare(r.address, other.address))
}

// mix is the finalizer of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
// Generators, OOPSLA 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
