package pooly

import "time"

// LatencyScore rates how long something took, compared with what is usual among the hosts. It needs
// no target: it is pooly.LatencyScore whose target is the median, over the hosts, of the peak EWMA
// of their lease times (see Arm.Latency). So a usual lease of a usual host rates 0.5 or more, and
// faster hosts rate higher than slower ones, whether a request takes a microsecond or a minute.
//
//	began := time.Now()
//	err = ask(c)
//	c.Release(err, s.LatencyScore(time.Since(began)))
//
// If all hosts become slower alike, all rate as before after some leases. It is 0.5 until some
// lease times are known. Rate failures HostDown: a host that fails at once must not look fast. A
// failed lease counts as a usual one at least, so failing hosts do not shift what is usual.
//
// The first call makes the service time its leases, as Arm.Latency does. It may be called
// concurrently.
func (s *Service) LatencyScore(elapsed time.Duration) float64 {
	s.startTiming()
	usual := time.Duration(s.usualLatency.Load())
	if usual == 0 {
		return (HostDown + HostUp) / 2
	}
	return LatencyScore(elapsed, usual)
}
