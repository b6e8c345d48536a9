package pooly

import (
	"context"
	"errors"
	"slices"
)

// morePicks is how many more hosts a call asks the strategy for, so that calls that find a full
// host follow the scores too.
const morePicks = 2

// acquire leases a connection for a call whose first pick has no idle connection. first is that
// host; nil: none was picked. full says that first has no room for a dial either.
//
// The call asks a few more hosts that the strategy picks, each for an idle connection or a dial.
// Then it waits in the queue, and the first pool that has something serves it. It does not use the
// pools to avoid while another pool has something within FallbackDelay.
func (s *Service) acquire(
	ctx context.Context, whole bool, first *host, full bool, avoid []*line,
) (*Conn, error) {
	c := &call{group: s.group, ctx: ctx, whole: whole, avoid: avoid}
	lease, err := c.run(func(w *waiter) (lease *Conn, waits bool, err error) {
		v := s.current(ctx)
		if v == nil {
			return nil, false, nil
		}
		if v.err != nil {
			return nil, false, v.err
		}
		asked := [1 + morePicks]*host{first}
		first = nil // if the call comes back, the strategy picks again
		for i := range min(len(asked), len(v.hosts)) {
			skip := full && i == 0 && asked[0] != nil
			if asked[i] == nil {
				if asked[i], err = v.pick(s); err != nil {
					return nil, false, err
				}
			}
			h := asked[i]
			if skip || slices.Contains(asked[:i], h) || slices.Contains(avoid, &h.line) {
				continue
			}
			if lease, waits = h.admit(w); lease != nil || waits {
				return lease, waits, nil
			}
		}
		if s.size.Load() == 0 {
			err = ErrNoHostAvailable
		}
		return nil, false, err
	})
	shed := errors.Is(err, ErrOverloaded)
	if err != nil {
		s.getFailures.Add(1)
		err = s.explain(err)
	}
	s.callEnded(c, lease, shed, err)
	return lease, err
}
