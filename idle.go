package pooly

import (
	"fmt"
	"iter"
)

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

// all yields the connections, the most recently used first.
func (s *idleStack) all() iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for c := s.top; c != nil && yield(c); c = c.below {
		}
	}
}

// bottom returns the connection that has been idle longest, nil if there is none.
func (s *idleStack) bottom() (coldest *conn) {
	for c := range s.all() {
		coldest = c
	}
	return coldest
}

// remove removes a connection that is in the stack.
func (s *idleStack) remove(c *conn) {
	s.filter(func(other *conn) bool { return other != c })
}

// validateIdle is the part of Validate about how many idle connections there are.
func (c *PoolConfig) validateIdle() error {
	switch {
	case c.MinIdle < 0:
		return negative("MinIdle", c.MinIdle)
	case c.MaxIdle < 0:
		return negative("MaxIdle", c.MaxIdle)
	case c.MaxConns > 0 && c.MinIdle > c.MaxConns:
		return fmt.Errorf("%w: MinIdle %d is more than MaxConns %d", ErrInvalidArg, c.MinIdle, c.MaxConns)
	case c.MaxIdle > 0 && c.MinIdle > c.MaxIdle:
		return fmt.Errorf("%w: MinIdle %d is more than MaxIdle %d", ErrInvalidArg, c.MinIdle, c.MaxIdle)
	}
	return nil
}
