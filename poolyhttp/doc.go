// Package poolyhttp balances HTTP requests over the hosts of a pooly.Service: each request, over
// HTTP/1 and HTTP/2.
//
//	s := pooly.NewService("api", &pooly.ServiceConfig{
//		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
//	})
//	s.SetHosts("10.0.0.1:8080", "10.0.0.2:8080")
//	client := &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: time.Second}
//	resp, err := client.Get("http://api/path")
//
// Everything else is as with http.Transport. docs/GUIDE.md in the repository tells what differs.
package poolyhttp
