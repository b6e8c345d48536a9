// Command plots draws the figures of the simulations from the lines that they write:
//
//	go test -tags montecarlo_simulation -v . -out docs/simulations   # in the module above
//	go -C plots run . ../docs/simulations
//
// It reads lines.csv in the given directory and writes a PNG for each figure beside it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: plots DIRECTORY")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	path := filepath.Join(dir, "lines.csv")
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	panels, err := readLines(file)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for name := range panels {
		if _, known := figures[name]; !known {
			return fmt.Errorf("%s: figure %q is not described in figures.go", path, name)
		}
	}
	for name, f := range figures {
		if len(panels[name]) == 0 {
			continue // the simulation of this figure has not run yet
		}
		if err := f.draw(filepath.Join(dir, name+".png"), panels[name]); err != nil {
			return fmt.Errorf("figure %s: %w", name, err)
		}
	}
	return nil
}
