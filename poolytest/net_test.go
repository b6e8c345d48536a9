package poolytest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/poolyhttp"
	"github.com/3XX0/pooly/poolytest"
	"github.com/stretchr/testify/require"
)

func dial(t *testing.T, n *poolytest.Net, address string) *poolytest.Conn {
	t.Helper()
	c, err := n.DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c.(*poolytest.Conn)
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	n, err := io.WriteString(c, text)
	require.NoError(t, err)
	require.Equal(t, len(text), n)
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
}

func TestAHostSendsBackWhatItReceives(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		c := dial(t, poolytest.NewNet(), "a")
		write(t, c, "hello")
		write(t, c, " world")
		read(t, c, "hello world")
		require.Equal(t, "a", c.RemoteAddr().String())
		require.Equal(t, "tcp", c.RemoteAddr().Network())
		require.NotEmpty(t, c.LocalAddr().String())
	})
}

func TestServeHandlesEachConnection(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		n.Serve("a", func(c net.Conn) {
			b := make([]byte, 4)
			if _, err := io.ReadFull(c, b); err == nil {
				_, _ = c.Write([]byte("pong"))
			}
		})
		for range 2 {
			c := dial(t, n, "a")
			write(t, c, "ping")
			read(t, c, "pong")
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err, "the handler has returned")
			require.NoError(t, c.Close())
		}
		n.Serve("a", nil)
		c := dial(t, n, "a")
		write(t, c, "echo")
		read(t, c, "echo")
	})
}

func TestAHandlerSeesItsClientLeave(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		left := make(chan error, 1)
		n.Serve("a", func(c net.Conn) {
			_, err := io.Copy(io.Discard, c)
			_, wrote := c.Write([]byte("x"))
			left <- errors.Join(err, wrote)
		})
		c := dial(t, n, "a")
		write(t, c, "bye")
		require.NoError(t, c.Close())
		require.ErrorIs(t, <-left, syscall.EPIPE)
	})
}

func TestListenServesAnHTTPServer(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		server := httptest.NewUnstartedServer(http.HandlerFunc(
			func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
		_ = server.Listener.Close()
		server.Listener = n.Listen("web:80")
		server.Start()
		transport := &http.Transport{DialContext: n.DialContext}
		client := &http.Client{Transport: transport, Timeout: time.Minute}
		resp, err := client.Get("http://web:80/")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.NoError(t, resp.Body.Close())
		transport.CloseIdleConnections()
		server.Close()

		_, err = n.DialContext(t.Context(), "tcp", "web:80")
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "the listener is closed")
		_, err = server.Listener.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, server.Listener.Close(), net.ErrClosed)
		l := n.Listen("web:80")
		c := dial(t, n, "web:80")
		require.NoError(t, l.Close())
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, "nobody has accepted it")
		n.Serve("web:80", nil)
		dial(t, n, "web:80")
	})
}

func TestPoolyHTTPWorksInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		t.Cleanup(n.Close)
		for _, address := range []string{"a:80", "b:80"} {
			server := &http.Server{Handler: http.HandlerFunc(
				func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, address) })}
			l := n.Listen(address)
			go func() { _ = server.Serve(l) }()
			t.Cleanup(func() { _ = server.Close() })
		}
		d := poolyhttp.NewDriver("http", &http.Transport{DialContext: n.DialContext})
		s := pooly.NewService("web", &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{Driver: d}})
		defer s.Close()
		s.SetHosts("a:80", "b:80")
		client := &http.Client{Transport: poolyhttp.NewTransport(s, nil), Timeout: time.Minute}
		n.Refuse("a:80")
		n.Reset("a:80")
		for range 10 {
			resp, err := client.Get("http://web/")
			require.NoError(t, err)
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, "b:80", string(body))
		}
	})
}

func TestTLSWorksOverANet(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		server := httptest.NewUnstartedServer(nil) // for its certificate
		server.StartTLS()
		certificates := server.TLS.Certificates
		roots := server.Client().Transport.(*http.Transport).TLSClientConfig
		server.Close()
		n := poolytest.NewNet()
		n.Serve("example.com:1", func(c net.Conn) {
			tc := tls.Server(c, &tls.Config{Certificates: certificates})
			_, _ = io.Copy(tc, tc)
		})
		d := n.Driver()
		d.SetTLSConfig(&tls.Config{
			RootCAs: roots.RootCAs,
			Time:    func() time.Time { return certificates[0].Leaf.NotBefore.Add(time.Hour) },
		})
		c, err := d.Dial(t.Context(), "example.com:1")
		require.NoError(t, err)
		defer d.Close(c)
		for range 2 {
			write(t, c.NetConn(), "secret")
			read(t, c.NetConn(), "secret")
			require.NoError(t, d.TestOnBorrow(c))
		}
	})
}

func TestRefusedDialsFailLikeThoseOfADialer(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		open := dial(t, n, "a")
		n.Refuse("a", "b")
		for _, address := range []string{"a", "b"} {
			_, err := n.DialContext(t.Context(), "tcp", address)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, "dial", op.Op)
			require.Equal(t, "dial tcp "+address+": connect: connection refused", err.Error())
		}
		write(t, open, "still open")
		read(t, open, "still open")
		n.Heal("a")
		dial(t, n, "a")
		_, err := n.DialContext(t.Context(), "tcp", "b")
		require.Error(t, err, "not healed")
	})
}

func TestFailedDialsReturnTheGivenError(t *testing.T) {
	n := poolytest.NewNet()
	want := errors.New("no route")
	n.Fail("a", want)
	_, err := n.DialContext(t.Context(), "tcp", "a")
	require.Equal(t, want, err)
	require.Equal(t, 1, n.Dials("a"))
	require.Zero(t, n.Open("a"))
}

func TestDialsToAHostThatHangsEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		n.Hang("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		_, err := n.DialContext(ctx, "tcp", "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		var op net.Error
		require.ErrorAs(t, err, &op)
		require.True(t, op.Timeout())
		require.Zero(t, n.Stats("a").Dialing)

		_, err = n.DialContext(ctx, "tcp", "b")
		require.ErrorIs(t, err, context.DeadlineExceeded, "it had ended before")

		for _, end := range []func(...string){n.Heal, n.Refuse} {
			n.Hang("a")
			done := make(chan error, 1)
			go func() {
				c, err := n.DialContext(t.Context(), "tcp", "a")
				if err == nil {
					_ = c.Close()
				}
				done <- err
			}()
			synctest.Wait()
			require.Equal(t, 1, n.Stats("a").Dialing)
			end("a")
			synctest.Wait()
			require.Len(t, done, 1, "the dial goes on at once")
		}
	})
}

func TestWhatIsSentThroughABlackHoleArrivesWhenItHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		served := make(chan string, 9)
		n.Serve("a", func(c net.Conn) {
			b := make([]byte, 9)
			for {
				i, err := c.Read(b)
				if err != nil {
					served <- err.Error()
					return
				}
				served <- string(b[:i])
				_, _ = c.Write(b[:i])
			}
		})
		c := dial(t, n, "a")
		n.Hang("a")
		write(t, c, "x")
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorContains(t, err, "timeout")
		require.Empty(t, served)
		n.Heal("a")
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		read(t, c, "x")
		require.Equal(t, "x", <-served)
		n.Hang("a")
		require.NoError(t, c.Close())
		synctest.Wait()
		require.Empty(t, served, "the end does not arrive either")
		n.Heal("a")
		require.Equal(t, "EOF", <-served)
	})
}

func TestSlowDialsEndAsTheHostIsThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		n.SlowDials("a", time.Second)
		began := time.Now()
		dial(t, n, "a")
		require.Equal(t, time.Second, time.Since(began))

		time.AfterFunc(time.Second/2, func() { n.Refuse("a") })
		_, err := n.DialContext(t.Context(), "tcp", "a")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.Equal(t, 2*time.Second, time.Since(began))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second/4)
		defer cancel()
		_, err = n.DialContext(ctx, "tcp", "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		times := n.Stats("a").DialTimes
		want := []time.Time{began, began.Add(time.Second), began.Add(2 * time.Second)}
		require.Equal(t, want, times)
		clear(times)
		require.Equal(t, want, n.Stats("a").DialTimes, "it was a copy")

		n.Heal("a")
		began = time.Now()
		dial(t, n, "a")
		require.Zero(t, time.Since(began))
	})
}

func TestSlowAnswersArriveLaterAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, handler := range []func(net.Conn){nil, func(c net.Conn) { _, _ = io.Copy(c, c) }} {
			n := poolytest.NewNet()
			n.Serve("a", handler)
			n.SlowAnswers("a", time.Second)
			c := dial(t, n, "a")
			began := time.Now()
			write(t, c, "slow ")
			synctest.Wait()
			n.SlowAnswers("a", 0)
			write(t, c, "fast")
			read(t, c, "slow fast")
			require.Equal(t, time.Second, time.Since(began))
			write(t, c, "x")
			read(t, c, "x")
			require.Equal(t, time.Second, time.Since(began))
			n.SlowAnswers("a", time.Second)
			n.Heal("a")
			write(t, c, "x")
			read(t, c, "x")
			require.Equal(t, time.Second, time.Since(began))
			require.NoError(t, c.Close())
		}
	})
}

func TestResetAfterBreaksAConnectionInItsAnswer(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		c := dial(t, n, "a")
		n.ResetAfter("a", 3)
		write(t, c, "12")
		read(t, c, "12")
		write(t, c, "345")
		read(t, c, "3")
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)

		n.ResetAfter("a", 0)
		c = dial(t, n, "a")
		write(t, c, "x")
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		n.Heal("a")
		c = dial(t, n, "a")
		write(t, c, "12345")
		read(t, c, "12345")
	})
}

func TestFlapChangesBetweenUpAndDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := poolytest.NewNet()
		n.Flap("a", 2*time.Second, time.Second)
		n.Flap("a", 2*time.Second, time.Second) // begins anew
		c := dial(t, n, "a")
		began := time.Now()
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Equal(t, 2*time.Second, time.Since(began))
		_, err = n.DialContext(t.Context(), "tcp", "a")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		time.Sleep(time.Second + time.Millisecond)
		dial(t, n, "a")
		time.Sleep(2 * time.Second)
		_, err = n.DialContext(t.Context(), "tcp", "a")
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		n.Heal("a")
		for range 5 {
			dial(t, n, "a")
			time.Sleep(time.Second)
		}
	})
	require.Panics(t, func() { poolytest.NewNet().Flap("a", 0, 1) })
}

func TestResetBreaksOpenConnections(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		handled := make(chan error, 1)
		n.Serve("a", func(c net.Conn) {
			_, err := c.Read(make([]byte, 1))
			handled <- err
		})
		c, other := dial(t, n, "a"), dial(t, n, "b")
		time.AfterFunc(time.Millisecond, func() { n.Reset("a") })
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.ErrorIs(t, <-handled, syscall.ECONNRESET)
		write(t, other, "x")
		read(t, other, "x")
		dial(t, n, "b")
	})
}

func TestCloseIdleSparesWhoWaitsForAnAnswer(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		fresh, used, waits := dial(t, n, "a"), dial(t, n, "a"), dial(t, n, "a")
		write(t, used, "x")
		read(t, used, "x")
		write(t, waits, "x")
		n.CloseIdle("a")
		for _, c := range []net.Conn{fresh, used} {
			_, err := c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
		}
		read(t, waits, "x")
		write(t, waits, "y")
		read(t, waits, "y")
	})
}

func TestStatsCount(t *testing.T) {
	n := poolytest.NewNet()
	first, second := dial(t, n, "a"), dial(t, n, "a")
	require.Equal(t, 2, n.Open("a"))
	require.NoError(t, first.Close())
	require.Error(t, first.Close())
	dial(t, n, "a")
	got := n.Stats("a")
	require.Len(t, got.DialTimes, 3)
	got.DialTimes = nil
	require.Equal(t, poolytest.Stats{Dials: 3, Open: 2, Closed: 1, Peak: 2}, got)
	n.Reset("a")
	require.Equal(t, 2, n.Open("a"), "a connection that broke must be closed all the same")
	require.NoError(t, second.Close())
	require.Equal(t, 1, n.Open("a"))
	require.Equal(t, poolytest.Stats{}, n.Stats("b"))
}

func TestCloseEndsHandlersAndDials(t *testing.T) {
	everywhere(t, func(t *testing.T) {
		n := poolytest.NewNet()
		ended := false
		n.Serve("a", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1))
			time.Sleep(time.Millisecond)
			ended = true
		})
		dial(t, n, "a")
		n.Hang("a", "b")
		done := make(chan error, 1)
		go func() {
			_, err := n.DialContext(t.Context(), "tcp", "b")
			done <- err
		}()
		n.Close()
		require.True(t, ended)
		require.ErrorIs(t, <-done, syscall.ECONNREFUSED)
		for _, address := range []string{"a", "never used"} {
			_, err := n.DialContext(t.Context(), "tcp", address)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
	})
}
