//go:build !yield

package pooly

import "sync"

// mutex is the lock of what callers share. With the build tag yield it gives way to other
// goroutines, see lock_yield.go.
type mutex = sync.Mutex
