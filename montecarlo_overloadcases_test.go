//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// overloadRuns is of how many of -runs there is one of each case.
const overloadRuns = 4

// What pooly promises of a service in trouble, see docs/RELIABILITY.md.
const (
	leastAfter      = 0.99 // share of the calls that succeed, two seconds after the trouble
	leastDuring     = 0.92 // of what the hosts can do, during it
	mostDials       = 0.05 // per call
	leastGood       = 0.99 // share of the good calls that succeed beside as many wrong ones
	mostAtBadHosts  = 0.005
	mostDialsFailed = 1.0  // per call that fails while all hosts refuse
	leastNamed      = 0.99 // share of these whose error says that hosts refuse
)

// In a brown-out all hosts are slow from 4 s to 8 s. MaxConns says where the queue is: in the
// client if it is no more than the slots of a host, and inside the hosts if it is far more.
var brownOuts = withTimes(4*time.Second, 8*time.Second, 20*time.Second,
	overloadCase{hosts: 10, slots: 16, work: 80 * time.Millisecond, load: 0.6, slow: 2,
		deadline: 500 * time.Millisecond},
	overloadCase{hosts: 10, slots: 4, work: 20 * time.Millisecond, load: 0.7, slow: 2,
		deadline: 500 * time.Millisecond, maxConns: 8},
	overloadCase{hosts: 10, slots: 4, work: 20 * time.Millisecond, load: 0.4, slow: 3,
		deadline: 500 * time.Millisecond, maxConns: 4},
	overloadCase{hosts: 5, slots: 8, work: 25 * time.Millisecond, load: 0.5, slow: 3,
		deadline: time.Second, maxConns: 16, parts: true},
	overloadCase{hosts: 10, slots: 4, work: 20 * time.Millisecond, load: 0.8, slow: 2,
		deadline: 300 * time.Millisecond, maxConns: 30, strategy: powerOfTwo},
	overloadCase{hosts: 5, slots: 2, work: 10 * time.Millisecond, load: 0.6, slow: 2.5,
		deadline: 400 * time.Millisecond, maxConns: 60},
)

func powerOfTwo() pooly.Bandit { return pooly.NewPowerOfTwo() }

// withTimes sets the times of cases, and names those that have no name.
func withTimes(from, to, last time.Duration, cases ...overloadCase) []overloadCase {
	for i := range cases {
		c := &cases[i]
		c.from, c.to, c.last = from, to, last
		if c.name == "" {
			c.name = c.String()
		}
	}
	return cases
}

// TestMonteCarloOverloadBrownOut has all hosts slow for four seconds.
func TestMonteCarloOverloadBrownOut(t *testing.T) {
	all := simulateOverload(t, brownOuts, overloadRunsOf())
	reportOverload(t, overloadReport{
		table: "brownout", drawn: []string{"pooly", "a pool per host in turn"},
		of:    "hosts × slots, work, load, slow-down, deadline, MaxConns",
		title: "brown-outs: all hosts slow from 4 s to 8 s",
		heads: []string{"hosts can do", "%s: during / after / dials per call"},
		first: func(o *overloadOutcome) string { return percent(o.possible()) },
		each: func(o *overloadOutcome) string {
			return fmt.Sprintf("%s / %s / %.3f", percent(o.during()), percent(o.after()), o.dialsPerCall())
		},
	}, all)
	for i, c := range brownOuts {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			o := all[i][0]
			checkAfter(t, "brown-out", o)
			atLeast(t, leastDuring, o.during()/c.possible(),
				"brown-out of %s: share that succeed from 5 s to 8 s, of what the hosts can do", c.name)
			atMost(t, mostDials, o.dialsPerCall(), "brown-out of %s: dials per call", c.name)
		})
	}
}

// TestMonteCarloOverloadFreeze has all hosts stand still for forty seconds: they accept connections
// and answer nothing.
func TestMonteCarloOverloadFreeze(t *testing.T) {
	cases := withTimes(5*time.Second, 45*time.Second, 60*time.Second,
		overloadCase{hosts: 5, slots: 4, work: 20 * time.Millisecond, load: 0.7, deadline: 500 * time.Millisecond, frozen: true})
	all := simulateOverload(t, cases, overloadRunsOf())
	reportOverload(t, overloadReport{
		table: "freeze",
		of:    "hosts × slots, work, load, deadline, MaxConns",
		title: "freeze: all hosts stand still from 5 s to 45 s",
		heads: []string{"%s: errors after / dials per call"},
		each: func(o *overloadOutcome) string {
			return fmt.Sprintf("%s / %.3f", percent(1-o.after()), o.dialsPerCall())
		},
	}, all)
	checkAfter(t, "freeze", all[0][0])
	atMost(t, mostDials, all[0][0].dialsPerCall(), "freeze of %s: dials per call", cases[0].name)
	checkFull(t, "freeze", all[0][0])
}

// TestMonteCarloOverloadMistakes has the callers send as many wrong requests as good ones: each
// host answers a wrong one by closing the connection.
func TestMonteCarloOverloadMistakes(t *testing.T) {
	cases := withTimes(4*time.Second, 14*time.Second, 20*time.Second,
		overloadCase{hosts: 10, slots: 4, work: 20 * time.Millisecond, load: 0.33, deadline: 400 * time.Millisecond, wrong: true})
	all := simulateOverload(t, cases, overloadRunsOf())
	meantime := func(o *overloadOutcome) float64 { return o.share(o.from, o.to) }
	reportOverload(t, overloadReport{
		table: "mistakes",
		of:    "hosts × slots, work, load of the good, deadline, MaxConns",
		title: "callers' mistakes: every second call is wrong from 4 s to 14 s",
		heads: []string{"%s: good calls that succeed beside the wrong ones / after"},
		each:  func(o *overloadOutcome) string { return percent(meantime(o)) + " / " + percent(o.after()) },
	}, all)
	o := all[0][0]
	atLeast(t, leastGood, meantime(o), "callers' mistakes, %s: share of the good calls that succeed from 4 s to 14 s", o.name)
	checkAfter(t, "callers' mistakes", o)
}

// TestMonteCarloOverloadRush has more come than the hosts can do: 110 % for ten seconds of calls
// that try three times, or ten thousand calls at once.
func TestMonteCarloOverloadRush(t *testing.T) {
	peak := overloadCase{name: "110 %, three tries a call; MaxConns 30",
		hosts: 5, slots: 4, work: 20 * time.Millisecond, load: 0.7,
		deadline: 600 * time.Millisecond, tries: 3, try: 200 * time.Millisecond, peak: 1.1}
	deepPeak := peak // requests wait longer inside the hosts than a try may take
	deepPeak.name, deepPeak.maxConns = "110 %, three tries a call; MaxConns 100", 100
	crowd := overloadCase{name: "10,000 calls at once; deadline 10 s",
		hosts: 3, slots: 16, work: 20 * time.Millisecond, deadline: 10 * time.Second, crowd: 10_000}
	hastyCrowd := crowd
	hastyCrowd.name, hastyCrowd.deadline = "10,000 calls at once; deadline 2 s", 2*time.Second
	cases := append(withTimes(4*time.Second, 14*time.Second, 24*time.Second, peak, deepPeak),
		withTimes(time.Second, 1250*time.Millisecond, 12*time.Second, crowd, hastyCrowd)...)
	all := simulateOverload(t, cases, overloadRunsOf())
	reportOverload(t, overloadReport{
		table: "rush", drawn: []string{"pooly", "a pool per host in turn"},
		of:    "rush",
		title: "rushes: more than the hosts can do",
		heads: []string{"hosts can do", "%s: during / after / dials per call"},
		first: func(o *overloadOutcome) string { return percent(o.possible()) },
		each: func(o *overloadOutcome) string {
			if o.crowd > 0 {
				return fmt.Sprintf("%s / – / %.3f", percent(o.share(0, o.last)), o.dialsPerCall())
			}
			return fmt.Sprintf("%s / %s / %.3f", percent(o.during()), percent(o.after()), o.dialsPerCall())
		},
	}, all)
	for i := range 2 {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) { checkAfter(t, "rush", all[i][0]) })
	}
	t.Run("3", func(t *testing.T) {
		o := all[2][0]
		atLeast(t, leastAfter, o.share(0, o.last), "rush of %s: share that succeed", o.name)
		atMost(t, mostDials, o.dialsPerCall(), "rush of %s: dials per call", o.name)
	})
	t.Run("4", func(t *testing.T) { checkFull(t, "rush", all[3][0]) })
}

// TestMonteCarloOverloadRefusal has all hosts refuse connections for five seconds.
func TestMonteCarloOverloadRefusal(t *testing.T) {
	cases := withTimes(4*time.Second, 9*time.Second, 15*time.Second,
		overloadCase{name: "10 hosts, 100 callers that pause for 50 ms; deadline 500 ms",
			hosts: 10, slots: 4, work: 5 * time.Millisecond, deadline: 500 * time.Millisecond,
			callers: 100, pause: 50 * time.Millisecond, refuse: true})
	all := simulateOverload(t, cases, overloadRunsOf())
	reportOverload(t, overloadReport{
		table: "refusal",
		of:    "service",
		title: "refusal: all hosts refuse connections from 4 s to 9 s",
		heads: []string{"%s: dials per failing call / first success / after"},
		each: func(o *overloadOutcome) string {
			return fmt.Sprintf("%.2f / %.0f ms / %s", o.dialsPerFailure(), 1000*o.firstServed.mean(), percent(o.after()))
		},
	}, all)
	o := all[0][0]
	atMost(t, mostDialsFailed, o.dialsPerFailure(), "refusal of %s: dials per failing call", o.name)
	atLeast(t, leastNamed, float64(o.refused)/float64(o.failed), "refusal of %s: share of the errors that name it", o.name)
	atMost(t, (2 * settle).Seconds(), o.firstServed.mean(), "refusal of %s: seconds to the first success", o.name)
	checkAfter(t, "refusal", o)
}

// TestMonteCarloOverloadBadHosts has two of three hosts accept connections and fail each request.
// The third can serve all.
func TestMonteCarloOverloadBadHosts(t *testing.T) {
	two := overloadCase{hosts: 3, slots: 4, work: 5 * time.Millisecond, load: 0.25, deadline: 500 * time.Millisecond, bad: 2}
	byLoad := two
	byLoad.strategy = powerOfTwo
	cases := withTimes(4*time.Second, 14*time.Second, 20*time.Second, two, byLoad)
	all := simulateOverload(t, cases, overloadRunsOf())
	failing := func(o *overloadOutcome) float64 { return 1 - o.share(o.from+2*settle, o.to) }
	reportOverload(t, overloadReport{
		table: "badhosts", drawn: []string{"pooly", "pooly without ejection", "a pool per host in turn"},
		of:    "hosts × slots, work, load, deadline, MaxConns",
		title: "two of three hosts fail each request at once from 4 s to 14 s",
		heads: []string{"%s: calls that fail from 6 s to 14 s / succeed after"},
		each: func(o *overloadOutcome) string {
			return fmt.Sprintf("%.2f %% / %s", 100*failing(o), percent(o.after()))
		},
	}, all)
	for i := range cases {
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			o := all[i][0]
			atMost(t, mostAtBadHosts, failing(o), "two of three bad, %s: share of the calls that fail from 6 s to 14 s", o.name)
			checkAfter(t, "two of three bad", o)
		})
	}
}

func overloadRunsOf() int { return max(1, *runs/overloadRuns) }

func atLeast(t *testing.T, want, got float64, what string, args ...any) {
	t.Helper()
	require.GreaterOrEqual(t, got, want, append([]any{what}, args...)...)
}

func atMost(t *testing.T, want, got float64, what string, args ...any) {
	t.Helper()
	require.LessOrEqual(t, got, want, append([]any{what}, args...)...)
}

// checkAfter asserts that no outage outlives its cause, and that nothing was lost on the way.
func checkAfter(t *testing.T, scenario string, o *overloadOutcome) {
	t.Helper()
	atLeast(t, leastAfter, o.after(), "%s of %s: share of the calls that succeed from %v on", scenario, o.name, o.to+2*settle)
	require.NoError(t, o.closed, "%s of %s: Close", scenario, o.name)
}

// checkFull asserts that no call was told that no host is available: the hosts were up, and all
// connections in use.
func checkFull(t *testing.T, scenario string, o *overloadOutcome) {
	t.Helper()
	require.Zero(t, o.noHost, "%s of %s: errors that say that no host is available, of %d", scenario, o.name, o.failed)
}
