package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, standin.HTTP)
}

func TestRunAgainstRealServers(t *testing.T) {
	real.RunWithOneDown(t, run, real.Nginx(t))
}

// The balancer's clients do not notice that a backend is killed, and all backends have their part.
func TestClientsDoNotNoticeThatABackendIsKilled(t *testing.T) {
	servers := real.Nginx(t)
	balancer, s := newBalancer(real.Addresses(servers)...)
	defer func() { _ = s.Close() }()
	front := httptest.NewServer(balancer)
	defer front.Close()
	var seen sync.Map
	require.NoError(t, demo.Load(3000, servers[1].Kill, func() error {
		port, err := get(front.Client(), front.URL)
		seen.Store("127.0.0.1:"+strings.TrimSpace(port), true)
		return err
	}))
	for _, server := range servers {
		_, ok := seen.Load(server.Address)
		require.True(t, ok, "%s was asked", server.Address)
	}
}

// run sends requests through the balancer, and reports what each backend got.
func run(w io.Writer, addresses ...string) error {
	balancer, s := newBalancer(addresses...)
	defer func() { _ = s.Close() }()
	front := httptest.NewServer(balancer)
	defer front.Close()
	for range 1000 {
		if _, err := get(front.Client(), front.URL); err != nil {
			return err
		}
	}
	for _, h := range s.Stats().Hosts {
		_, _ = fmt.Fprintf(w, "%s: %d requests, score %.2f\n", h.Address, h.Gets, h.Score)
	}
	return nil
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}
