//go:build montecarlo_simulation

package pooly_test

import (
	"context"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"go.uber.org/goleak"
)

// The simulations put strategies before a real Service, over a network in memory and in virtual
// time:
//
//	go test -tags montecarlo_simulation -v .
//
// They print what the strategies reach, and check what theory and the docs say of it. With this
// tag no other test of the package runs, unless -run says so.
//
// A description of other hosts answers the question for them (see hostsDescription):
//
//	go test -tags montecarlo_simulation -v . -hosts docs/simulations/hosts.json
//
// This makes the tables and figures in docs:
//
//	go test -tags montecarlo_simulation -timeout 30m -v . -long -out docs/simulations
//	go -C plots run . ../docs/simulations
var (
	long  = flag.Bool("long", false, "more runs, and longer ones: about ten minutes")
	runs  = flag.Int("runs", 0, "how often to simulate each strategy where hosts fill up; 0: 4, 8 with -hosts, 10 with -long")
	seed  = flag.Uint64("seed", 1, "of the random numbers")
	out   = flag.String("out", "", "the directory for tables and lines; none are written without it")
	hosts = flag.String("hosts", "", "a file that describes hosts: simulate these alone")
)

// TestMain runs the simulations alone, unless -run says what to run. They print for themselves, so
// what package testing says of each test is left out.
func TestMain(m *testing.M) {
	flag.Parse()
	began := time.Now()
	if *runs <= 0 {
		*runs = 4
		switch {
		case *long:
			*runs = 10
		case *hosts != "":
			*runs = 8
		}
	}
	set := func(name, value string) {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	if flag.Lookup("test.run").Value.String() == "" {
		set("test.run", "^TestMonteCarlo")
		if *hosts != "" {
			set("test.run", "^TestMonteCarloHosts$")
		}
	}
	if flag.Lookup("test.v").Value.String() == "true" { // test2json wants every line
		set("test.v", "false")
	}
	report("simulations: seed %d, %d runs, on %d cores; ± is a 95 %% interval", *seed, *runs, runtime.GOMAXPROCS(0))
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		report("\ntook %.0f s", time.Since(began).Seconds())
		os.Exit(code)
	}))
}

// report prints a line at once: it is how far the simulations are.
func report(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}

// sayRow prints a name and its figures in columns.
func reportRow(name string, columns ...string) {
	var row strings.Builder
	fmt.Fprintf(&row, "  %-22s", name)
	for _, c := range columns {
		fmt.Fprintf(&row, " %13s", c)
	}
	report("%s", row.String())
}

// A sum collects one figure of each run.
type sum struct{ n, total, squares float64 }

func (s *sum) add(x float64) {
	s.n++
	s.total += x
	s.squares += x * x
}

func (s *sum) merge(t sum) {
	s.n += t.n
	s.total += t.total
	s.squares += t.squares
}

func (s *sum) mean() float64 { return s.total / s.n }

// deviation returns the standard error of the mean.
func (s *sum) deviation() float64 {
	if s.n < 2 {
		return 0
	}
	return math.Sqrt(max(0, s.squares/s.n-s.mean()*s.mean()) / (s.n - 1))
}

// interval returns half the width of the mean's 95 % confidence interval (Student's t).
func (s *sum) interval() float64 {
	small := []float64{0, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26}
	freedom := s.n - 1
	switch {
	case freedom < 1:
		return math.Inf(1)
	case int(freedom) < len(small):
		return small[int(freedom)] * s.deviation()
	}
	return (1.96 + 2.5/freedom) * s.deviation()
}

// pm writes a mean and its interval.
func (s *sum) pm(digits int) string {
	return fmt.Sprintf("%.*f ± %.*f", digits, s.mean(), digits, s.interval())
}

// chunks is into how many parts runs are divided. It does not depend on the machine, so that sums
// come out the same on any.
const chunks = 16

// inParallel calls run for each of n runs, with a seed of its own, on as many cores as there are.
// Runs of one chunk run one after the other, in one bubble.
func inParallel(t *testing.T, n int, run func(t *testing.T, chunk int, seed uint64)) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // the heap is tiny, so it would be swept all the time
	next := make(chan int, chunks)
	for chunk := range min(n, chunks) {
		next <- chunk
	}
	close(next)
	var workers sync.WaitGroup // a worker whose test fails ends at once
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for chunk := range next {
				synctest.Test(t, func(t *testing.T) {
					for i := chunk; i < n; i += chunks {
						run(t, chunk, *seed<<32+uint64(i))
					}
				})
			}
		})
	}
	workers.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// memoryDriver connects at once to hosts in memory, whose addresses are numbers. A connection is
// its host's number. Every error is fatal, as a time-out is with NetDriver.
type memoryDriver struct{}

func (memoryDriver) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	host, err := strconv.Atoi(address)
	return pooly.NewConn(host), err
}
func (memoryDriver) Close(*pooly.Conn)              {}
func (memoryDriver) TestOnBorrow(*pooly.Conn) error { return nil }
func (memoryDriver) Temporary(error) bool           { return false }
