package main

import "github.com/3XX0/pooly/examples/clients/internal/standin"

func init() {
	pretend = func() (addresses []string, stopOne, stopAll func()) {
		servers, addresses := standin.Start(nil, standin.Postgres)
		return addresses, servers.StopOne, servers.StopAll
	}
}
