package http_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	slog.SetLogLoggerLevel(slog.LevelError)
	goleak.VerifyTestMain(m)
}

// A protocol is how clients and servers talk.
type protocol struct {
	name    string
	version int
	tls     bool
}

var (
	http1   = protocol{"HTTP1", 1, false}
	h2c     = protocol{"HTTP2", 2, false}
	http2s  = protocol{"HTTP2OverTLS", 2, true}
	anyHTTP = []protocol{http1, h2c, http2s}
)

func (p protocol) scheme() string {
	if p.tls {
		return "https"
	}
	return "http"
}

func (p protocol) protocols() *http.Protocols {
	q := new(http.Protocols)
	q.SetHTTP1(p.version == 1)
	q.SetHTTP2(p.version == 2 && p.tls)
	q.SetUnencryptedHTTP2(p.version == 2 && !p.tls)
	return q
}

func (p protocol) transport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Protocols:           p.protocols(),
		TLSClientConfig:     &tls.Config{RootCAs: roots},
		MaxIdleConnsPerHost: 100,
	}
}

// certificate returns one for 127.0.0.1, and the pool of those to trust.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Certificates[0], roots
}

// A rival sends requests, over poolyhttp or http.Transport.
type rival struct {
	client   *http.Client
	origins  []string
	onlyGet  bool
	requests atomic.Uint64
	failed   atomic.Uint64
	first    sync.Once
	err      error // the first; read after the load
}

// send sends a request, a GET or a POST with an ID.
func (r *rival) send(id string) error {
	n := r.requests.Add(1)
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if n%2 == 0 && !r.onlyGet {
		method, body = http.MethodPost, strings.NewReader(id)
	}
	req, err := http.NewRequest(method, r.origins[n/2%uint64(len(r.origins))]+"/"+id, body)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", method, req.URL, resp.Status)
	}
	return err
}

// A duel has poolyhttp and http.Transport send requests to the same servers, by turns.
type duel struct {
	pooly, netHTTP rival
	service        *pooly.Service
}

func newDuel(t *testing.T, p protocol, roots *x509.CertPool, addresses ...string) *duel {
	t.Helper()
	s := pooly.NewService("web", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: poolyhttp.NewDriver(p.scheme(), p.transport(roots))},
	})
	s.SetHosts(addresses...)
	usual := p.transport(roots)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		usual.CloseIdleConnections()
	})
	d := &duel{service: s}
	const timeout = 10 * time.Second
	d.pooly.client = &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: timeout}
	d.pooly.origins = []string{p.scheme() + "://web"}
	d.netHTTP.client = &http.Client{Transport: usual, Timeout: timeout}
	for _, a := range addresses {
		d.netHTTP.origins = append(d.netHTTP.origins, p.scheme()+"://"+a)
	}
	return d
}

func (d *duel) onlyGet(only bool) { d.pooly.onlyGet, d.netHTTP.onlyGet = only, only }

const callers = 16

// load sends requests until the returned function is called.
func (d *duel) load() (stop func()) {
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := 0; !stopped.Load(); i++ {
				for name, r := range map[string]*rival{"pooly": &d.pooly, "nethttp": &d.netHTTP} {
					if err := r.send(fmt.Sprintf("%s-%d-%d", name, caller, i)); err != nil {
						r.failed.Add(1)
						r.first.Do(func() { r.err = err })
					}
				}
			}
		})
	}
	return func() {
		stopped.Store(true)
		wg.Wait()
	}
}

// report logs how many requests each has lost.
func (d *duel) report(t *testing.T) {
	t.Helper()
	for name, r := range map[string]*rival{"poolyhttp": &d.pooly, "http.Transport": &d.netHTTP} {
		t.Logf("%s: %d of %d requests failed, the first: %v", name, r.failed.Load(), r.requests.Load(), r.err)
	}
	t.Logf("dials: %d, ejections: %d", d.service.Stats().Dials, d.ejections())
}

func (d *duel) ejections() (n uint64) {
	for _, h := range d.service.Stats().Hosts {
		n += h.Ejections
	}
	return n
}

// answered waits until pooly has sent some more requests.
func (d *duel) answered(t *testing.T, more uint64) {
	t.Helper()
	before := d.pooly.requests.Load()
	require.Eventually(t, func() bool { return d.pooly.requests.Load() > before+more }, 30*time.Second, time.Millisecond)
}
