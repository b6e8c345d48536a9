//go:build unix && !aix && !solaris && !illumos

package pooly

import "syscall"

const errWouldBlock = syscall.EAGAIN

// peek looks at the next byte of a socket without consuming it or waiting for it.
func peek(fd uintptr, b []byte) (n int, err error) {
	for {
		n, _, err = syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		if err != syscall.EINTR {
			return n, err
		}
	}
}
