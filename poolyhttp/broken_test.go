package poolyhttp_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// dropper is a host that answers /warm once so many requests for it have come, and drops the
// connection of any other request when told to.
type dropper struct {
	address string
	warm    sync.WaitGroup
	held    chan struct{} // gets one for each other request
	drop    chan struct{} // drops one
}

func newDropper(t *testing.T, conns int) *dropper {
	d := &dropper{held: make(chan struct{}, conns), drop: make(chan struct{}, conns)}
	d.warm.Add(conns)
	d.address = listen(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if req.URL.Path != "/warm" {
				d.held <- struct{}{}
				<-d.drop
				return
			}
			d.warm.Done()
			d.warm.Wait()
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	return d
}

// concurrently sends requests at once, which must succeed.
func concurrently(t *testing.T, n int, client *http.Client, url string, meanwhile func()) {
	t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if status, _, err := fetch(client, "GET", url, nil); err != nil || status != 200 {
				t.Errorf("%s: %d, %v", url, status, err)
			}
		})
	}
	meanwhile()
	wg.Wait()
}

const fives = 5 // connections, and ConsecutiveFailures

func droppingService(t *testing.T) (*dropper, *http.Client, *pooly.Service) {
	t.Helper()
	d, good := newDropper(t, fives), webServer(t, func(http.ResponseWriter, *http.Request) {})
	config := pooly.ServiceConfig{
		ConsecutiveFailures: fives,
		PrespawnConns:       1,
		BanditStrategy:      inOrder{d.address},
	}
	client, s := webService(t, http1(), config, d.address)
	concurrently(t, fives, client, "http://x/warm", func() {})
	s.Add(good)
	eventually(t, func() bool { return hostStats(t, s, good).Open > 0 })
	return d, client, s
}

// A server that ends in good order closes all of its kept connections at once, some of them under
// requests.
func TestHTTPDoesNotEjectAHostWhoseKeptConnectionsBreakTogether(t *testing.T) {
	d, client, s := droppingService(t)
	concurrently(t, fives, client, "http://x/", func() {
		for range fives {
			<-d.held
		}
		close(d.drop)
	})
	require.Zero(t, ejections(s))
}

func TestHTTPEjectsAHostWhoseKeptConnectionsBreakOneAfterTheOther(t *testing.T) {
	d, client, s := droppingService(t)
	for range fives {
		concurrently(t, 1, client, "http://x/", func() {
			<-d.held
			d.drop <- struct{}{}
		})
	}
	require.True(t, hostStats(t, s, d.address).Ejected)
}
