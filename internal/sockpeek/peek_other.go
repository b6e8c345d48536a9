//go:build !unix || aix || solaris || illumos

package sockpeek

import "errors"

var errWouldBlock = errors.New("this system cannot look at a socket without waiting")

// peek knows nothing of the socket, which therefore passes for alive.
func peek(uintptr, []byte) (int, error) {
	return 0, errWouldBlock
}
