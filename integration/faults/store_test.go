package faults_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// store is a real Redis or memcached server in a process of its own.
type store struct {
	t       testing.TB
	address string
	command func(port string) []string
	process *exec.Cmd
}

func startStore(t testing.TB, command func(port string) []string) *store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	s := &store{t: t, address: address, command: command}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts the server, and returns when it answers.
func (s *store) start() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.address)
	args := s.command(port)
	s.process = exec.Command(args[0], args[1:]...)
	require.NoError(s.t, s.process.Start())
	require.Eventually(s.t, func() bool {
		c, err := net.Dial("tcp", s.address)
		if err != nil {
			return false
		}
		return c.Close() == nil
	}, 10*time.Second, 10*time.Millisecond, "%v does not listen", args)
}

func (s *store) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
}

// have skips the test where a program is not installed.
func have(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed: apt-get install %[1]s, or run .ci/run modules as root", program)
	}
	return path
}

func redis(t testing.TB, options ...string) *store {
	t.Helper()
	path, dir := have(t, "redis-server"), t.TempDir()
	return startStore(t, func(port string) []string {
		return append([]string{path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", dir}, options...)
	})
}

func memcached(t testing.TB, options ...string) *store {
	t.Helper()
	path := have(t, "memcached")
	return startStore(t, func(port string) []string {
		return append([]string{path, "-p", port, "-l", "127.0.0.1", "-U", "0", "-u", "root"}, options...)
	})
}

// A protocol writes a request, and says what the reply must be; both are of one line or two.
type protocol struct {
	request func(id uint64) string
	reply   func(id uint64) string
}

var (
	redisProtocol = protocol{
		request: func(id uint64) string { return fmt.Sprintf("ECHO %d\r\n", id) },
		reply: func(id uint64) string {
			said := strconv.FormatUint(id, 10)
			return fmt.Sprintf("$%d\r\n%s\r\n", len(said), said)
		},
	}
	memcachedProtocol = protocol{ // a set whose reply carries the opaque token
		request: func(id uint64) string { return fmt.Sprintf("ms key 2 O%d\r\nhi\r\n", id) },
		reply:   func(id uint64) string { return fmt.Sprintf("HD O%d\r\n", id) },
	}
)

// errSaid is what the server said instead of a reply.
var errSaid = errors.New("the server said")

// say sends one request on a connection and reads its reply.
func (p protocol) say(nc net.Conn, id uint64) error {
	if _, err := nc.Write([]byte(p.request(id))); err != nil {
		return err
	}
	want := p.reply(id)
	got := make([]byte, 0, len(want))
	b := make([]byte, len(want))
	for len(got) < len(want) {
		n, err := nc.Read(b[:len(want)-len(got)])
		got = append(got, b[:n]...)
		if err != nil {
			return err
		}
		if len(got) > 0 && got[0] != want[0] {
			rest, _ := bufio.NewReader(nc).ReadString('\n')
			return fmt.Errorf("%w: %s%s", errSaid, got, rest)
		}
	}
	if string(got) != want {
		return fmt.Errorf("%w: %q instead of %q", errWrongReply, got, want)
	}
	return nil
}

// greeter is a driver that asks the server for something before it calls a connection one: a server that has no room
// for more accepts it, and says so only then.
type greeter struct {
	*pooly.NetDriver
	protocol protocol
}

func (d greeter) Dial(ctx context.Context, address string) (*pooly.Conn, error) {
	c, err := d.NetDriver.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if err := d.protocol.say(c.NetConn(), 0); err != nil {
		d.NetDriver.Close(c)
		return nil, err
	}
	return c, nil
}

// traffic sends requests from some goroutines until stopped, each once, or again elsewhere if it fails.
type traffic struct {
	requests, broken, failed, wrong atomic.Uint64
	cause                           atomic.Value
}

func (tr *traffic) start(s *pooly.Service, p protocol, goroutines int) (stop func()) {
	done := make(chan struct{})
	var ids atomic.Uint64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				runs := 0
				err := s.Do(context.Background(), func(c *pooly.Conn) error {
					runs++
					err := p.say(c.NetConn(), ids.Add(1))
					if errors.Is(err, errWrongReply) {
						tr.wrong.Add(1)
					}
					return pooly.Retry(err)
				})
				tr.requests.Add(1)
				if runs != 1 || err != nil {
					tr.broken.Add(1)
				}
				if err != nil {
					tr.failed.Add(1)
					tr.cause.Store(err.Error())
				}
			}
		})
	}
	return func() {
		close(done)
		wg.Wait()
	}
}

func (tr *traffic) require(t testing.TB) {
	t.Helper()
	t.Logf("%d requests: %d would have failed without a retry, %d failed with one",
		tr.requests.Load(), tr.broken.Load(), tr.failed.Load())
	require.Zero(t, tr.wrong.Load(), "wrong replies")
	require.Zero(t, tr.failed.Load(), "%v", tr.cause.Load())
	require.Greater(t, tr.requests.Load(), uint64(100))
}

func newStoreService(t testing.TB, p protocol, maxConns int, stores ...*store) *pooly.Service {
	t.Helper()
	s := pooly.NewService("store", &pooly.ServiceConfig{
		PoolConfig:  pooly.PoolConfig{Driver: greeter{newDriver(), p}, MaxConns: maxConns},
		GetAttempts: 2,
	})
	t.Cleanup(func() { _ = s.Close() })
	for _, store := range stores {
		s.Add(store.address)
	}
	return s
}

func TestRedisClientKillFailsNoRequestWithOneRetry(t *testing.T) {
	killed, other := redis(t), redis(t)
	s := newStoreService(t, redisProtocol, 8, killed, other)
	var tr traffic
	stop := tr.start(s, redisProtocol, 8)
	for range 20 {
		time.Sleep(50 * time.Millisecond)
		admin, err := net.Dial("tcp", killed.address)
		require.NoError(t, err)
		_, err = admin.Write([]byte("CLIENT KILL TYPE normal SKIPME yes\r\n"))
		require.NoError(t, err)
		said, err := bufio.NewReader(admin).ReadString('\n')
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(said, ":"), said)
		require.NoError(t, admin.Close())
	}
	stop()
	tr.require(t)
}

func TestStoresThatRestartFailNoRequestWithOneRetry(t *testing.T) {
	for name, tt := range map[string]struct {
		start    func(testing.TB, ...string) *store
		protocol protocol
	}{"redis": {redis, redisProtocol}, "memcached": {memcached, memcachedProtocol}} {
		t.Run(name, func(t *testing.T) {
			stores := []*store{tt.start(t), tt.start(t), tt.start(t)}
			s := newStoreService(t, tt.protocol, 8, stores...)
			var tr traffic
			stop := tr.start(s, tt.protocol, 8)
			for _, store := range stores { // one after the other
				time.Sleep(300 * time.Millisecond)
				store.kill()
				time.Sleep(200 * time.Millisecond)
				store.start()
			}
			time.Sleep(300 * time.Millisecond)
			stop()
			tr.require(t)
			require.Eventually(t, func() bool {
				return !slices.ContainsFunc(s.Stats().Hosts, func(h pooly.HostStats) bool { return h.Ejected })
			}, 10*time.Second, 10*time.Millisecond, "a store that is back gets no traffic")
		})
	}
}

// Redis accepts a client that is one too many, says so, and closes it.
func TestRedisAtMaxclientsLeavesRequestsToOthers(t *testing.T) {
	full, other := redis(t, "--maxclients", "3"), redis(t)
	s := newStoreService(t, redisProtocol, 8, full, other)
	var tr traffic
	stop := tr.start(s, redisProtocol, 12) // more than both together let in at first
	time.Sleep(2 * time.Second)
	stop()
	tr.require(t)
	require.Zero(t, tr.broken.Load(), "the server says no when it is dialled, not to a request")
	served := make(map[string]uint64)
	for _, h := range s.Stats().Hosts {
		served[h.Address] = h.Gets
	}
	require.Positive(t, served[full.address], "its three connections serve")
	require.Greater(t, served[other.address], served[full.address])
}

// Servers that close connections nobody uses must not make the next requests fail.
func TestStoresThatCloseIdleConnectionsFailNoRequest(t *testing.T) {
	for name, tt := range map[string]struct {
		start    func(testing.TB) *store
		protocol protocol
		pause    time.Duration
	}{
		"redis": {func(t testing.TB) *store { return redis(t, "--timeout", "1") }, redisProtocol, 3 * time.Second},
		"memcached": {func(t testing.TB) *store {
			return memcached(t, "-o", "idle_timeout=1")
		}, memcachedProtocol, 8 * time.Second}, // it looks every few seconds
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := tt.start(t)
			s := newStoreService(t, tt.protocol, 8, store)
			var tr traffic
			for range 2 {
				stop := tr.start(s, tt.protocol, 8)
				time.Sleep(200 * time.Millisecond)
				stop()
				if s.Stats().Dials <= 8 { // the first time
					time.Sleep(tt.pause)
				}
			}
			tr.require(t)
			require.Zero(t, tr.broken.Load(), "not one needed its retry")
			require.Greater(t, s.Stats().Dials, uint64(8), "the server has closed them")
		})
	}
}

// Memcached at its limit of connections accepts no more, and lets them wait in its backlog.
func TestMemcachedAtItsLimitLeavesRequestsToOthers(t *testing.T) {
	full, other := memcached(t, "-t", "1", "-c", "32"), memcached(t) // fewer, and it does not start
	for range 40 {
		c, err := net.Dial("tcp", full.address)
		require.NoError(t, err)
		defer c.Close()
	}
	s := newStoreService(t, memcachedProtocol, 8, full, other)
	var tr traffic
	stop := tr.start(s, memcachedProtocol, 12)
	time.Sleep(2 * time.Second)
	stop()
	tr.require(t)
}
