package bench

import (
	"net"
	"time"

	"github.com/bitly/go-hostpool"
)

// The code with go-hostpool in docs/GUIDE.md, so that it compiles; docs/guide_test.go sees that it
// is the same.

var request func(net.Conn) error

func beforeHostpool() {
	hp := hostpool.NewEpsilonGreedy([]string{"a:6379", "b:6379"}, 0, &hostpool.LinearEpsilonValueCalculator{})

	r := hp.Get()
	conn, err := net.DialTimeout("tcp", r.Host(), time.Second) // or from a pool of your own per host
	if err == nil {
		err = request(conn)
		conn.Close()
	}
	r.Mark(err) // times the request, too
}

var _ = beforeHostpool
