// Package poolyhttp sends HTTP requests to the hosts of a pooly.Service. The service's strategy
// picks a host for each request, over HTTP/1 and HTTP/2.
//
//	s := pooly.NewService("api", &pooly.ServiceConfig{
//		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver("http", nil)},
//	})
//	s.SetHosts("10.0.0.1:8080", "10.0.0.2:8080")
//	client := &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: time.Second}
//	resp, err := client.Get("http://api/path")
//
// Otherwise a Transport works like an http.Transport. docs/GUIDE.md in the repository lists the
// differences.
package poolyhttp
