package standin

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// Memcached starts a server that knows get and set of the text protocol, and forgets nothing.
func Memcached() *Server {
	var items sync.Map // of strings to byte slices
	return serve(func(c net.Conn, _ string) {
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			var key string
			var flags, expiry, size int
			switch {
			case strings.HasPrefix(line, "get "):
				_, _ = fmt.Sscanf(line, "get %s", &key)
				if value, ok := items.Load(key); ok {
					_, _ = fmt.Fprintf(c, "VALUE %s 0 %d\r\n%s\r\n", key, len(value.([]byte)), value)
				}
				_, _ = fmt.Fprint(c, "END\r\n")
			case strings.HasPrefix(line, "set "):
				_, _ = fmt.Sscanf(line, "set %s %d %d %d", &key, &flags, &expiry, &size)
				value := make([]byte, size+len("\r\n"))
				if _, err := io.ReadFull(r, value); err != nil {
					return
				}
				items.Store(key, value[:size])
				_, _ = fmt.Fprint(c, "STORED\r\n")
			default:
				_, _ = fmt.Fprint(c, "ERROR\r\n")
			}
		}
	})
}
