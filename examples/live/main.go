// Live shows in the terminal how a service's traffic moves. It runs five TCP servers in the process, which differ in
// speed, and steady load. An autopilot slows or breaks a server every few seconds, and heals it again. Or do it
// yourself, change the strategy, and see who waits for it:
//
//	go -C examples/live run .
//
// The servers take 7, 9, 11, 14 and 18 ms for a request, on average. So in good times the fast ones get more traffic.
// They refuse connections when broken, and take eight times as long when slow. Each serves four requests at once, and
// others wait in line: watch what a strategy that prefers the best host does at 1,000 requests each second. The screen
// works from 50 columns on.
//
// With -svg it runs for 22 seconds without a terminal and draws what it would show:
//
//	go -C examples/live run . -svg ../../docs/live.svg
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
)

func main() {
	rate := flag.Int("rate", 500, "requests each second")
	manual := flag.Bool("manual", false, "begin without the autopilot")
	picture := flag.String("svg", "", "draw to this `file` instead")
	flag.Parse()
	err := error(nil)
	if *picture != "" {
		err = draw(*picture, *rate, 110*interval)
	} else {
		err = run(*rate, !*manual)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(rate int, pilot bool, options ...tea.ProgramOption) error {
	w, err := newWorld(rate)
	if err != nil {
		return err
	}
	defer w.close()
	_, err = tea.NewProgram(newModel(w, pilot), options...).Run()
	return err
}

// draw runs the world without a terminal, slows the first host and breaks the second, each after a quarter of the
// time, and writes the last screen to a file.
func draw(file string, rate int, during time.Duration) error {
	w, err := newWorld(rate)
	if err != nil {
		return err
	}
	defer w.close()
	m := newModel(w, false)
	m.width, m.height = 110, 30
	samples := int(during / interval)
	for i := range samples {
		switch i {
		case samples / 4:
			w.set(0, slow)
		case samples / 2:
			w.set(0, healthy)
		case samples * 3 / 4:
			w.set(1, broken)
			m.selected = 1
		}
		time.Sleep(interval)
		m.Update(tick{})
	}
	return os.WriteFile(file, []byte(svg(m.View().Content, m.width, m.height)), 0o644)
}
