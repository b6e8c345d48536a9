package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/colorprofile"
)

const (
	interval  = 200 * time.Millisecond // between two samples
	remember  = 500                    // samples: as many as the widest terminal has columns
	recent    = 10                     // samples over which the figures are
	pilotTurn = 20                     // samples between two acts of the autopilot
	rateStep  = 100
	wide      = 90 // columns, from which on there is room for everything
	narrow    = 70 // columns, below which there is room for the least only
)

// scene is what the model shows and changes: a world, or a test's.
type scene interface {
	sample() sample
	set(host int, m mood)
	nextStrategy(step int)
	changeRate(by int)
}

type model struct {
	scene         scene
	width, height int
	latest        sample
	history       []column
	took          [][]time.Duration // of the recent samples
	tails         []time.Duration   // the 99th percentile at each sample
	plain         bool              // the terminal has no colors
	selected      int
	pilot         bool
	until         int // samples until the pilot acts
	rng           *rand.Rand
}

func newModel(s scene, pilot bool) *model {
	return &model{scene: s, pilot: pilot, until: pilotTurn, width: 80, height: 24, rng: rand.New(rand.NewPCG(1, 2))}
}

type tick struct{}

func ticking() tea.Cmd {
	return tea.Tick(interval, func(time.Time) tea.Msg { return tick{} })
}

// Init implements tea.Model.
func (m *model) Init() tea.Cmd { return ticking() }

// Update implements tea.Model.
func (m *model) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case tick:
		m.take(m.scene.sample())
		m.fly()
		return m, ticking()
	case tea.WindowSizeMsg:
		m.width, m.height = message.Width, message.Height
	case tea.ColorProfileMsg:
		m.plain = message.Profile < colorprofile.ANSI
	case tea.KeyPressMsg:
		if m.press(message.String()) {
			return m, tea.Quit
		}
	}
	return m, nil
}

// take adds a sample to what is shown.
func (m *model) take(s sample) {
	m.latest = s
	c := make(column, 0, len(s.hosts)+1)
	for _, h := range s.hosts {
		c = append(c, h.served)
	}
	m.history = append(m.history, append(c, s.failed))
	m.took = append(m.took, s.took)
	m.history = m.history[max(0, len(m.history)-remember):]
	m.took = m.took[max(0, len(m.took)-recent):]
	m.tails = append(m.tails, m.latency(0.99))
	m.tails = m.tails[max(0, len(m.tails)-remember):]
}

// press reports whether the key ends the program.
func (m *model) press(key string) (quit bool) {
	act := func(to mood) {
		m.pilot = false
		m.scene.set(m.selected, to)
	}
	switch key {
	case "q", "ctrl+c", "esc":
		return true
	case "1", "2", "3", "4", "5":
		m.selected = min(int(key[0]-'1'), max(0, len(m.latest.hosts)-1))
	case "up", "k":
		m.selected = max(0, m.selected-1)
	case "down", "j":
		m.selected = min(max(0, len(m.latest.hosts)-1), m.selected+1)
	case "b":
		act(broken)
	case "s":
		act(slow)
	case "h":
		act(healthy)
	case "right", "tab", "n":
		m.scene.nextStrategy(1)
	case "left", "shift+tab", "p":
		m.scene.nextStrategy(-1)
	case "+", "=":
		m.scene.changeRate(rateStep)
	case "-":
		m.scene.changeRate(-rateStep)
	case "a":
		m.pilot, m.until = !m.pilot, 1
	}
	return false
}

// fly has the autopilot make a host worse, and in its next turn heal those that are not well.
func (m *model) fly() {
	if m.until--; !m.pilot || m.until > 0 {
		return
	}
	m.until = pilotTurn
	healed := false
	for i, h := range m.latest.hosts {
		if h.mood != healthy {
			m.scene.set(i, healthy)
			healed = true
		}
	}
	if !healed {
		m.selected = m.rng.IntN(len(m.latest.hosts))
		m.scene.set(m.selected, slow+mood(m.rng.IntN(2)))
	}
}

// latency returns a percentile over the recent samples.
func (m *model) latency(p float64) time.Duration {
	var all []time.Duration
	for _, took := range m.took {
		all = append(all, took...)
	}
	return percentile(all, p)
}

// totals returns what was served by each host over the recent samples, what failed, and all together.
func (m *model) totals() (parts column, all int) {
	parts = make(column, len(m.latest.hosts)+1)
	for _, c := range m.history[max(0, len(m.history)-recent):] {
		for i, part := range c {
			parts[i] += part
			all += part
		}
	}
	return parts, all
}

// View implements tea.Model. What does not fit is left out, the least important first: events, latencies, chart.
func (m *model) View() tea.View {
	quiet := lipgloss.NewStyle().Foreground(quietColor)
	top := append(m.title(), m.hosts()...)
	bottom := []string{quiet.Render(m.keys())}
	spare := m.height - len(top) - len(bottom)
	if spare >= 10 {
		events := make([]string, eventsKept)
		for i, line := range m.latest.events {
			events[i] = quiet.Render(line)
		}
		bottom = append(events, bottom...)
		spare -= eventsKept
	}
	if spare >= 6 {
		bottom = append(m.latencies(), bottom...)
		spare -= 2
	}
	lines := top
	if spare >= 3 {
		lines = append(lines, quiet.Render(m.heading()))
		if m.plain {
			lines = append(lines, lettered(m.history, m.width, spare-1)...)
		} else {
			lines = append(lines, stacked(m.history, m.width, spare-1)...)
		}
	} else {
		for range spare {
			lines = append(lines, "")
		}
	}
	lines = append(lines, bottom...)
	for i, line := range lines {
		lines[i] = lipgloss.NewStyle().MaxWidth(m.width).Render(line)
	}
	v := tea.NewView(strings.Join(lines[:min(len(lines), max(1, m.height))], "\n"))
	v.AltScreen = true
	v.WindowTitle = "pooly live"
	return v
}

func (m *model) heading() string {
	if m.width < narrow {
		return "share of the traffic, newest at the right"
	}
	return fmt.Sprintf("share of the traffic, %v each column, newest at the right", interval)
}

// title is one line, or two on a narrow screen.
func (m *model) title() []string {
	parts, all := m.totals()
	failed := 0.0
	if all > 0 {
		failed = float64(parts[len(parts)-1]) / float64(all)
	}
	bold := lipgloss.NewStyle().Bold(true)
	name := bold.Render(m.latest.strategy)
	if m.width >= wide {
		name = bold.Render("pooly") + "  " + name
	}
	text := fmt.Sprintf("%d req/s  p50 %s  p99 %s  ",
		m.latest.rate, round(m.latency(0.5)), round(m.latency(0.99)))
	failures := fmt.Sprintf("failed %.1f %%", 100*failed)
	if failed > 0 {
		failures = lipgloss.NewStyle().Foreground(failedColor).Bold(true).Render(failures)
	}
	pilot := ""
	if m.pilot {
		pilot = lipgloss.NewStyle().Foreground(quietColor).Render("  autopilot")
	}
	if m.width < narrow {
		return []string{name + pilot, text + failures}
	}
	return []string{name + "  " + text + failures + pilot}
}

func (m *model) hosts() []string {
	parts, all := m.totals()
	var lines []string
	for i, h := range m.latest.hosts {
		share := 0.0
		if all > 0 {
			share = float64(parts[i]) / float64(all)
		}
		mark := " "
		if i == m.selected {
			mark = "▸"
		}
		c := hostColors[i%len(hostColors)]
		style := lipgloss.NewStyle().Foreground(c)
		line := fmt.Sprintf("%s%s ", mark, style.Render(fmt.Sprintf("■ %d", i+1))) + m.condition(h)
		if m.width >= wide {
			line += fmt.Sprintf("score %.2f  in use %3d  ", h.stats.Score, h.stats.InUse)
		}
		line += fmt.Sprintf("%3.0f %% ", 100*share)
		if room := m.width - lipgloss.Width(line); room > 0 {
			line += bar(share, room, c)
		}
		lines = append(lines, line)
	}
	return lines
}

// condition says how fast a host is and how it does, in as many columns as the longest takes.
func (m *model) condition(h hostSample) string {
	state := h.mood.String()
	if h.stats.Ejected && (m.width >= narrow || h.stats.NextProbe == 0) {
		state += ", ejected"
	}
	if h.stats.Ejected && h.stats.NextProbe > 0 {
		state += fmt.Sprintf(", probe in %.1fs", h.stats.NextProbe.Seconds())
	}
	if m.width < narrow {
		return fmt.Sprintf("%5s %-21s ", h.mean, state)
	}
	return fmt.Sprintf("takes %5s  %-30s ", h.mean, state)
}

func (m *model) latencies() []string {
	top := 50 * time.Millisecond
	for _, tail := range m.tails[max(0, len(m.tails)-m.width):] {
		for top < tail {
			top *= 2
		}
	}
	return []string{
		lipgloss.NewStyle().Foreground(quietColor).Render(fmt.Sprintf("99th percentile over %v, 0 to %v", recent*interval, top)),
		spark(m.tails, m.width, top, quietColor),
	}
}

func (m *model) keys() string {
	switch {
	case m.width < narrow:
		return "1-5 b)reak s)low h)eal ←→ strategy +- a)uto q)uit"
	case m.width < wide:
		return "1-5, b)reak s)low h)eal, ←→ strategy, +-, a)uto, q)uit"
	case m.width < 120:
		return "1-5: host   b: break   s: slow   h: heal   ←→: strategy   +-: load   a: auto   q: quit"
	}
	return "1-5 or ↑↓: choose a host   b: break it   s: slow it   h: heal it   ←→: strategy   +-: load   a: autopilot   q: quit"
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}
