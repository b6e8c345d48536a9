package pooly

import (
	"time"
)

// tasks are a service's background goroutines that call the strategy and the calculator. None
// begins after stop. The zero value is ready for use.
type tasks struct {
	mu      mutex // guards the fields below; nothing is locked under it
	running int
	stopped bool
	idle    chan struct{} // made by stop if tasks run; closed when the last ends
}

// start runs f in a goroutine.
func (t *tasks) start(f func()) {
	go t.run(f)
}

// run runs f, unless the tasks are stopped.
func (t *tasks) run(f func()) {
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return
	}
	t.running++
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.running--; t.running == 0 && t.idle != nil {
			close(t.idle)
		}
	}()
	f()
}

// stop lets no more tasks begin, and waits for those that run. It waits at most closeGrace, because
// a plug-in may hang.
func (t *tasks) stop() {
	t.mu.Lock()
	t.stopped = true
	if t.running == 0 {
		t.mu.Unlock()
		return
	}
	t.idle = make(chan struct{})
	t.mu.Unlock()
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-t.idle:
	case <-timer.C:
	}
}
