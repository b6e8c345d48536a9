package main

import (
	"sync"
	"time"
)

// meter measures an amount per second, over the last second or so.
type meter struct {
	mu        sync.Mutex
	began     time.Time
	now, last float64 // of the current second, and of the one before
}

func (m *meter) add(amount float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	m.now += amount
}

// perSecond returns 0 in the first second.
func (m *meter) perSecond() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn()
	return m.last
}

func (m *meter) turn() {
	switch age := time.Since(m.began); {
	case age >= 2*time.Second:
		m.began, m.now, m.last = time.Now(), 0, 0
	case age >= time.Second:
		m.began, m.now, m.last = m.began.Add(time.Second), 0, m.now
	}
}
