package poolytest

import (
	"fmt"

	"github.com/3XX0/pooly"
)

// TB is what NoLeases and NoConns need of a *testing.T.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// NoLeases fails a test if leases of a service are out, and names their hosts. Call it at the end
// of a test, before you close the service: Close ends leases.
//
// A connection of DialContext is a lease until it is closed.
func NoLeases(t TB, s *pooly.Service) {
	t.Helper()
	stats := s.Stats()
	if stats.InUse == 0 {
		return
	}
	by := ""
	removed := stats.InUse
	for _, h := range stats.Hosts {
		if h.InUse > 0 {
			by += fmt.Sprintf(", %d of %s", h.InUse, h.Address)
			removed -= h.InUse
		}
	}
	if removed > 0 {
		by += fmt.Sprintf(", %d of removed hosts", removed)
	}
	t.Errorf("service %s: %d leases are out%s", s.Name(), stats.InUse, by)
}

// NoConns fails a test if connections of a network are open on the side that dialled them, and
// names their hosts. Call it after the service is closed. It finds drivers whose Close forgets a
// connection, or whose Dial fails after it has connected.
func NoConns(t TB, n *Net) {
	t.Helper()
	for _, address := range n.addresses() {
		if open := n.Open(address); open > 0 {
			t.Errorf("%d connections to %s are open", open, address)
		}
	}
}
