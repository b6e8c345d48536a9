// Package debugpage tests the page of package debug in a real browser, Debian's chromium. Where there is none, its
// tests are skipped.
//
// With POOLY_SCREENSHOTS set to a folder, pictures of the page go there.
package debugpage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/3XX0/pooly/debug"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// browser is one chromium for all tests, nil if there is none.
var browser context.Context

func TestMain(m *testing.M) {
	os.Exit(func() int {
		path, err := exec.LookPath("chromium")
		if err != nil {
			return m.Run()
		}
		options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path))
		if os.Geteuid() == 0 {
			options = append(options, chromedp.NoSandbox) // which root cannot have
		}
		allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
		defer stop()
		var cancel context.CancelFunc
		browser, cancel = chromedp.NewContext(allocator)
		defer func() { _ = chromedp.Cancel(browser); cancel() }()
		if err := chromedp.Do(browser); err != nil {
			fmt.Fprintln(os.Stderr, "chromium does not start:", err)
			return 1
		}
		return m.Run()
	}())
}

// tab is a page that is looked at. What goes wrong in it fails the test when that ends.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // exceptions, errors in the console and dialogs
	requests []string // URLs
}

func open(t *testing.T, address string, actions ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	if browser == nil {
		t.Skip("chromium is not installed")
	}
	p := &tab{t: t}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithListener(p.listen))
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // opens the tab, whose end must not be that of the timeout
	var timeout context.CancelFunc
	p.ctx, timeout = context.WithTimeout(ctx, 60*time.Second)
	t.Cleanup(timeout)
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		require.Empty(t, p.problems)
	})
	p.do(call(log.Enable, cdp.Empty{}), call(network.Enable, network.EnableParams{}))
	p.do(actions...)
	p.do(chromedp.Navigate(address))
	return p
}

// call makes an action of a command of the browser's protocol.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, command, params)
		return err
	})
}

func (p *tab) listen(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		p.problems = append(p.problems, fmt.Sprintf("%+v", e.ExceptionDetails))
	case *log.EventEntryAdded: // what violates the page's policy too
		if e.Entry.Level == log.EntryLevelError && !strings.Contains(e.Entry.Text, "ERR_CONNECTION_REFUSED") {
			p.problems = append(p.problems, e.Entry.Text)
		}
	case *page.EventJavascriptDialogOpening:
		p.problems = append(p.problems, "dialog: "+e.Message)
		go func() { // not here, where messages are read
			_, _ = chromedp.Call(p.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{Accept: true})
		}()
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
	}
}

func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	require.NoError(p.t, chromedp.Do(p.ctx, actions...))
}

// get returns what an action finds.
func get[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	v, err := chromedp.Run(p.ctx, action)
	require.NoError(p.t, err)
	return v
}

// eval evaluates JavaScript.
func eval[T any](p *tab, script string) T {
	p.t.Helper()
	return get(p, chromedp.Evaluate[T](script))
}

// becomes waits until a script gives true.
func (p *tab) becomes(script string) {
	p.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !eval[bool](p, "!!("+script+")"); time.Sleep(30 * time.Millisecond) {
		require.True(p.t, time.Now().Before(deadline), "does not become true: %s", script)
	}
}

// shot takes a picture, if these are wanted.
func (p *tab) shot(name string) {
	p.t.Helper()
	folder := os.Getenv("POOLY_SCREENSHOTS")
	if folder == "" {
		return
	}
	picture := get(p, chromedp.CaptureScreenshot())
	require.NoError(p.t, os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644))
}

func screen(width, height int64, dark bool) chromedp.Action[chromedp.Void] {
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	return chromedp.Steps(chromedp.EmulateViewport(width, height), call(emulation.SetEmulatedMedia,
		emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}}))
}

// memory is a network in memory, in which hosts of the name "down" refuse.
type memory struct{}

func (memory) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	if strings.Contains(address, "down") {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	return pooly.NewConn(address), nil
}
func (memory) Close(*pooly.Conn)              {}
func (memory) TestOnBorrow(*pooly.Conn) error { return nil }
func (memory) Temporary(err error) bool       { return !errors.Is(err, context.DeadlineExceeded) }

func newService(t *testing.T, name string, strategy pooly.Bandit, addresses ...string) *pooly.Service {
	s := pooly.NewService(name, &pooly.ServiceConfig{
		PoolConfig:     pooly.PoolConfig{Driver: memory{}, MaxConns: 8},
		BanditStrategy: strategy,
		DecayDuration:  6 * time.Second, // so that there is a history soon
		CloseDeadline:  time.Nanosecond, // tests leave leases out
	})
	t.Cleanup(func() { _ = s.Close() })
	for _, a := range addresses {
		s.Add(a)
	}
	return s
}

func serve(t *testing.T, services ...*pooly.Service) *httptest.Server {
	server := httptest.NewServer(debug.Handler(services...))
	t.Cleanup(server.Close)
	return server
}

const text = `[...document.querySelectorAll("%s")].map(e => e.innerText.trim())`

// A host or service may have any name, and none may be more than a name.
func TestPageShowsNamesAsTheyAre(t *testing.T) {
	name := `</title><script>alert("service")</script>`
	addresses := []string{
		`<script>alert("host")</script>:80`,
		`<img src=x onerror=alert("img")>down`,
		`"><svg onload=alert(1)>`,
		"{{.}} & &amp; <b>bold</b>",
	}
	s := newService(t, name, nil, addresses...)
	p := open(t, serve(t, s).URL)
	p.becomes(`document.querySelector("#status").className === "live"`) // refreshed once, by script
	require.ElementsMatch(t, addresses, eval[[]string](p, fmt.Sprintf(text, ".address")))
	require.Equal(t, []string{name}, eval[[]string](p, fmt.Sprintf(text, "h2")))
	require.Equal(t, "pooly · "+name, eval[string](p, "document.title"))
	require.Zero(t, eval[int](p, `document.querySelectorAll("main script, main img, main b b, [onload], [onerror]").length`))
	require.Contains(t, eval[string](p, `document.querySelector(".cause").innerText`), `onerror=alert("img")`)
}

func TestPageRefreshesItselfWithoutReloading(t *testing.T) {
	s := newService(t, "orders", nil, "a:80", "b:80", "down:80")
	server := serve(t, s)
	p := open(t, server.URL+"/debug?sort=score")
	require.Contains(t, eval[string](p, `document.querySelector("main").innerText`), "0 leases")
	eval[int](p, "window.marker = 1")
	for range 7 {
		c, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, 1))
	}
	c, err := s.GetConn()
	require.NoError(t, err)
	p.becomes(`document.querySelector("main").innerText.includes("4 leases")`)
	p.becomes(`/1\s+in use/.test(document.querySelector("tbody").innerText)`)
	p.becomes(`/probe|probing/.test(document.querySelector("tr.ejected").innerText)`)
	require.Equal(t, 1, eval[int](p, "window.marker"), "the same document")
	require.NoError(t, c.Release(nil, 1))
	s.Remove("down:80")
	s.Add("late:80")
	p.becomes(`document.querySelector("main").innerText.includes("late:80") && !document.querySelector("tr.ejected")`)

	// Focus stays where it was, since the keyboard has nothing else.
	eval[bool](p, `(document.querySelector("thead th:nth-child(3) a").focus(), true)`) // at once, between two refreshes
	seen := eval[string](p, `performance.getEntriesByType("resource").length + ""`)
	p.becomes(`performance.getEntriesByType("resource").length > ` + seen + ` + 1`)
	require.Equal(t, "?sort=share", eval[string](p, `document.activeElement.getAttribute("href")`))

	p.do(chromedp.Click("#pause"))
	p.becomes(`document.querySelector("#message").innerText === "paused"`)
	s.Remove("late:80")
	was := eval[int](p, `performance.getEntriesByType("resource").length`)
	time.Sleep(1500 * time.Millisecond) // the browser's time is real; a refresh would come after a second
	require.LessOrEqual(t, eval[int](p, `performance.getEntriesByType("resource").length`), was+1, "one may have been on its way")
	require.Contains(t, eval[string](p, `document.querySelector("main").innerText`), "late:80")
	p.do(chromedp.Click("#pause"))
	p.becomes(`!document.querySelector("main").innerText.includes("late:80")`)

	server.CloseClientConnections()
	server.Close()
	p.becomes(`document.querySelector("#status").className === "lost"`)
	require.Contains(t, eval[string](p, `document.querySelector("main").innerText`), "orders", "the last figures stay")
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, address := range p.requests {
		u, err := url.Parse(address)
		require.NoError(t, err)
		require.True(t, u.Scheme == "data" || "http://"+u.Host == server.URL, "asked elsewhere: %s", address)
	}
}

func TestPageWorksWithoutScripts(t *testing.T) {
	s := newService(t, "orders", nil, "a:80")
	p := open(t, serve(t, s).URL, call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	require.Contains(t, get(p, chromedp.OuterHTML("main")), "a:80")
	require.Equal(t, "5", get(p, chromedp.AttributeValue(`meta[http-equiv="refresh"]`, "content", chromedp.NodeReady)).Value)
}

// Nothing is wider than the screen, whatever its size, and dark is dark.
func TestPageFitsEveryScreen(t *testing.T) {
	if browser == nil {
		t.Skip("chromium is not installed")
	}
	several := newService(t, "orders", pooly.NewSoftMax(0.2), "10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379",
		"[2001:db8:85a3::8a2e:370:7334]:6379", "down-1.eu-west-3.compute.internal:6379")
	for range 2 {
		_, err := several.GetConn()
		require.NoError(t, err)
	}
	timedOut := false
	for range 100 { // one request times out at one host, and is tried again
		_ = several.Do(t.Context(), func(c *pooly.Conn) error {
			if timedOut || !strings.HasPrefix(c.Address(), "[") {
				return nil
			}
			timedOut = true
			return pooly.Retry(context.DeadlineExceeded)
		})
	}
	require.True(t, timedOut)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go traffic(ctx, several)
	many := newService(t, "many", pooly.NewHotCold(5, 0.84))
	for i := range 600 {
		many.Add(fmt.Sprintf("10.1.%d.%d:80", i/250, i%250))
	}
	empty := newService(t, "empty", nil)
	long := newService(t, strings.Repeat("long", 40), nil, strings.Repeat("x", 300)+".example.com:80", "down"+strings.Repeat("-", 300))
	pages := map[string]*httptest.Server{
		"several": serve(t, several),
		"many":    serve(t, many),
		"empty":   serve(t, empty),
		"long":    serve(t, long),
		"all":     serve(t, several, long, empty),
		"none":    serve(t),
	}
	for name, server := range pages {
		t.Run(name, func(t *testing.T) {
			p := open(t, server.URL)
			if name == "several" {
				p.becomes(`document.querySelector(".spark path:last-child").getAttribute("d").length > 300`)
				p.becomes(`document.querySelector("#status").className === "live"`)
			}
			for _, s := range []struct {
				name          string
				width, height int64
			}{{"desktop", 1200, 800}, {"tablet", 800, 900}, {"phone", 375, 812}, {"small", 320, 568}} {
				for _, dark := range []bool{false, true} {
					full := fmt.Sprintf("%s-%s-dark-%v", name, s.name, dark)
					p.do(screen(s.width, s.height, dark))
					require.LessOrEqual(t, eval[int64](p, "document.documentElement.scrollWidth"), s.width, "%s scrolls sideways", full)
					require.Empty(t, eval[[]string](p, `[...document.querySelectorAll("main *")].filter(e =>
						e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("svg")).map(e => e.className + ": " + e.textContent)`), full)
					light := eval[float64](p, `getComputedStyle(document.body).backgroundColor.match(/\d+/g).reduce((a, b) => a + +b, 0) / 3`)
					require.Equal(t, dark, light < 128, full)
					p.shot(full)
				}
			}
		})
	}
	p := open(t, pages["many"].URL)
	require.Equal(t, 500, eval[int](p, `document.querySelectorAll("tbody tr").length`))
	require.Contains(t, eval[string](p, `document.querySelector("main").innerText`), "and 100 hosts more")
}

// traffic uses a service until ctx ends, whose hosts are unequal.
func traffic(ctx context.Context, s *pooly.Service) {
	for i := 0; ctx.Err() == nil; i++ {
		c, err := s.GetConn()
		if errors.Is(err, pooly.ErrPoolClosed) {
			return
		}
		if err == nil {
			score := 0.9
			switch {
			case strings.HasPrefix(c.Address(), "10.0.0.3"):
				score = 0.2
			case strings.HasPrefix(c.Address(), "10.0.0.2"):
				score = 0.5 + float64(i/400%5)/10
			}
			_ = c.Release(nil, score)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// The text of the page is readable: WCAG 2.2 asks for a contrast of 4.5 to 1.
func TestPageHasContrast(t *testing.T) {
	s := newService(t, "orders", nil, "a:80", "down:80")
	_, err := s.GetConn()
	require.NoError(t, err)
	server := serve(t, s)
	for _, dark := range []bool{false, true} {
		p := open(t, server.URL, screen(1200, 800, dark))
		p.becomes(`document.querySelector("#status").className === "live"`)
		require.Empty(t, eval[[]string](p, contrast), "dark: %v", dark)
	}
}

const contrast = `(() => {
	const rgb = c => c.match(/[\d.]+/g).map(Number);
	const luminance = c => {
		const [r, g, b] = rgb(c).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
		return .2126 * r + .7152 * g + .0722 * b;
	};
	const ground = e => {
		for (; e; e = e.parentElement) {
			const c = getComputedStyle(e).backgroundColor;
			if (rgb(c)[3] !== 0) return c;
		}
		return "rgb(255, 255, 255)";
	};
	return [...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) &&
		e.checkVisibility() && !e.closest("script, style, noscript")).map(e => {
		const [a, b] = [luminance(getComputedStyle(e).color), luminance(ground(e))].sort((x, y) => y - x);
		return [(a + .05) / (b + .05), e.className + ": " + e.textContent];
	}).filter(([ratio]) => ratio < 4.5).map(([ratio, what]) => ratio.toFixed(2) + " " + what);
})()`

// Guards against a page that only looks right because the handler is fast: it must not pile up requests on a slow one.
func TestPageAsksASlowServerOnceAtATime(t *testing.T) {
	s := newService(t, "orders", nil, "a:80")
	handler := debug.Handler(s)
	var mu sync.Mutex
	now, most, total := 0, 0, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("format") == "fragment" {
			mu.Lock()
			now++
			total++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(1200 * time.Millisecond)
			defer func() { mu.Lock(); now--; mu.Unlock() }()
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()
	p := open(t, server.URL)
	p.becomes(`performance.getEntriesByType("resource").length >= 2`)
	mu.Lock()
	defer mu.Unlock()
	require.GreaterOrEqual(t, total, 2)
	require.Equal(t, 1, most)
}
