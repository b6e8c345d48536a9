package pooly_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"pgregory.net/rapid"
)

// Random sequences of everything that users, servers and time can do to a service, against a model that says after each
// of them what must hold (see model.check). RAPID_CHECKS sets how many sequences are tried, 100 by default:
//
//	RAPID_CHECKS=100000 go test -run Model .
//
// A sequence that breaks a promise is made as short as possible and printed.
func TestModelHoldsAfterEachStep(t *testing.T) {
	var reached coverage
	failed := false
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		crashed := true
		defer func() { failed = failed || crashed }()
		runs := 1
		if failed {
			runs = 20 // a race that showed once may need some more to show in a shorter sequence
		}
		for range runs {
			var fault string
			rapid.SyncTest(rt, func(*rapid.T) { fault = play(p, &reached) })
			if fault != "" {
				rt.Fatalf("%s\n%s", fault, p)
			}
		}
		crashed = false
	})
	if !failed {
		reached.require(t)
	}
}

// A plan is one sequence, and the service that it is played on.
type plan struct {
	Hosts, MaxConns, Prespawn, Attempts int
	Fatal                               int // ConsecutiveFailures
	IdleTimeout, Lifetime, WaitTimeout  time.Duration
	DialTimeout, Fallback               time.Duration
	Strategy                            int
	Seed                                uint64
	Ops                                 []op
}

func drawPlan(t *rapid.T) plan {
	millis := func(label string, of ...int) time.Duration {
		return time.Duration(rapid.SampledFrom(of).Draw(t, label)) * time.Millisecond
	}
	return plan{
		Hosts:       rapid.IntRange(1, 3).Draw(t, "hosts"),
		MaxConns:    rapid.IntRange(1, 3).Draw(t, "MaxConns"),
		Prespawn:    rapid.SampledFrom([]int{-1, 1, 2}).Draw(t, "PrespawnConns"),
		Attempts:    rapid.IntRange(1, 2).Draw(t, "GetAttempts"),
		Fatal:       rapid.SampledFrom([]int{3, 1, -1}).Draw(t, "ConsecutiveFailures"),
		DialTimeout: millis("DialTimeout", 5000, 600),
		Fallback:    millis("FallbackDelay", 250, 250, 250, -1),
		IdleTimeout: millis("ConnIdleTimeout", 0, 0, 70),
		Lifetime:    millis("MaxConnLifetime", 0, 0, 300),
		WaitTimeout: millis("WaitTimeout", 0, 0, 40),
		Strategy:    rapid.IntRange(0, 3).Draw(t, "strategy"),
		Seed:        rapid.Uint64Range(0, 9).Draw(t, "seed"),
		Ops: rapid.OneOf(
			rapid.SliceOfN(rapid.Custom(drawOp), 1, 80), // where the shortest are sought
			rapid.SliceOfN(rapid.Custom(drawOp), 12, 80),
			rapid.SliceOfN(rapid.Custom(drawOp), 30, 80),
		).Draw(t, "ops"),
	}
}

// An op is one thing that happens. Which of the calls, leases, connections and hosts there are it happens to, A and B
// say; one that has nothing to happen to does nothing.
type op struct {
	Kind  opKind
	A, B  int
	Joint bool // it happens at the same time as the op after it, so that the two race
}

type opKind int

const (
	opGet opKind = iota
	opRelease
	opReleaseTwice
	opReleaseAgain
	opCancel
	opAdd
	opRemove
	opMode
	opSettle
	opKill
	opSlowClose
	opSleep
	opClose
)

var opNames = [...]string{
	"get", "release", "releaseTwice", "releaseAgain", "cancel", "add", "remove", "mode", "settle", "kill", "slowClose",
	"sleep", "close",
}

// weighted says how often each kind of op is drawn: calls and releases most, so that queues form.
var weighted = []opKind{
	opGet, opGet, opGet, opGet, opGet, opGet, opGet, opGet,
	opRelease, opRelease, opRelease, opRelease, opRelease,
	opReleaseTwice, opReleaseAgain, opCancel, opCancel, opAdd, opRemove,
	opMode, opMode, opMode, opMode, opSettle, opSettle, opKill, opKill, opSlowClose,
	opSleep, opSleep, opSleep, opSleep, opClose,
}

func drawOp(t *rapid.T) op {
	o := op{
		Kind:  rapid.SampledFrom(weighted).Draw(t, "kind"),
		A:     rapid.IntRange(0, 7).Draw(t, "A"),
		B:     rapid.IntRange(0, 7).Draw(t, "B"),
		Joint: rapid.IntRange(0, 4).Draw(t, "joint") == 4,
	}
	if o.Kind == opClose && o.A < 6 {
		o.Kind = opGet // so that most sequences get somewhere before
	}
	return o
}

func (o op) String() string {
	what := ""
	switch o.Kind {
	case opGet:
		what = patienceNames[o.A]
	case opRelease, opReleaseTwice:
		what = fmt.Sprintf("%d: %s", o.A, outcomes[o.B].name)
	case opMode:
		what = fmt.Sprintf("%s: %s", hostName(o.A), modes[o.B].name)
	case opAdd, opRemove:
		what = hostName(o.A)
	case opSleep:
		what = naps[o.A].String()
	default:
		what = fmt.Sprintf("%d, %d", o.A, o.B)
	}
	return fmt.Sprintf("%s(%s)", opNames[o.Kind], what)
}

// batch returns the ops from the one at i on that happen at the same time.
func (p plan) batch(i int) []op {
	end := i
	for end < len(p.Ops)-1 && p.Ops[end].Joint && end-i < 3 {
		end++
	}
	return p.Ops[i : end+1]
}

func (p plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d hosts, MaxConns %d, PrespawnConns %d, GetAttempts %d, ConnIdleTimeout %v, MaxConnLifetime %v, "+
		"WaitTimeout %v, DialTimeout %v, FallbackDelay %v, ConsecutiveFailures %d, strategy %d, seed %d:", p.Hosts, p.MaxConns,
		p.Prespawn, p.Attempts, p.IdleTimeout, p.Lifetime, p.WaitTimeout, p.DialTimeout, p.Fallback, p.Fatal, p.Strategy, p.Seed)
	for i, n := 0, 1; i < len(p.Ops); n++ {
		batch := p.batch(i)
		i += len(batch)
		fmt.Fprintf(&b, "\n%6d: ", n)
		for j, o := range batch {
			if j > 0 {
				b.WriteString(" & ")
			}
			b.WriteString(o.String())
		}
	}
	return b.String()
}

// The arguments of ops.
var (
	patience      = [8]time.Duration{0, 0, 0, 0, 0, time.Millisecond, 25 * time.Millisecond, 400 * time.Millisecond}
	patienceNames = [8]string{"", "", "", "", "", "1ms", "25ms", "400ms"}

	naps = [8]time.Duration{
		time.Millisecond, time.Millisecond, 10 * time.Millisecond, 35 * time.Millisecond, 100 * time.Millisecond,
		300 * time.Millisecond, 2 * time.Second, 15 * time.Second,
	}

	outcomes = [8]outcome{
		{name: "ok"}, {name: "ok"}, {name: "ok"}, {name: "ok, by pointer", pointer: true},
		{name: "fatal", err: errFatal, closes: true}, {name: "temporary", err: errTemporary},
		{name: "no score", score: 7, wants: pooly.ErrInvalidArg},
		{name: "no error", garbage: true, closes: true, wants: pooly.ErrInvalidArg},
	}

	modes = [8]mode{
		{name: "up"}, {name: "up"}, {name: "up"}, {name: "down", fails: true}, {name: "slow", delay: 30 * time.Millisecond},
		{name: "slowly down", delay: 30 * time.Millisecond, fails: true},
		{name: "hangs", hangs: true}, {name: "hangs and heeds no context", hangs: true, deaf: true},
	}

	closeDelays = [8]time.Duration{0, 0, 0, 0, 0, 50 * time.Millisecond, 50 * time.Millisecond, 3 * time.Second}
)

// outcome is how a lease ends.
type outcome struct {
	name    string
	err     error
	pointer bool
	garbage bool
	score   float64
	closes  bool  // the connection is closed
	wants   error // what Release returns
}

func (o outcome) release(l *pooly.Conn) error {
	switch {
	case o.garbage:
		return l.Release("what is this", pooly.HostUp)
	case o.pointer:
		return l.Release(&o.err, pooly.HostUp)
	case o.err != nil:
		return l.Release(fmt.Errorf("request: %w", o.err), o.score)
	}
	return l.Release(nil, o.score)
}

func hostName(n int) string { return string(rune('a' + n%4)) }

const modelCloseDeadline = 2*time.Second + 300*time.Microsecond

// play plays a plan on a service, and returns which promise was broken, if one was.
func play(p plan, reached *coverage) string {
	m := newModel(p)
	for i := 0; i < len(p.Ops) && m.fault == ""; {
		m.step++
		batch := p.batch(i)
		i += len(batch)
		m.begin(batch)
		for _, o := range batch {
			m.do(o)
		}
		m.check()
	}
	if m.fault == "" {
		m.finish()
	}
	m.reached.addTo(reached)
	fault := m.fault
	m.abandon()
	return fault
}

func newModel(p plan) *model {
	m := &model{plan: p, hosts: make(map[string]*modelHost)}
	config := pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{
			Driver:          (*modelDriver)(m),
			MaxConns:        p.MaxConns,
			ConnIdleTimeout: p.IdleTimeout,
			MaxConnLifetime: p.Lifetime,
			WaitTimeout:     p.WaitTimeout,
			DialTimeout:     p.DialTimeout,
		},
		PrespawnConns:       p.Prespawn,
		GetAttempts:         p.Attempts,
		CloseDeadline:       modelCloseDeadline,
		FallbackDelay:       p.Fallback,
		ConsecutiveFailures: p.Fatal,
		BanditStrategy: []pooly.Bandit{
			pooly.NewRoundRobin(), pooly.NewSoftMax(0.1), pooly.NewPeakEWMA(2), stubborn{},
		}[p.Strategy],
	}
	m.service = pooly.NewService("model", &config)
	pooly.SeedService(m.service, p.Seed)
	m.begin(nil)
	for i := range p.Hosts {
		m.add(hostName(i))
	}
	m.check()
	return m
}

// do begins an op.
func (m *model) do(o op) {
	switch o.Kind {
	case opGet:
		m.get(patience[o.A])
	case opRelease, opReleaseTwice:
		if l := pick(m.held(), o.A); l != nil {
			m.release(l, outcomes[o.B], o.Kind == opReleaseTwice)
		}
	case opReleaseAgain:
		if l := pick(m.ended, o.A); l != nil {
			m.releaseAgain(l)
		}
	case opCancel:
		if c := pick(m.pending(), o.A); c != nil {
			c.cancelled = true
			c.cancel()
		}
	case opAdd:
		m.add(hostName(o.A))
	case opRemove:
		m.remove(hostName(o.A))
	case opMode:
		m.mode(hostName(o.A), modes[o.B])
	case opSettle:
		if d := pick(m.hanging(), o.A); d != nil {
			d.settle <- o.B%2 == 0
		}
	case opKill:
		if c := pick(m.alive(), o.A); c != nil {
			m.kill(c)
		}
	case opSlowClose:
		m.slowClose(hostName(o.A), closeDelays[o.B])
	case opSleep:
		synctest.Wait()
		time.Sleep(naps[o.A])
	case opClose:
		m.close()
	}
}

// pick returns one of a list, nil if that is empty.
func pick[T any](list []*T, n int) *T {
	if len(list) == 0 {
		return nil
	}
	return list[n%len(list)]
}

// finish proves that all capacity came back: once every lease is released, every caller gone and every host up for as
// long as a probe may take, every place of every host can be leased at once. Then it closes the service.
func (m *model) finish() {
	m.step++
	m.begin(nil)
	for _, c := range m.pending() {
		c.cancelled = true
		c.cancel()
	}
	for _, l := range m.held() {
		m.release(l, outcomes[0], false)
	}
	for i := range 4 {
		m.mode(hostName(i), modes[0])
		m.slowClose(hostName(i), 0)
	}
	for _, d := range m.hanging() {
		d.settle <- m.plan.Seed%2 == 0
	}
	m.check()
	if m.fault != "" || m.closed {
		return
	}
	m.step++
	m.begin([]op{{Kind: opSleep}})
	time.Sleep(20 * time.Second)
	m.check()

	m.step++
	m.begin([]op{{Kind: opSleep}})
	places := len(m.registered()) * m.plan.MaxConns
	for range places {
		m.get(0)
		synctest.Wait()
	}
	time.Sleep(5 * time.Second) // a host that has just come back may take its time
	m.check()
	if n := len(m.held()); m.fault == "" && n != places {
		m.failf("%d leases for %d places: capacity is lost", n, places)
		return
	}
	m.reached.filled++

	m.step++
	m.begin(nil)
	for _, l := range m.held() {
		m.release(l, outcomes[0], false)
	}
	m.close()
	m.check()
}

// abandon lets everything end, whatever it is, so that the bubble can.
func (m *model) abandon() {
	for _, c := range m.pending() {
		c.cancel()
	}
	for _, l := range m.held() {
		go func() { _ = l.handle.Release(nil, pooly.HostUp) }()
	}
	m.close()
	for _, d := range m.hanging() {
		d.settle <- false
	}
	synctest.Wait()
	time.Sleep(time.Minute)
	synctest.Wait()
	if m.fault == "" {
		m.checkEnd()
	}
	for _, c := range m.calls {
		c.cancel()
	}
}

// get begins a call.
func (m *model) get(patience time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	if patience > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), patience)
	}
	c := &modelCall{id: len(m.calls), step: m.step, began: time.Now(), patience: patience, cancel: cancel}
	m.calls = append(m.calls, c)
	go func() {
		l, err := m.service.GetConnContext(ctx)
		m.returned(c, l, err)
	}()
}
