package poolyhttp_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// closeCounter counts how often a body is closed.
type closeCounter struct {
	io.Reader
	closed int
}

func (c *closeCounter) Close() error {
	c.closed++
	return nil
}

func TestAMalformedRequestIsRefusedWithoutAConnectionInNetHTTPsWords(t *testing.T) {
	address := webServer(t, func(http.ResponseWriter, *http.Request) {})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	peer := &http.Transport{}
	defer peer.CloseIdleConnections()
	send := func(rt http.RoundTripper, host string, spoil func(*http.Request)) (*closeCounter, error) {
		body := &closeCounter{Reader: strings.NewReader("abc")}
		req, err := http.NewRequest("POST", "http://"+host+"/", body)
		require.NoError(t, err)
		spoil(req)
		resp, err := rt.RoundTrip(req)
		if err == nil {
			require.NoError(t, resp.Body.Close())
		}
		return body, err
	}
	all := make(map[string]func(*http.Request))
	for c := range 256 {
		b := string([]byte{byte(c)})
		all["method "+b] = func(r *http.Request) { r.Method = "A" + b }
		all["name "+b] = func(r *http.Request) { r.Header["A"+b] = []string{"c"} }
		all["value "+b] = func(r *http.Request) { r.Header["A"] = []string{"ok", "c" + b} }
		all["trailer "+b] = func(r *http.Request) { r.Trailer = http.Header{"A" + b: nil} }
		all["trailer's value "+b] = func(r *http.Request) { r.Trailer = http.Header{"A": {b}} }
	}
	all["empty name"] = func(r *http.Request) { r.Header[""] = []string{"c"} }
	refused := 0
	for name, spoil := range all {
		_, want := send(peer, address, spoil)
		if want == nil {
			continue // the other tests send such requests
		}
		refused++
		body, err := send(client.Transport, "web", spoil)
		require.EqualError(t, err, want.Error(), "%q", name)
		require.Equal(t, 1, body.closed, "%q", name)
	}
	require.Greater(t, refused, 300)
	require.Zero(t, s.Stats().Open)
}
