package dns_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/dns"
)

// The service has the hosts behind a name, and those that take their place within ten seconds.
func ExampleNewHost() {
	s := pooly.NewService("cache", nil)
	defer func() { _ = s.Close() }()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	caches := dns.NewHost("cache.internal:11211", &dns.Config{Interval: 10 * time.Second})
	if err := s.Follow(ctx, caches); err != nil {
		log.Print("no hosts yet: ", err)
	}

	err := s.Do(context.Background(), func(c *pooly.Conn) error {
		_, err := fmt.Fprint(c.NetConn(), "version\r\n")
		return err
	})
	fmt.Println(err)
}
