package pooly

// idleStack holds the idle connections of a pool. They are linked through themselves, because an
// array of pointers would cost one more cache miss per lease. It is guarded by the pool's lock.
type idleStack struct {
	top    *conn
	length int
}

func (s *idleStack) push(c *conn) {
	c.below = s.top
	s.top = c
	s.length++
}

// pop removes and returns the connection on top. The stack must not be empty.
func (s *idleStack) pop() *conn {
	c := s.top
	s.top = c.below
	c.below = nil
	s.length--
	return c
}

// filter keeps the connections for which keep holds, in their order.
func (s *idleStack) filter(keep func(*conn) bool) {
	for link := &s.top; *link != nil; {
		c := *link
		if keep(c) {
			link = &c.below
			continue
		}
		*link = c.below
		c.below = nil
		s.length--
	}
}

// drain removes and returns all connections.
func (s *idleStack) drain() (all []*conn) {
	for s.top != nil {
		all = append(all, s.pop())
	}
	return all
}

// pushBottom puts a connection at the bottom.
func (s *idleStack) pushBottom(c *conn) {
	link := &s.top
	for *link != nil {
		link = &(*link).below
	}
	*link = c
	c.below = nil
	s.length++
}
