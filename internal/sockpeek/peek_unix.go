//go:build unix && !aix && !solaris && !illumos

package sockpeek

import "syscall"

const errWouldBlock = syscall.EAGAIN

// peek looks at the next byte of a socket without consuming it or waiting for it. A descriptor
// that cannot be looked at passes for a socket with nothing to read.
func peek(fd uintptr, b []byte) (n int, err error) {
	for {
		n, _, err = syscall.Recvfrom(int(fd), b, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.ENOTSOCK, syscall.EOPNOTSUPP:
			return 0, errWouldBlock
		}
		return n, err
	}
}
