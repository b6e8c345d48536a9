package pooly_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

func dial(t *testing.T, s *pooly.Service) net.Conn {
	t.Helper()
	c, err := s.DialContext(t.Context(), "ignored", "ignored:0")
	require.NoError(t, err)
	return c
}

// say writes a line and reads one.
func say(c net.Conn, line string) (string, error) {
	if _, err := fmt.Fprintln(c, line); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func TestDialContextConnectionIsTheClientsUntilClose(t *testing.T) {
	address := listen(t, echo)
	s := newNetService(t, pooly.NewNetDriver("tcp"), address)
	c := dial(t, s)
	got, err := say(c, "hello")
	require.NoError(t, err)
	require.Equal(t, "hello\n", got)
	require.Equal(t, address, c.RemoteAddr().String())
	require.Equal(t, 1, s.Stats().InUse)
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Close(), net.ErrClosed)
	require.Zero(t, s.Stats().InUse)
	eventually(t, func() bool { return s.Stats().Open == 0 }) // what was prespawned is closed, too
	_, err = c.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestDialContextFailsAtOnceAtMaxConnsThatIsSet(t *testing.T) {
	s := pooly.NewService("full", &pooly.ServiceConfig{
		PoolConfig:    pooly.PoolConfig{MaxConns: 2},
		PrespawnConns: -1,
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Add(listen(t, echo))
	a, b := dial(t, s), dial(t, s)
	_, err := s.DialContext(t.Context(), "", "")
	require.ErrorIs(t, err, pooly.ErrOverloaded)
	require.ErrorContains(t, err, "each of 1 hosts has its MaxConns of 2 connections")
	require.NoError(t, a.Close())
	c := dial(t, s)
	require.NoError(t, b.Close())
	require.NoError(t, c.Close())
}

// A client whose pool is larger than pooly's default stood in a queue that it did not know.
func TestDialContextHasNoLimitUnlessItIsSet(t *testing.T) {
	s := pooly.NewService("large", nil)
	address := listen(t, echo)
	s.Add(address)
	var conns []net.Conn
	for range 2 * pooly.DefaultMaxConns {
		conns = append(conns, dial(t, s))
	}
	require.Equal(t, 2*pooly.DefaultMaxConns, s.Stats().InUse)

	// The pool has MaxConns places of its own, as long as clients hold connections and afterwards.
	for range 2 {
		var leases []*pooly.Conn
		for range pooly.DefaultMaxConns {
			leases = append(leases, get(t, s))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := s.GetConnContext(ctx)
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for _, c := range leases {
			release(t, c)
		}
		for _, c := range conns {
			require.NoError(t, c.Close())
		}
		conns = nil
		eventually(t, func() bool { return s.Stats().Open <= pooly.DefaultMaxConns })
	}
	require.NoError(t, s.Close())
}

// A host that is ejected while clients hold more than MaxConns connections to it must be probed.
func TestHostWithManyClientConnectionsIsProbed(t *testing.T) {
	s := pooly.NewService("large", &pooly.ServiceConfig{PrespawnConns: -1, ConsecutiveFailures: 1})
	a, b := listen(t, echo), listen(t, echo)
	s.SetHosts(a, b)
	var conns []net.Conn
	for range 3 * pooly.DefaultMaxConns {
		conns = append(conns, dial(t, s))
	}
	for ejected := false; !ejected; {
		require.NoError(t, s.Do(t.Context(), func(c *pooly.Conn) error {
			if c.Address() == a {
				return pooly.Retry(errFatal)
			}
			return nil
		}))
		ejected = hostStats(t, s, a).Ejections > 0
	}
	eventually(t, func() bool { return !hostStats(t, s, a).Ejected })
	for _, c := range conns {
		require.NoError(t, c.Close())
	}
	require.NoError(t, s.Close())
}

func TestDialContextReturnsWhatGetConnReturns(t *testing.T) {
	refused := closedPort(t)
	s := newNetService(t, pooly.NewNetDriver("tcp"), refused)
	_, err := s.DialContext(t.Context(), "", "")
	require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	s.Add(listen(t, echo))
	require.NoError(t, dial(t, s).Close(), "the other host")

	unfit := pooly.NewService("unfit", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: nopDriver{}}, PrespawnConns: -1,
	})
	t.Cleanup(func() { _ = unfit.Close() })
	unfit.Add("a")
	_, err = unfit.DialContext(t.Context(), "", "")
	require.ErrorIs(t, err, pooly.ErrInvalidArg)
	require.ErrorContains(t, err, "net.Conns, not <nil>")
	require.Zero(t, unfit.Stats().Open)
}

// A client begins with a handshake, which needs a connection that has carried nothing.
func TestDialContextNeverReturnsAUsedConnection(t *testing.T) {
	s := pooly.NewService("mixed", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{MaxConns: 2}, PrespawnConns: -1,
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Add(listen(t, echo))
	used := map[string]bool{}
	note := func(nc net.Conn) {
		address := nc.LocalAddr().String()
		require.False(t, used[address])
		used[address] = true
	}
	first, second := get(t, s), get(t, s)
	note(first.NetConn())
	note(second.NetConn())
	release(t, first)
	release(t, second)
	require.Equal(t, 2, s.Stats().Idle, "the pool is full of used ones")
	c := dial(t, s)
	note(c)
	require.Equal(t, 1, s.Stats().Idle, "one is closed for it, and no more")

	other := get(t, s)
	dialled := make(chan net.Conn)
	go func() { // waits, since all places are leased
		c, err := s.DialContext(t.Context(), "", "")
		if err != nil {
			t.Error(err)
		}
		dialled <- c
	}()
	release(t, other) // becomes idle, and is closed
	got := <-dialled
	note(got)
	require.Equal(t, 2, s.Stats().InUse)
	require.Zero(t, s.Stats().Idle)
	require.NoError(t, got.Close())
	require.NoError(t, c.Close())
}

func TestDialContextTakesNoPrespawnedConnection(t *testing.T) {
	s := pooly.NewService("prespawned", nil)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Add(listen(t, echo))
	eventually(t, func() bool { return s.Stats().Idle == 1 })
	c := dial(t, s)
	require.EqualValues(t, 2, s.Stats().Dials, "a server may have hung up on the idle one")
	_, err := say(c, "works")
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// A gRPC server that stops waits for clients that connect and say nothing, and MySQL counts them as
// errors.
func TestServersOfDialContextHaveNoSilentConnections(t *testing.T) {
	s := pooly.NewService("silent", nil)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Add(listen(t, echo))
	eventually(t, func() bool { return s.Stats().Idle == 1 })
	c := dial(t, s)
	eventually(t, func() bool { return s.Stats().Open == 1 })
	require.Equal(t, 1, s.Stats().InUse)
	require.NoError(t, c.Close())

	refused := closedPort(t) // and none is left by a probe of a host that comes back
	s.SetHosts(refused)
	_, err := s.DialContext(t.Context(), "", "")
	require.Error(t, err)
	l, err := net.Listen("tcp", refused)
	require.NoError(t, err)
	defer l.Close()
	eventually(t, func() bool { return !hostStats(t, s, refused).Ejected && s.Stats().Open == 0 })
	require.EqualValues(t, 3, s.Stats().Dials-s.Stats().Failures, "the one in advance, the caller's and the probe's")
}

// Servers of MySQL, SMTP or SSH greet whoever connects, which is not a reply that someone left
// unread.
func TestDialContextToAServerThatSpeaksFirst(t *testing.T) {
	greeting := func(c net.Conn) {
		_, _ = io.WriteString(c, "220 ready\n")
		_, _ = io.Copy(io.Discard, c)
	}
	for _, prespawn := range []int{-1, 1} {
		s := pooly.NewService("greeting", &pooly.ServiceConfig{PrespawnConns: prespawn})
		address := listen(t, greeting)
		s.Add(address)
		if prespawn > 0 {
			eventually(t, func() bool { return s.Stats().Idle == 1 })
		}
		c := dial(t, s)
		line, err := bufio.NewReader(c).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "220 ready\n", line)
		eventually(t, func() bool { _, trials := mean(t, s, address); return trials > 0 })
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
	}
}

func TestDialContextRatesTheHostByWhatHappens(t *testing.T) {
	answer := func(c net.Conn) { // answers lines until it is told to be silent or to leave
		r := bufio.NewReader(c)
		for {
			line, err := r.ReadString('\n')
			switch {
			case err != nil || line == "leave\n":
				return
			case line == "silence\n":
				_, _ = io.Copy(io.Discard, r)
				return
			}
			_, _ = io.WriteString(c, line)
		}
	}
	for _, tt := range []struct {
		name          string
		do            func(t *testing.T, c net.Conn)
		score, trials float64
	}{
		{"an answer", func(t *testing.T, c net.Conn) {
			_, err := say(c, "x")
			require.NoError(t, err)
		}, 1, 1},
		{"each answer", func(t *testing.T, c net.Conn) {
			for range 3 {
				_, err := say(c, "x")
				require.NoError(t, err)
			}
		}, 1, 3},
		{"nothing", func(t *testing.T, c net.Conn) { require.NoError(t, c.Close()) }, 0.5, 0},
		{"a hang-up instead of an answer", func(t *testing.T, c net.Conn) {
			_, err := say(c, "leave")
			require.Error(t, err)
			_, err = say(c, "leave")
			require.Error(t, err)
			require.NoError(t, c.Close())
		}, 0, 1},
		{"an answer that does not come in time", func(t *testing.T, c net.Conn) {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, err := say(c, "silence")
			require.Error(t, err)
		}, 0, 1},
		{"a client that interrupts itself", func(t *testing.T, c net.Conn) {
			_, err := fmt.Fprintln(c, "silence")
			require.NoError(t, err)
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
			_, err = c.Read(make([]byte, 1))
			require.Error(t, err)
			require.NoError(t, c.Close())
		}, 0.5, 0},
		{"a timeout when nothing was asked", func(t *testing.T, c net.Conn) {
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
			_, err := c.Read(make([]byte, 1))
			require.Error(t, err)
		}, 0.5, 0},
		{"the end of a stream when nothing was asked", func(t *testing.T, c net.Conn) {
			_, err := say(c, "x")
			require.NoError(t, err)
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}, 1, 1},
		{"a goodbye", func(t *testing.T, c net.Conn) {
			_, err := fmt.Fprintln(c, "leave")
			require.NoError(t, err)
			require.NoError(t, c.Close())
		}, 0.5, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := listen(t, answer)
			s := newNetService(t, pooly.NewNetDriver("tcp"), address)
			c := dial(t, s)
			tt.do(t, c)
			require.Equal(t, tt.trials, trialsSoon(t, s, address, tt.trials))
			score, _ := mean(t, s, address)
			require.InDelta(t, tt.score, score, 1e-9, "before it is closed, if it is not")
			_ = c.Close()
		})
	}
}

// A client that gives each read what is left of its caller's time, such as go-redis, often leaves a
// host too little.
func TestDialContextBlamesNoHostForTooLittleTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pooly.NewNetDriver("tcp")
		d.SetDialContext(func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				r := bufio.NewReader(theirs)
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
					if line != "silence\n" {
						_, _ = io.WriteString(theirs, line)
					}
				}
			}()
			return ours, nil
		})
		const address = "10.0.0.1:1"
		s := pooly.NewService("slow", &pooly.ServiceConfig{
			PoolConfig:    pooly.PoolConfig{Driver: d},
			PrespawnConns: -1,
			DecayDuration: 100 * time.Hour, // so that the test ends in the slot in which it began
		})
		s.Add(address)
		trials := func(line string, within time.Duration) float64 {
			c := dial(t, s)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(within)))
			_, _ = say(c, line)
			require.NoError(t, c.Close())
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
			_, trials := mean(t, s, address)
			return trials
		}
		require.EqualValues(t, 1, trials("x", time.Second))
		require.EqualValues(t, 1, trials("x", 50*time.Millisecond), "it needs 100 ms")
		require.EqualValues(t, 2, trials("silence", 150*time.Millisecond))
		time.Sleep(2 * time.Second)
		require.EqualValues(t, 3, trials("silence", 50*time.Millisecond), "it serves nobody any more")
		require.NoError(t, s.Close())
	})
}

// A host that hangs up on each request must not look like one that was never tried.
func TestDialContextHasAHostThatHangsUpLookSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pooly.NewNetDriver("tcp")
		d.SetDialContext(func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = bufio.NewReader(theirs).ReadString('\n')
				_ = theirs.Close()
			}()
			return ours, nil
		})
		s := pooly.NewService("hangs up", &pooly.ServiceConfig{
			PoolConfig:     pooly.PoolConfig{Driver: d},
			PrespawnConns:  -1,
			BanditStrategy: pooly.NewLeastLatency(),
		})
		s.Add("10.0.0.1:1")
		c := dial(t, s)
		_, err := say(c, "x")
		require.Error(t, err)
		require.Positive(t, s.Stats().Hosts[0].Latency)
		require.NoError(t, c.Close())
		require.NoError(t, s.Close())
	})
}

// trialsSoon returns the trials of a host once they are as many as wanted, or have not become so.
func trialsSoon(t *testing.T, s *pooly.Service, address string, want float64) (trials float64) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, trials = mean(t, s, address); trials == want {
			break
		}
	}
	return trials
}

func TestDialerScoresTheTimeToTheFirstByte(t *testing.T) {
	address := listen(t, echo)
	s := pooly.NewService("latency", &pooly.ServiceConfig{
		PrespawnConns: -1, BanditStrategy: pooly.NewPeakEWMA(2),
	})
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	s.Add(address)
	var elapsed []time.Duration
	d := pooly.Dialer{Service: s, Score: func(firstByte time.Duration) float64 {
		elapsed = append(elapsed, firstByte)
		return 0.7
	}}
	c, err := d.DialContext(t.Context(), "", "")
	require.NoError(t, err)
	_, err = say(c, "x")
	require.NoError(t, err)
	eventually(t, func() bool { return hostStats(t, s, address).Trials == 1 })
	require.InDelta(t, 0.7, hostStats(t, s, address).Score, 1e-9)
	require.Positive(t, elapsed[0])
	require.Positive(t, hostStats(t, s, address).Latency, "for the strategies too")
	require.Less(t, hostStats(t, s, address).Latency, 10*time.Second)
	require.NoError(t, c.Close())
	require.Len(t, elapsed, 1)
}

func TestDialerWhoseScoreMisbehavesLosesNoPlace(t *testing.T) {
	for name, score := range map[string]func(time.Duration) float64{
		"panics":               func(time.Duration) float64 { panic("no") },
		"ends its goroutine":   func(time.Duration) float64 { runtime.Goexit(); return 0 },
		"returns no number":    func(time.Duration) float64 { return math.NaN() },
		"returns a high score": func(time.Duration) float64 { return 1e9 },
	} {
		t.Run(name, func(t *testing.T) {
			s := pooly.NewService("score", &pooly.ServiceConfig{
				PoolConfig:    pooly.PoolConfig{MaxConns: 1, WaitTimeout: 5 * time.Second},
				PrespawnConns: -1,
				Logger:        slog.New(slog.DiscardHandler),
			})
			t.Cleanup(func() { require.NoError(t, s.Close()) })
			s.Add(listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }))
			d := pooly.Dialer{Service: s, Score: score}
			for range 2 {
				c, err := d.DialContext(t.Context(), "", "")
				require.NoError(t, err)
				_, err = c.Write([]byte("to which no answer comes"))
				require.NoError(t, err)
				closed := make(chan struct{})
				go func() {
					defer close(closed)
					_ = c.Close()
				}()
				<-closed
				require.Zero(t, s.Stats().InUse)
			}
		})
	}
}

func TestDialContextConnectionHasTheMethodsOfTheDrivers(t *testing.T) {
	type halves interface {
		CloseRead() error
		CloseWrite() error
	}
	plain, timed, overTLS := pooly.NewNetDriver("tcp"), pooly.NewNetDriver("tcp"), pooly.NewNetDriver("tcp")
	timed.SetReadTimeout(time.Minute)
	tlsAddress, config := tlsServer(t, echo, "127.0.0.1")
	overTLS.SetTLSConfig(config)
	address := listen(t, echo)
	for _, d := range []*pooly.NetDriver{plain, timed} {
		s := newNetService(t, d, address)
		c := dial(t, s)
		require.Implements(t, (*io.ReaderFrom)(nil), c)
		raw, err := c.(syscall.Conn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(uintptr) {}))
		n, err := io.Copy(c, strings.NewReader("copied"))
		require.NoError(t, err)
		require.EqualValues(t, 6, n)
		require.NoError(t, c.(halves).CloseWrite())
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "copied", string(got))
		_ = c.(halves).CloseRead() // not connected any more
		require.NoError(t, c.Close())
	}
	s := newNetService(t, overTLS, tlsAddress)
	c := dial(t, s)
	_, half := c.(interface{ CloseRead() error })
	require.False(t, half, "TLS has none")
	_, raw := c.(syscall.Conn)
	require.False(t, raw)
	_, err := io.Copy(c, bytes.NewBufferString("copied"))
	require.NoError(t, err)
	require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "copied", string(got))
	require.NoError(t, c.Close())

	pipes := pooly.NewNetDriver("pipe")
	pipes.SetDialContext(func(context.Context, string, string) (net.Conn, error) {
		a, b := net.Pipe()
		t.Cleanup(func() { _ = b.Close() })
		return a, nil
	})
	s = newNetService(t, pipes, "any")
	c = dial(t, s)
	_, half = c.(interface{ CloseWrite() error })
	require.False(t, half)
	require.NoError(t, c.Close())
}

func TestDialContextUnderAnHTTPTransport(t *testing.T) {
	var addresses []string
	var mu sync.Mutex
	served, requests := map[string]int{}, 0
	first8 := make(chan struct{}) // they wait for each other, so that the client dials eight times
	for range 3 {
		var server *httptest.Server
		server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			served[server.Listener.Addr().String()]++
			if requests++; requests == 8 {
				close(first8)
			}
			mu.Unlock()
			<-first8
			_, _ = io.Copy(w, r.Body)
		}))
		t.Cleanup(server.Close)
		addresses = append(addresses, server.Listener.Addr().String())
	}
	s := newNetService(t, pooly.NewNetDriver("tcp"), addresses...)
	transport := &http.Transport{DialContext: s.DialContext, MaxIdleConnsPerHost: 8}
	client := &http.Client{Transport: transport}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				resp, err := client.Post("http://service/", "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || string(body) != "body" {
					t.Errorf("%q %v", body, err)
				}
				_ = resp.Body.Close()
			}
		})
	}
	wg.Wait()
	transport.CloseIdleConnections()
	eventually(t, func() bool { return s.Stats().InUse == 0 })
	require.Len(t, served, 3)
	for _, h := range s.Stats().Hosts {
		require.False(t, h.Ejected)
		require.Greater(t, h.Score, 0.5) // below 1 if a slot of time has passed without a trial
	}
}

// Any client that can be given a function to dial with chooses its host by the bandit.
func ExampleService_DialContext() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from %s", r.Host)
	}))
	defer server.Close()
	s := pooly.NewService("web", nil)
	defer s.Close()
	s.Add(server.Listener.Addr().String())

	transport := &http.Transport{DialContext: s.DialContext}
	defer transport.CloseIdleConnections() // before the service is closed
	client := &http.Client{Transport: transport}
	resp, err := client.Get("http://web.internal/")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))
	// Output: hello from web.internal
}

// Users who leave long polls said that the hosts hang.
func TestLongPollsThatUsersLeaveEjectNoHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pooly.NewNetDriver("pipe")
		d.SetDialContext(func(_ context.Context, _, address string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				buf := make([]byte, 1)
				for {
					if _, err := b.Read(buf); err != nil {
						return
					}
					if buf[0] == 'p' {
						time.Sleep(10 * time.Second)
					}
					_, _ = b.Write(buf)
				}
			}()
			t.Cleanup(func() { _ = b.Close() })
			return a, nil
		})
		s := pooly.NewService("polls", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1,
		})
		s.SetHosts("a", "b")
		poll := func(question string) {
			c := dial(t, s)
			_, _ = c.Write([]byte(question))
			stop := time.AfterFunc(1200*time.Millisecond, func() { _ = c.Close() })
			_, _ = c.Read(make([]byte, 1))
			stop.Stop()
			_ = c.Close()
		}
		for _, mixed := range []bool{false, true} { // with other requests
			for range 10 {
				if mixed {
					poll("q")
					poll("q")
				}
				var wg sync.WaitGroup
				for range 12 {
					wg.Go(func() { poll("p") })
				}
				wg.Wait()
			}
			for _, a := range []string{"a", "b"} {
				require.Zero(t, hostStats(t, s, a).Ejections)
				require.GreaterOrEqual(t, hostStats(t, s, a).Score, 0.5)
			}
		}
		require.NoError(t, s.Close())
		time.Sleep(time.Minute) // the servers notice
	})
}

// A client that gives up on a host that hangs closes the connection, and that is all there is to
// see.
func TestDialContextEjectsAHostThatClientsGiveUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := pooly.NewNetDriver("pipe")
		d.SetDialContext(func(_ context.Context, _, address string) (net.Conn, error) {
			a, b := net.Pipe()
			if address == "hangs" {
				go func() { _, _ = io.Copy(io.Discard, b) }()
			} else {
				go echo(b)
			}
			t.Cleanup(func() { _ = b.Close() })
			return a, nil
		})
		s := pooly.NewService("pipes", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1, ConsecutiveFailures: 2,
		})
		s.SetHosts("hangs", "answers")
		// One request at a time: nobody else asks while a client waits.
		for i := 0; hostStats(t, s, "hangs").Ejections == 0; i++ {
			require.Less(t, i, 20)
			c := dial(t, s)
			_, err := c.Write([]byte("?"))
			require.NoError(t, err)
			time.AfterFunc(2*time.Second, func() { _ = c.Close() })
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
			time.Sleep(2 * time.Second)
		}
		require.EqualValues(t, 1, hostStats(t, s, "hangs").Ejections)
		require.Zero(t, hostStats(t, s, "answers").Ejections)
		require.NoError(t, s.Close())
	})
}

// Clients keep their connections while these work, so nearly all that ends has failed. A host that
// failed everything was therefore like the others, and was never ejected.
func TestHostThatFailsEveryRequestOfDialContextIsEjectedBesideHostsThatFailNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int32
		d := pooly.NewNetDriver("pipe")
		d.SetDialContext(func(_ context.Context, _, address string) (net.Conn, error) {
			a, b := net.Pipe()
			go func() {
				defer b.Close()
				for char := make([]byte, 1); ; {
					if _, err := b.Read(char); err != nil || address == "bad" || requests.Add(1)%200 == 0 {
						return
					}
					_, _ = b.Write(char)
				}
			}()
			return a, nil
		})
		s := pooly.NewService("pipes", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: d}, PrespawnConns: -1,
		})
		s.SetHosts("good", "fine", "bad")
		var wg sync.WaitGroup
		end := time.Now().Add(5 * time.Second)
		for range 10 {
			wg.Go(func() {
				for time.Now().Before(end) {
					c, err := s.DialContext(context.Background(), "", "")
					if err != nil {
						t.Error(err)
						return
					}
					for err == nil && time.Now().Before(end) {
						time.Sleep(10 * time.Millisecond)
						if _, err = c.Write([]byte("?")); err == nil {
							_, err = c.Read(make([]byte, 1))
						}
					}
					_ = c.Close()
				}
			})
		}
		wg.Wait()
		require.NotZero(t, hostStats(t, s, "bad").Ejections)
		require.False(t, s.Stats().Panic)
		require.NoError(t, s.Close())
	})
}
