package main

import (
	"encoding/xml"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// measured writes what the benchmarks would say of all contestants but one, and reads it back.
func measured(t *testing.T, except string) *results {
	t.Helper()
	var raw strings.Builder
	for i, c := range contestants {
		for _, mode := range []string{"sequential", "parallel"} {
			if c.peer != except {
				ratio := strconv.FormatFloat(0.8+0.37*float64(i), 'f', -1, 64)
				raw.WriteString("Benchmark" + pair(c.peer, c.hosts) + "/mode=" + mode + "-2 100 50 ns/op " +
					ratio + " x-roundrobin 55.5 roundrobin-ns\n")
			}
		}
	}
	path := filepath.Join(t.TempDir(), "raw.txt")
	if err := os.WriteFile(path, []byte(raw.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := readResults(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

type box struct{ left, top, right, bottom float64 }

func (b box) meets(c box) bool {
	return b.left < c.right && c.left < b.right && b.top < c.bottom && c.top < b.bottom
}

// widestLetter is how wide a letter is on average in the widest of the usual fonts, Verdana and
// DejaVu Sans, as a share of its height.
const widestLetter = 0.62

// boxes returns where texts and bars are in a viewer with a wide font.
func boxes(t *testing.T, svg []byte) (texts map[string]box, bars []box, picture box) {
	t.Helper()
	var parsed struct {
		ViewBox string `xml:"viewBox,attr"`
		Rects   []struct {
			X      float64 `xml:"x,attr"`
			Y      float64 `xml:"y,attr"`
			Width  float64 `xml:"width,attr"`
			Height float64 `xml:"height,attr"`
		} `xml:"rect"`
		Texts []struct {
			X      float64 `xml:"x,attr"`
			Y      float64 `xml:"y,attr"`
			Size   float64 `xml:"font-size,attr"`
			Weight string  `xml:"font-weight,attr"`
			Anchor string  `xml:"text-anchor,attr"`
			Text   string  `xml:",chardata"`
		} `xml:"text"`
	}
	if err := xml.Unmarshal(svg, &parsed); err != nil {
		t.Fatal(err)
	}
	for i, field := range strings.Fields(parsed.ViewBox) {
		v, err := strconv.ParseFloat(field, 64)
		if err != nil {
			t.Fatal(err)
		}
		*[]*float64{&picture.left, &picture.top, &picture.right, &picture.bottom}[i] = v
	}
	for _, r := range parsed.Rects {
		bars = append(bars, box{r.X, r.Y, r.X + r.Width, r.Y + r.Height})
	}
	texts = make(map[string]box)
	for _, s := range parsed.Texts {
		size := s.Size
		if size == 0 {
			size = letters
		}
		long := size * widestLetter * float64(utf8.RuneCountInString(s.Text))
		if s.Weight == "bold" {
			long *= 1.15
		}
		b := box{s.X, s.Y - 0.75*size, s.X + long, s.Y}
		if s.Anchor == "end" {
			b.left, b.right = s.X-long, s.X
		}
		texts[s.Text+" at "+strconv.FormatFloat(s.Y, 'f', 0, 64)] = b
	}
	return texts, bars, picture
}

func TestNoTextRunsIntoABar(t *testing.T) {
	svg, err := chart(measured(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	texts, bars, picture := boxes(t, svg)
	if want := 2 * (len(charted) + 1); len(bars) != want {
		t.Errorf("%d bars, want %d", len(bars), want)
	}
	if want := 3*len(charted) + 3; len(texts) != want {
		t.Errorf("%d texts, want %d", len(texts), want)
	}
	for text, b := range texts {
		if b.left < picture.left || b.right > picture.right || b.top < picture.top || b.bottom > picture.bottom {
			t.Errorf("%q leaves the picture: %v of %v", text, b, picture)
		}
		for _, bar := range bars {
			if b.meets(bar) {
				t.Errorf("%q at %v runs into the bar at %v", text, b, bar)
			}
		}
		for other, c := range texts {
			if text != other && b.meets(c) {
				t.Errorf("%q runs into %q", text, other)
			}
		}
	}
}

func TestTheChartHasWhatTheTextRecommends(t *testing.T) {
	svg, err := chart(measured(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"pooly, round-robin, 3 hosts", "pooly, least latency, 3 hosts", "pooly, UCB", "pooly, Thompson",
		"pooly, epsilon-greedy", "pooly, softmax",
	} {
		if !strings.Contains(string(svg), want) {
			t.Errorf("no bar for %q", want)
		}
	}
}

func TestTheChartSaysWhatWasNotMeasured(t *testing.T) {
	_, err := chart(measured(t, "pooly-leastlatency"))
	if err == nil || !strings.Contains(err.Error(), "Pair/peer=pooly-leastlatency/hosts=3/mode=sequential") {
		t.Errorf("got %v", err)
	}
}
