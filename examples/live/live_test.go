package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// stage is a scene that a test sets.
type stage struct {
	next     sample
	strategy int
	rate     int
}

func newStage() *stage {
	s := &stage{rate: 500}
	s.next = sample{strategy: "round-robin", rate: 500, took: []time.Duration{10 * time.Millisecond, 80 * time.Millisecond}}
	for i := range hostTimes {
		s.next.hosts = append(s.next.hosts, hostSample{served: 10 * (i + 1)})
	}
	return s
}

func (s *stage) sample() sample        { return s.next }
func (s *stage) set(host int, m mood)  { s.next.hosts[host].mood = m }
func (s *stage) nextStrategy(step int) { s.strategy += step }
func (s *stage) changeRate(by int)     { s.rate += by }

func press(m *model, keys ...string) (cmd tea.Cmd) {
	codes := map[string]rune{"right": tea.KeyRight, "left": tea.KeyLeft, "up": tea.KeyUp, "down": tea.KeyDown}
	for _, key := range keys {
		message := tea.KeyPressMsg{Code: codes[key]}
		if message.Code == 0 {
			message = tea.KeyPressMsg{Code: rune(key[0]), Text: key}
		}
		_, cmd = m.Update(message)
	}
	return cmd
}

func TestKeysChangeTheWorld(t *testing.T) {
	s := newStage()
	m := newModel(s, true)
	m.Update(tick{})
	press(m, "3", "b")
	require.Equal(t, broken, s.next.hosts[2].mood)
	require.False(t, m.pilot, "who acts has the controls")
	press(m, "down", "s", "up", "up", "s")
	require.Equal(t, []mood{healthy, slow, broken, slow, healthy}, moods(s))
	press(m, "3", "h")
	require.Equal(t, healthy, s.next.hosts[2].mood)
	press(m, "right", "right", "left", "+", "+", "-")
	require.Equal(t, 1, s.strategy)
	require.Equal(t, 600, s.rate)
	press(m, "up", "up", "up", "up", "up", "h")
	require.Equal(t, healthy, s.next.hosts[0].mood)
	require.NotNil(t, press(m, "q"))
	require.IsType(t, tea.QuitMsg{}, press(m, "q")())
}

func moods(s *stage) (all []mood) {
	for _, h := range s.next.hosts {
		all = append(all, h.mood)
	}
	return all
}

func TestTheAutopilotBreaksAndHeals(t *testing.T) {
	s := newStage()
	m := newModel(s, true)
	ill, well := 0, 0
	for range 10 * pilotTurn {
		m.Update(tick{})
		switch n := len(hostTimes) - strings.Count(fmt.Sprint(moods(s)), "healthy"); n {
		case 0:
			well++
		case 1:
			ill++
		default:
			require.Failf(t, "too many are ill", "%d", n)
		}
	}
	require.Greater(t, ill, 4*pilotTurn)
	require.Greater(t, well, 4*pilotTurn)
}

// Whatever the size of the terminal, with and without colors, the screen is as wide and high at most.
func TestEveryScreenFits(t *testing.T) {
	s := newStage()
	s.next.hosts[1].mood, s.next.hosts[1].stats.Ejected = broken, true
	s.next.hosts[1].stats.NextProbe = 9900 * time.Millisecond
	s.next.events = []string{strings.Repeat("a long line of the log ", 20)}
	for _, profile := range []colorprofile.Profile{colorprofile.TrueColor, colorprofile.NoTTY} {
		m := newModel(s, true)
		m.Update(tea.ColorProfileMsg{Profile: profile})
		for range 300 {
			m.Update(tick{})
		}
		for _, width := range []int{0, 1, 10, 40, 60, 80, 90, 120, 200, 1000} {
			for _, height := range []int{0, 1, 3, 6, 8, 12, 18, 24, 50} {
				m.Update(tea.WindowSizeMsg{Width: width, Height: height})
				lines := strings.Split(m.View().Content, "\n")
				require.LessOrEqual(t, len(lines), max(1, height), "%dx%d", width, height)
				if width > 0 {
					for _, line := range lines {
						require.LessOrEqual(t, lipgloss.Width(line), width, "%dx%d: %q", width, height, ansi.Strip(line))
					}
				}
				if height >= 8 {
					require.Len(t, lines, height, "%dx%d", width, height)
				}
			}
		}
	}
}

func TestTheScreenSaysHowThingsAre(t *testing.T) {
	s := newStage()
	s.next.failed = 50
	s.next.hosts[4].mean = 18 * time.Millisecond
	s.next.hosts[4].mood, s.next.hosts[4].stats.Ejected = broken, true
	s.next.hosts[4].stats.NextProbe = 1200 * time.Millisecond
	s.next.events = []string{"host ejected"}
	m := newModel(s, false)
	m.Update(tick{})
	m.Update(tea.WindowSizeMsg{Width: 120, Height: 30})
	screen := ansi.Strip(m.View().Content)
	for _, want := range []string{
		"round-robin", "takes  18ms", "500 req/s", "p50 80ms", "failed 25.0 %", "broken, ejected, probe in 1.2s", "host ejected", " 25 % ",
		"b: break",
	} {
		require.Contains(t, screen, want)
	}
}

// What matters is not cut off on a narrow screen: all keys, all figures, and what each host is like.
func TestFiftyColumnsAreEnough(t *testing.T) {
	s := newStage()
	s.next.rate, s.next.failed = maxRate, 1
	s.next.took = []time.Duration{10 * time.Millisecond, patience - time.Millisecond}
	for i := range s.next.hosts {
		s.next.hosts[i].mean = hostTimes[i]
	}
	s.next.hosts[1].mood, s.next.hosts[1].mean = slow, slowdown*hostTimes[1]
	s.next.hosts[4].mood, s.next.hosts[4].stats.Ejected = broken, true
	s.next.hosts[4].stats.NextProbe = 1200 * time.Millisecond
	for _, strategy := range strategies() {
		s.next.strategy = fmt.Sprint(strategy)
		m := newModel(s, true)
		m.Update(tick{})
		m.Update(tea.WindowSizeMsg{Width: 50, Height: 20})
		screen := ansi.Strip(m.View().Content)
		for _, want := range []string{
			s.next.strategy + "  autopilot\n", "1200 req/s  p50 999ms  p99 999ms  failed 0.7 %",
			"■ 1   7ms healthy", "■ 2  72ms slow", "■ 5  18ms broken, probe in 1.2s", " 33 % ", "█",
			"share of the traffic, newest at the right\n", "b)reak s)low h)eal", "q)uit",
		} {
			require.Contains(t, screen, want)
		}
	}
}

func TestTheChartShowsShares(t *testing.T) {
	require.Equal(t, []int{0, 0, 0, 1, 1, 5}, divide(column{30, 20, 0, 0, 0, 10}, 6))
	require.Equal(t, []int{none, none}, divide(column{0, 0, 0, 0, 0, 0}, 2))
}

// The newest column is at the right, the first host at the bottom, and what does not fit is the oldest.
func TestTheChartWithoutColors(t *testing.T) {
	history := []column{{1, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0}, {1, 1, 0, 0, 0, 0}, {1, 0, 0, 0, 0, 1}}
	require.Equal(t, []string{" 1 2x", " 1 11"}, lettered(history, 5, 2))
	require.Equal(t, []string{"2x", "11"}, lettered(history, 2, 2))
	for _, line := range stacked(history, 5, 2) {
		require.Equal(t, 5, lipgloss.Width(line))
	}
}

func TestABarIsAsLongAsItsShare(t *testing.T) {
	for share, want := range map[float64]string{0: "    ", 0.5: "██  ", 0.53125: "██▏ ", 1: "████", 1.5: "████"} {
		require.Equal(t, want, ansi.Strip(bar(share, 4, hostColors[0])), share)
	}
}

func TestPercentiles(t *testing.T) {
	require.Zero(t, percentile(nil, 0.5))
	require.EqualValues(t, 2, percentile([]time.Duration{3, 1, 2}, 0.5))
	require.EqualValues(t, 3, percentile([]time.Duration{3, 1, 2}, 0.99))
}

// eventually waits for the traffic of a world to become as a test wants it.
func eventually(t *testing.T, w *world, what string, ok func(sample) bool) {
	t.Helper()
	w.sample()
	require.Eventually(t, func() bool { return ok(w.sample()) }, 20*time.Second, 250*time.Millisecond, what)
}

// The real service over real sockets: what the demonstration is about.
func TestTrafficLeavesHostsThatAreIllAndComesBack(t *testing.T) {
	w, err := newWorld(300)
	require.NoError(t, err)
	defer w.close()
	eventually(t, w, "every host has traffic", func(s sample) bool {
		for _, h := range s.hosts {
			if h.served == 0 {
				return false
			}
		}
		return true
	})
	w.set(0, broken)
	eventually(t, w, "none goes to a broken host", func(s sample) bool {
		return s.hosts[0].stats.Ejected && s.hosts[0].served == 0 && s.failed == 0 && s.hosts[1].served > 0
	})
	w.set(1, slow)
	eventually(t, w, "little goes to a slow host", func(s sample) bool {
		return s.hosts[1].served < s.hosts[2].served && s.hosts[2].served > 10
	})
	w.set(0, healthy)
	w.set(1, healthy)
	eventually(t, w, "it comes back", func(s sample) bool {
		return !s.hosts[0].stats.Ejected && s.hosts[0].served > s.hosts[4].served && s.hosts[1].served > s.hosts[4].served
	})
	require.Contains(t, strings.Join(w.sample().events, "\n"), "host restored 1", "by the number on the screen")
}

func TestEachStrategyTakesOverAtOnce(t *testing.T) {
	w, err := newWorld(200)
	require.NoError(t, err)
	defer w.close()
	seen := make(map[string]bool)
	for range strategies() {
		eventually(t, w, "requests are served", func(s sample) bool {
			seen[s.strategy] = true
			return s.hosts[0].served > 0
		})
		w.nextStrategy(1)
	}
	require.Len(t, seen, len(strategies()))
	for !strings.Contains(w.sample().strategy, "round-robin") || strings.Contains(w.sample().strategy, "weighted") {
		w.nextStrategy(-1)
	}
	eventually(t, w, "round-robin is in force", func(s sample) bool {
		least, most := s.hosts[0].served, s.hosts[0].served
		for _, h := range s.hosts {
			least, most = min(least, h.served), max(most, h.served)
		}
		return least > 0 && most-least <= 2
	})
}

// screen is the terminal of a program under test.
type screen struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *screen) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(ansi.Strip(s.b.String()), text)
}

// The whole program, from its first screen to its last key.
func TestTheProgramRunsInATerminal(t *testing.T) {
	keyboard, keys := io.Pipe()
	var out screen
	done := make(chan error, 1)
	go func() {
		done <- run(200, false, tea.WithInput(keyboard), tea.WithOutput(&out), tea.WithWindowSize(100, 30),
			tea.WithoutSignals(), tea.WithEnvironment([]string{"TERM=xterm-256color"}))
	}()
	require.Eventually(t, func() bool { return out.has("share of the traffic") }, 10*time.Second, 10*time.Millisecond)
	_, err := keys.Write([]byte("2b"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return out.has("ejected") }, 10*time.Second, 10*time.Millisecond)
	_, err = keys.Write([]byte("q"))
	require.NoError(t, err)
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(10 * time.Second):
		require.Fail(t, "q does not end it")
	}
	_ = keys.Close()
}

func TestThePictureIsWellFormed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "live.svg")
	require.NoError(t, draw(file, 200, 8*interval))
	picture, err := os.ReadFile(file)
	require.NoError(t, err)
	d := xml.NewDecoder(bytes.NewReader(picture))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	require.Contains(t, string(picture), "least latency")
	require.Contains(t, string(picture), hex(hostColors[0]))
}
