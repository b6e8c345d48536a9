package etcd_test

import (
	"context"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/etcd"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const prefix = "services/cache/"

// server is a real etcd with a data folder of its own.
type server struct {
	t            *testing.T
	client, peer string // host:port
	dir          string
	command      *exec.Cmd // nil: it is down
}

// startServer skips the test where etcd is not installed. The server is stopped when the test ends.
func startServer(t *testing.T) *server {
	t.Helper()
	if _, err := exec.LookPath("etcd"); err != nil {
		t.Skip("etcd is not installed (Debian: apt-get install etcd-server)")
	}
	s := &server{t: t, client: freeAddress(t), peer: freeAddress(t), dir: t.TempDir()}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) start() {
	s.t.Helper()
	log, err := os.Create(filepath.Join(s.dir, "log"))
	require.NoError(s.t, err)
	defer log.Close()
	s.command = exec.Command("etcd", "--name", "test", "--data-dir", filepath.Join(s.dir, "data"),
		"--listen-client-urls", "http://"+s.client, "--advertise-client-urls", "http://"+s.client,
		"--listen-peer-urls", "http://"+s.peer, "--initial-advertise-peer-urls", "http://"+s.peer,
		"--initial-cluster", "test=http://"+s.peer)
	s.command.Stdout, s.command.Stderr = log, log
	require.NoError(s.t, s.command.Start())
	require.Eventually(s.t, func() bool {
		response, err := http.Get("http://" + s.client + "/health")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode == http.StatusOK
	}, 20*time.Second, 50*time.Millisecond, "etcd did not become healthy")
}

func (s *server) stop() {
	if s.command == nil {
		return
	}
	_ = s.command.Process.Signal(syscall.SIGTERM)
	_ = s.command.Wait()
	s.command = nil
}

// connect returns a client of an endpoint. It is closed when the test ends.
func connect(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{endpoint},
		DialTimeout: 5 * time.Second,
		Logger:      zap.NewNop(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func put(t *testing.T, c *clientv3.Client, key, value string) {
	t.Helper()
	_, err := c.Put(t.Context(), prefix+key, value)
	require.NoError(t, err)
}

func remove(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	_, err := c.Delete(t.Context(), prefix+key)
	require.NoError(t, err)
}

// watch returns a function that waits for the resolver's next answer.
func watch(t *testing.T, r *etcd.Resolver) (next func() ([]string, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	pull, stop := iter.Pull2(r.Watch(ctx))
	t.Cleanup(func() { cancel(); stop() })
	return func() ([]string, error) {
		t.Helper()
		list, err, ok := pull()
		require.True(t, ok, "the resolver ended")
		return list, err
	}
}

func requireNext(t *testing.T, next func() ([]string, error), want ...string) {
	t.Helper()
	list, err := next()
	require.NoError(t, err)
	require.Equal(t, want, list)
}

func TestEachChangeOfAKeyIsHeardOf(t *testing.T) {
	c := connect(t, startServer(t).client)
	put(t, c, "1", "10.0.0.1:11211")
	put(t, c, "2", "10.0.0.2:11211")
	_, err := c.Put(t.Context(), "services/other/1", "10.0.0.9:1")
	require.NoError(t, err)

	next := watch(t, etcd.NewPrefix(c, prefix, nil))
	requireNext(t, next, "10.0.0.1:11211", "10.0.0.2:11211")
	put(t, c, "3", "10.0.0.3:11211")
	requireNext(t, next, "10.0.0.1:11211", "10.0.0.2:11211", "10.0.0.3:11211")
	put(t, c, "3", "10.0.0.3:11211") // no change
	put(t, c, "4", "10.0.0.1:11211") // an address twice
	remove(t, c, "2")
	requireNext(t, next, "10.0.0.1:11211", "10.0.0.3:11211")
	remove(t, c, "1")
	put(t, c, "4", "10.0.0.4:11211")
	requireNext(t, next, "10.0.0.3:11211", "10.0.0.4:11211")
}

func TestAHostWhoseLeaseEndsIsTakenOut(t *testing.T) {
	c := connect(t, startServer(t).client)
	lease, err := c.Grant(t.Context(), 60)
	require.NoError(t, err)
	_, err = c.Put(t.Context(), prefix+"1", "a:1", clientv3.WithLease(lease.ID))
	require.NoError(t, err)
	put(t, c, "2", "b:1")

	next := watch(t, etcd.NewPrefix(c, prefix, nil))
	requireNext(t, next, "a:1", "b:1")
	_, err = c.Revoke(t.Context(), lease.ID)
	require.NoError(t, err)
	requireNext(t, next, "b:1")
}

func TestNoKeyLeftIsAFailureUnlessAllowed(t *testing.T) {
	c := connect(t, startServer(t).client)
	put(t, c, "1", "a:1")
	next := watch(t, etcd.NewPrefix(c, prefix, nil))
	lenient := watch(t, etcd.NewPrefix(c, prefix, &etcd.Config{AllowEmpty: true}))
	requireNext(t, next, "a:1")
	requireNext(t, lenient, "a:1")

	remove(t, c, "1")
	_, err := next()
	require.ErrorContains(t, err, "prefix services/cache/: no key has an address")
	list, err := lenient()
	require.NoError(t, err)
	require.Empty(t, list)

	put(t, c, "1", "a:1")
	requireNext(t, next, "a:1")
	requireNext(t, lenient, "a:1")
}

// picky panics for a value that it does not expect.
func picky(_, value string) string {
	if value == "odd" {
		panic("what is this")
	}
	return value
}

// One odd value must neither hide the other hosts nor end discovery.
func TestAKeyWhoseAddressPanicsIsLeftOutAndReported(t *testing.T) {
	c := connect(t, startServer(t).client)
	put(t, c, "1", "a:1")
	put(t, c, "2", "odd")
	next := watch(t, etcd.NewPrefix(c, prefix, &etcd.Config{Address: picky}))
	requireReport := func() {
		t.Helper()
		_, err := next()
		require.ErrorContains(t, err, `panicked on key "services/cache/2" with value "odd": what is this`)
	}
	requireNext(t, next, "a:1")
	requireReport()
	put(t, c, "3", "c:1")
	requireNext(t, next, "a:1", "c:1")
	put(t, c, "2", "b:1")
	requireNext(t, next, "a:1", "b:1", "c:1")
	put(t, c, "2", "odd")
	requireNext(t, next, "a:1", "c:1")
	requireReport()
}

// That no key makes sense does not say that there are no hosts.
func TestHostsStayWhenEachAddressPanics(t *testing.T) {
	c := connect(t, startServer(t).client)
	put(t, c, "1", "a:1")
	next := watch(t, etcd.NewPrefix(c, prefix, &etcd.Config{Address: picky, AllowEmpty: true}))
	requireNext(t, next, "a:1")
	put(t, c, "1", "odd")
	_, err := next()
	require.ErrorContains(t, err, "no key has an address")
	_, err = next()
	require.ErrorContains(t, err, "panicked")
	remove(t, c, "1")
	list, err := next()
	require.NoError(t, err, "now there are none")
	require.Empty(t, list)
}

func TestTheServiceFollowsThroughARestart(t *testing.T) {
	e := startServer(t)
	c := connect(t, e.client)
	put(t, c, "1", "127.0.0.1:1")
	s := pooly.NewService("cache", &pooly.ServiceConfig{PrespawnConns: -1})
	defer s.Close()
	require.NoError(t, s.Follow(t.Context(), etcd.NewPrefix(c, prefix, nil)))
	hosts := func() []string { return slices.Sorted(maps.Keys(s.Status())) }
	require.Equal(t, []string{"127.0.0.1:1"}, hosts())

	e.stop()
	require.Equal(t, []string{"127.0.0.1:1"}, hosts())
	e.start()
	put(t, c, "2", "127.0.0.1:2")
	require.Eventually(t, func() bool { return len(hosts()) == 2 }, 20*time.Second, 10*time.Millisecond)
}

func TestFollowSaysThatEtcdCannotBeReached(t *testing.T) {
	c := connect(t, freeAddress(t))
	s := pooly.NewService("cache", nil)
	defer s.Close()
	err := s.Follow(t.Context(), etcd.NewPrefix(c, prefix, &etcd.Config{Timeout: 100 * time.Millisecond}))
	require.ErrorContains(t, err, "service cache: etcd: prefix services/cache/:")
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// While the way to etcd is cut, keys change and the history is compacted: the watch cannot be
// resumed where it was.
func TestChangesThatWereCompactedBeforeTheWatchCameBackAreSeen(t *testing.T) {
	e := startServer(t)
	direct := connect(t, e.client)
	p := startProxy(t, e.client)
	put(t, direct, "1", "a:1")
	put(t, direct, "2", "b:1")
	next := watch(t, etcd.NewPrefix(connect(t, p.address), prefix, nil))
	requireNext(t, next, "a:1", "b:1")

	p.cut()
	remove(t, direct, "1")
	put(t, direct, "3", "c:1")
	last, err := direct.Put(t.Context(), "elsewhere", "")
	require.NoError(t, err)
	_, err = direct.Compact(t.Context(), last.Header.Revision, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	p.mend()
	requireNext(t, next, "b:1", "c:1") // in one step: the history between is gone

	put(t, direct, "4", "d:1")
	requireNext(t, next, "b:1", "c:1", "d:1")
}

// proxy is a TCP proxy that can be cut.
type proxy struct {
	address, target string
	accepting       sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	down  bool
	conns []net.Conn
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{address: l.Addr().String(), target: target}
	p.accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.accepting.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); p.cut(); p.accepting.Wait() })
	return p
}

func (p *proxy) serve(c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	if p.down {
		p.mu.Unlock()
		return
	}
	p.conns = append(p.conns, c, up)
	p.mu.Unlock()
	p.accepting.Go(func() { _, _ = io.Copy(up, c); up.Close() })
	_, _ = io.Copy(c, up)
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

func TestAddressesOfKeys(t *testing.T) {
	for _, test := range []struct{ key, value, address string }{
		{"1", "10.0.0.1:11211", "10.0.0.1:11211"},
		{"1", " 10.0.0.1:11211\n", "10.0.0.1:11211"},
		{"10.0.0.1:11211", "", "10.0.0.1:11211"},
		{"1", `{"Op":0,"Addr":"10.0.0.1:11211","Metadata":null}`, "10.0.0.1:11211"},
		{"1", `{"port":1}`, ""},
		{"1", `{broken`, ""},
	} {
		require.Equal(t, test.address, etcd.Address(test.key, test.value), test.value)
	}
}

func TestImpossibleArgumentsPanic(t *testing.T) {
	c := connect(t, "127.0.0.1:1")
	require.Panics(t, func() { etcd.NewPrefix(nil, prefix, nil) })
	require.Panics(t, func() { etcd.NewPrefix(c, "", nil) })
	require.Panics(t, func() { etcd.NewPrefix(c, prefix, &etcd.Config{Timeout: -1}) })
}
