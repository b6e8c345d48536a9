package poolyhttp_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
)

func TestASecretForHTTPSIsNotSentInTheClear(t *testing.T) {
	var requests atomic.Int32
	address := webServer(t, func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	for _, scheme := range []string{"https", "ftp", ""} {
		body := new(closeSpy)
		req, err := http.NewRequest("POST", "http://web/", body)
		require.NoError(t, err)
		req.URL.Scheme = scheme
		req.SetBasicAuth("user", "secret")
		_, err = client.Transport.RoundTrip(req)
		require.ErrorIs(t, err, poolyhttp.ErrScheme)
		require.ErrorContains(t, err, `service web speaks http, and the URL says "`+scheme+`"`)
		require.True(t, body.closed)
	}
	require.Zero(t, s.Stats().Dials)
	require.Zero(t, requests.Load())
}

func TestARedirectToAnotherSiteDoesNotReachTheHosts(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("elsewhere"))
	}))
	t.Cleanup(elsewhere.Close)
	var requests atomic.Int32
	address := webServer(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		http.Redirect(w, r, elsewhere.URL, http.StatusFound)
	})
	client, s := webService(t, http1(), pooly.ServiceConfig{}, address)
	_, _, err := fetch(client, "GET", "http://web/", nil)
	require.ErrorIs(t, err, poolyhttp.ErrForeignHost)
	require.EqualValues(t, 1, requests.Load())

	fallback := &http.Transport{}
	client.Transport = poolyhttp.NewTransport(s, &poolyhttp.Options{Fallback: fallback})
	_, body, err := fetch(client, "GET", "http://web/", nil)
	require.NoError(t, err)
	require.Equal(t, "elsewhere", body)
	require.EqualValues(t, 2, requests.Load())
	client.CloseIdleConnections() // of the fallback too, or a goroutine is left
}

func TestWhichURLsBelongToAService(t *testing.T) {
	for _, tt := range []struct {
		scheme, host string
		ours         bool
	}{
		{"http", "web", true},
		{"http", "WEB", true},
		{"http", "web:80", true},
		{"http", "web:8080", false},
		{"https", "web:443", true},
		{"https", "web:80", false},
		{"http", "10.0.0.1:8080", true},
		{"http", "10.0.0.1", false},
		{"http", "10.0.0.2", true},
		{"http", "10.0.0.2:80", true},
		{"http", "[::1]:8080", true},
		{"http", "api.example.com", true},
		{"http", "Api.Example.com:80", true},
		{"http", "evil.example.com", false},
		{"http", "other.example.com:81", true},
		{"http", "other.example.com", false},
	} {
		t.Run(tt.scheme+" "+tt.host, func(t *testing.T) {
			s := pooly.NewService("web", &pooly.ServiceConfig{
				PoolConfig:    pooly.PoolConfig{Driver: poolyhttp.NewDriver(tt.scheme, nil)},
				PrespawnConns: -1,
			})
			s.SetHosts("10.0.0.1:8080", "10.0.0.2:80", "[::1]:8080")
			transport := poolyhttp.NewTransport(s, &poolyhttp.Options{
				Hosts: []string{"api.example.com", "other.example.com:81"},
			})
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // so that nothing is dialled
			req, err := http.NewRequestWithContext(ctx, "GET", tt.scheme+"://web/", nil)
			require.NoError(t, err)
			req.URL.Host = tt.host
			_, err = transport.RoundTrip(req)
			if tt.ours {
				require.Equal(t, context.Canceled, err)
			} else {
				require.ErrorIs(t, err, poolyhttp.ErrForeignHost)
			}
		})
	}
}
