package pooly

import (
	"fmt"
	"slices"
)

// How an operator changes a service that is in use.

// Evict closes the idle connections of a host in the background, and leased ones when they are
// released. The host stays up, and it is not blamed. Connections are dialled anew when callers need
// them, first one at a time, then more and more. Evict does not wait.
//
// Use it if connections must not be kept: after new credentials, or after a change behind the
// address. A driver whose connections share a client or socket makes a new one (see IsProbe).
// Outdated reports true for connections of DialContext, so that clients replace them.
//
// Its error wraps ErrInvalidArg if the address is not registered, and ErrPoolClosed after Close.
func (s *Service) Evict(address string) error {
	s.mu.Lock()
	err := s.knownLocked("Evict", address)
	h := s.hosts[address]
	s.mu.Unlock()
	if h != nil { // else the host is drained, or beyond MaxHosts
		h.Evict()
	}
	return err
}

// Resize changes MaxConns of every host, also of hosts that are added later. If it grows, callers
// that wait are served at once. If it shrinks, the connections above it are closed: idle ones in the
// background, leased ones when they are released. Resize does not wait.
//
// It bounds connections of DialContext only if the configuration has set MaxConns. Connections of
// DialContext above the new limit stay until their client closes them.
//
// Its error wraps ErrInvalidArg if maxConns is less than 1, and ErrPoolClosed after Close.
func (s *Service) Resize(maxConns int) error {
	s.mu.Lock()
	defer s.mu.Unlock() // so that each host has what the last call says
	switch {
	case s.closed:
		return named("service", s.name, ErrPoolClosed)
	case maxConns < 1:
		return named("service", s.name, belowOne(maxConns))
	}
	former := int(s.maxConns.Swap(int32(min(maxConns, mostConns))))
	for _, h := range s.order {
		h.resized(former)
	}
	return nil
}

// Drain takes a host out of use, and keeps it registered. When it returns, the host gets no more
// leases, dials or probes, and the strategy cannot pick it. Idle connections are closed in the
// background, leased ones when they are released: none is left once its HostStats.Open is 0.
// Outdated reports true for connections of DialContext.
//
// The host stays drained until Resume or Remove, whatever SetHosts, Follow and Add say. With
// MaxHosts, another host takes its place. If all hosts are drained, GetConn fails at once. Drain of
// a drained host does nothing.
//
// Its error wraps ErrInvalidArg if the address is not registered, and ErrPoolClosed after Close.
func (s *Service) Drain(address string) error {
	c := s.newChange()
	s.mu.Lock()
	err := s.knownLocked("Drain", address)
	if _, drained := s.drained[address]; err == nil && !drained {
		c.dropLocked(address)
		s.drained[address] = true
		c.commitLocked()
	}
	s.mu.Unlock()
	c.settle()
	return err
}

// Resume undoes Drain. The host is in use as if it were just added: its scores begin anew, since it
// may have changed. Resume of a host that is not drained does nothing.
//
// Its error wraps ErrInvalidArg if the address is neither registered nor drained, and ErrPoolClosed
// after Close.
func (s *Service) Resume(address string) error {
	c := s.newChange()
	s.mu.Lock()
	registered, drained := s.drained[address]
	delete(s.drained, address)
	var err error
	switch {
	case !drained:
		err = s.knownLocked("Resume", address)
	case registered:
		c.enterLocked(address)
		c.commitLocked()
	}
	s.mu.Unlock()
	c.settle()
	return err
}

// withoutDrainedLocked returns the addresses to register, without the drained hosts. It notes which
// drained hosts are registered.
func (s *Service) withoutDrainedLocked(addresses []string) []string {
	if len(s.drained) == 0 {
		return addresses
	}
	for address := range s.drained {
		s.drained[address] = false
	}
	return slices.DeleteFunc(slices.Clone(addresses), func(address string) bool {
		_, drained := s.drained[address]
		if drained {
			s.drained[address] = true
		}
		return drained
	})
}

// drainingLocked returns the figures of the drained hosts that are registered.
func (s *Service) drainingLocked() (stats []HostStats) {
	for address, registered := range s.drained {
		if !registered {
			continue
		}
		host := HostStats{Address: address, Draining: true}
		for h := range s.draining {
			if h.address == address {
				h.mu.Lock()
				host.PoolStats.add(h.statsLocked())
				h.mu.Unlock()
			}
		}
		stats = append(stats, host)
	}
	return stats
}

// knownLocked returns an error unless an address is registered.
func (s *Service) knownLocked(method, address string) error {
	switch {
	case s.closed:
		return named("service", s.name, ErrPoolClosed)
	case !s.registeredLocked(address):
		return fmt.Errorf("%w: service %s: %s: no host has the address %s",
			ErrInvalidArg, s.name, method, quoteAddress(address))
	}
	return nil
}
