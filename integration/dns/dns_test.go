// Package dns tests pooly's package dns against a real DNS server, over UDP and TCP.
package dns

import (
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/dns"
	server "github.com/miekg/dns"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// interval is short, so that changes are seen soon.
const interval = 20 * time.Millisecond

// zone is a DNS server for one test.
type zone struct {
	address string

	mu      sync.Mutex // guards the fields below
	records []server.RR
	rcode   int  // what every question gets, unless it is 0
	silent  bool // no question gets an answer
}

func serve(t *testing.T, records ...string) *zone {
	t.Helper()
	z := new(zone)
	z.becomes(t, records...)
	l, packets := listen(t)
	z.address = l.Addr().String()
	for _, s := range []*server.Server{{PacketConn: packets, Handler: z}, {Listener: l, Handler: z}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			require.NoError(t, s.Shutdown())
			<-done
		})
	}
	return z
}

// listen returns a port that is free for both TCP and UDP.
func listen(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		packets, err := net.ListenPacket("udp", l.Addr().String())
		if err == nil {
			return l, packets
		}
		l.Close()
	}
	t.Fatal("no port is free for both TCP and UDP")
	return nil, nil
}

func (z *zone) becomes(t *testing.T, records ...string) {
	t.Helper()
	var parsed []server.RR
	for _, text := range records {
		r, err := server.NewRR(text)
		require.NoError(t, err)
		parsed = append(parsed, r)
	}
	z.set(func() { z.records, z.rcode, z.silent = parsed, server.RcodeSuccess, false })
}

func (z *zone) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

// ServeDNS implements the server's Handler.
func (z *zone) ServeDNS(w server.ResponseWriter, question *server.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.silent {
		return
	}
	answer := new(server.Msg).SetReply(question)
	answer.Rcode = z.rcode
	known := false
	for _, r := range z.records {
		if r.Header().Name == question.Question[0].Name {
			known = true
			if r.Header().Rrtype == question.Question[0].Qtype {
				answer.Answer = append(answer.Answer, r)
			}
		}
	}
	if !known && z.rcode == server.RcodeSuccess {
		answer.Rcode = server.RcodeNameError
	}
	if z.rcode != server.RcodeSuccess {
		answer.Answer = nil
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		answer.Truncate(server.MinMsgSize) // a client asks again over TCP
	}
	_ = w.WriteMsg(answer)
}

// config asks z and no other server.
func (z *zone) config() *dns.Config {
	return &dns.Config{Interval: interval, Timeout: 200 * time.Millisecond, Resolver: &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, z.address)
			if err == nil { // package net would read for seconds on after the lookup was given up
				context.AfterFunc(ctx, func() { c.Close() })
			}
			return c, err
		},
	}}
}

// next waits for one answer of a resolver.
func next(t *testing.T, r pooly.Resolver) ([]string, error) {
	t.Helper()
	pull, stop := iter.Pull2(r.Watch(t.Context()))
	defer stop()
	list, err, ok := pull()
	require.True(t, ok)
	return list, err
}

func TestEachAddressOfANameIsAHost(t *testing.T) {
	z := serve(t, "cache.test. A 127.0.0.2", "cache.test. A 127.0.0.1", "cache.test. AAAA ::1", "other.test. A 127.0.0.9")
	list, err := next(t, dns.NewHost("cache.test.:11211", z.config()))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:11211", "127.0.0.2:11211", "[::1]:11211"}, list)

	four := z.config()
	four.Network = "ip4"
	list, err = next(t, dns.NewHost("cache.test.:11211", four))
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:11211", "127.0.0.2:11211"}, list)
}

func TestAnAnswerTooLongForUDPIsReadWhole(t *testing.T) {
	var records []string
	for i := range 250 {
		records = append(records, fmt.Sprintf("cache.test. A 127.0.1.%d", i))
	}
	list, err := next(t, dns.NewHost("cache.test.:11211", serve(t, records...).config()))
	require.NoError(t, err)
	require.Len(t, list, 250)
}

func TestTheServiceRecordsOfTheBestPriorityAreHosts(t *testing.T) {
	z := serve(t,
		"_memcached._tcp.test. SRV 10 60 11211 a.test.",
		"_memcached._tcp.test. SRV 10 20 11212 a.test.",
		"_memcached._tcp.test. SRV 10 20 11211 b.test.",
		"_memcached._tcp.test. SRV 20 0 11211 spare.test.")
	list, err := next(t, dns.NewSRV("memcached", "tcp", "test.", z.config()))
	require.NoError(t, err)
	require.Equal(t, []string{"a.test:11211", "a.test:11212", "b.test:11211"}, list)

	all := z.config()
	all.AllPriorities = true
	list, err = next(t, dns.NewSRV("", "", "_memcached._tcp.test.", all))
	require.NoError(t, err)
	require.Contains(t, list, "spare.test:11211")
	require.Len(t, list, 4)
}

func TestAServiceThatIsDecidedlyNotThereHasNoHosts(t *testing.T) {
	z := serve(t, "_memcached._tcp.test. SRV 0 0 0 .")
	_, err := next(t, dns.NewSRV("memcached", "tcp", "test.", z.config()))
	require.Error(t, err, "by default the last good answer stands")

	lenient := z.config()
	lenient.AllowEmpty = true
	list, err := next(t, dns.NewSRV("memcached", "tcp", "test.", lenient))
	require.NoError(t, err)
	require.Empty(t, list)
}

// A service over real sockets follows the records, and whatever becomes of the DNS server it goes on serving.
func TestAServiceServesThroughEveryFailureOfDNS(t *testing.T) {
	port := echo(t, "127.0.0.1", "127.0.0.2")
	z := serve(t, "cache.test. A 127.0.0.1")
	failures := make(failures, 1)
	s := pooly.NewService("cache", &pooly.ServiceConfig{Logger: slog.New(failures)})
	defer s.Close()
	require.NoError(t, s.Follow(t.Context(), dns.NewHost("cache.test.:"+port, z.config())))
	use := func() (address string) {
		c, err := s.GetConn()
		require.NoError(t, err)
		defer c.Release(nil, pooly.HostUp)
		return c.Address()
	}
	require.Equal(t, "127.0.0.1:"+port, use())

	hosts := func() []string { return slices.Sorted(maps.Keys(s.Status())) }
	both := []string{"127.0.0.1:" + port, "127.0.0.2:" + port}
	z.becomes(t, "cache.test. A 127.0.0.1", "cache.test. A 127.0.0.2")
	require.Eventually(t, func() bool { return slices.Equal(hosts(), both) }, 5*time.Second, time.Millisecond)

	for name, fail := range map[string]func(){
		"SERVFAIL": func() { z.rcode = server.RcodeServerFailure },
		"NXDOMAIN": func() { z.rcode = server.RcodeNameError },
		"no data": func() {
			z.records = []server.RR{&server.TXT{Hdr: server.RR_Header{Name: "cache.test.", Rrtype: server.TypeTXT}}}
		},
		"silence": func() { z.silent = true },
	} {
		z.set(fail)
		failures.drain()
		for range 3 {
			select {
			case message := <-failures:
				require.Contains(t, message, "resolver failed", name)
			case <-time.After(10 * time.Second):
				require.Fail(t, "no failure was logged", name)
			}
		}
		require.Equal(t, both, hosts(), name)
		use()
		z.becomes(t, "cache.test. A 127.0.0.1", "cache.test. A 127.0.0.2")
	}
	z.becomes(t, "cache.test. A 127.0.0.2")
	require.Eventually(t, func() bool { return slices.Equal(hosts(), both[1:]) }, 10*time.Second, time.Millisecond)
	require.Equal(t, "127.0.0.2:"+port, use())
}

// failures is a log from which a test reads the warnings, if it wants to.
type failures chan string

func (failures) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (f failures) WithAttrs([]slog.Attr) slog.Handler             { return f }
func (f failures) WithGroup(string) slog.Handler                  { return f }

func (f failures) Handle(_ context.Context, r slog.Record) error {
	select {
	case f <- r.Message:
	default:
	}
	return nil
}

func (f failures) drain() {
	select {
	case <-f:
	default:
	}
}

// echo starts servers on one port of several addresses.
func echo(t *testing.T, ips ...string) (port string) {
	t.Helper()
	port = "0"
	for _, ip := range ips {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		require.NoError(t, err)
		_, port, err = net.SplitHostPort(l.Addr().String())
		require.NoError(t, err)
		var open sync.WaitGroup
		open.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				open.Go(func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				})
			}
		})
		t.Cleanup(func() {
			l.Close()
			open.Wait()
		})
	}
	return port
}
