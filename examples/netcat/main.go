// Netcat pings the hosts of a service, each through a connection of its own pool.
//
// Without arguments it starts two small TCP servers itself:
//
//	go run ./examples/netcat
//
// Given addresses, it pings what listens there, such as two servers started with nc -l -p 1234 and
// nc -l -p 12345:
//
//	go run ./examples/netcat 127.0.0.1:1234 127.0.0.1:12345
//
// A host that is down is reported, and its pings go to the others. If all are, the program says why for each
// and exits with status 1.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"text/tabwriter"

	"github.com/3XX0/pooly"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(addresses []string) error {
	if len(addresses) == 0 {
		servers, err := startServers(2)
		if err != nil {
			return err
		}
		for _, l := range servers {
			defer func() { _ = l.Close() }()
			addresses = append(addresses, l.Addr().String())
		}
	}
	s := pooly.NewService("netcat", nil) // NetDriver over tcp, round-robin
	for _, address := range addresses {
		s.Add(address)
	}
	err := pingAll(s, 2*len(addresses))
	report(s.Stats())
	return errors.Join(err, s.Close())
}

// pingAll pings n times. Round-robin takes the hosts in turn.
func pingAll(s *pooly.Service, n int) error {
	for i := range n {
		address, err := ping(s)
		if err != nil {
			return err
		}
		fmt.Printf("ping %d went to %s\n", i+1, address)
	}
	return nil
}

func ping(s *pooly.Service) (address string, err error) {
	c, err := s.GetConn()
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Release(&err, pooly.HostUp) }()

	_, err = c.NetConn().Write([]byte("ping\n"))
	return c.Address(), err
}

// report prints what the service knows of its hosts.
func report(stats pooly.ServiceStats) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nhost\tpings\tconnections\tdials\tfailed\tscore")
	for _, h := range stats.Hosts {
		_, _ = fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%.2f\n", h.Address, h.Puts, h.Open, h.Dials, h.Failures, h.Score)
	}
	_ = w.Flush()
	for _, h := range stats.Hosts {
		if h.Ejected {
			fmt.Printf("%s is down: %v\n", h.Address, h.Cause)
		}
	}
}

// startServers starts n servers that read whatever they are sent.
func startServers(n int) ([]net.Listener, error) {
	var servers []net.Listener
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		servers = append(servers, l)
		go serve(l)
	}
	return servers, nil
}

func serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			defer func() { _ = c.Close() }()
			buf := make([]byte, 512)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}()
	}
}
