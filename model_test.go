package pooly_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"pgregory.net/rapid"
)

// Random sequences of everything that users, servers and time can do to a service, against a model that says after each
// of them what must hold. docs/MODEL.md lists the invariants. RAPID_CHECKS sets how many sequences are tried, 100 by
// default, and the tag yield has each lock give way to other goroutines:
//
//	RAPID_CHECKS=100000 go test -run Model .
//	RAPID_CHECKS=10000 go test -tags yield -run Model .
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
	MaxWaiting, MaxHosts                int
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
		Hosts:       rapid.IntRange(1, 5).Draw(t, "hosts"),
		MaxConns:    rapid.IntRange(1, 3).Draw(t, "MaxConns"),
		Prespawn:    rapid.SampledFrom([]int{-1, 1, 2}).Draw(t, "PrespawnConns"),
		Attempts:    rapid.IntRange(1, 3).Draw(t, "GetAttempts"),
		Fatal:       rapid.SampledFrom([]int{3, 1, -1}).Draw(t, "ConsecutiveFailures"),
		MaxWaiting:  rapid.SampledFrom([]int{0, 0, 0, 2}).Draw(t, "MaxWaiting"),
		MaxHosts:    rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "MaxHosts"),
		DialTimeout: millis("DialTimeout", 5000, 600),
		Fallback:    millis("FallbackDelay", 250, 250, 250, -1),
		IdleTimeout: millis("ConnIdleTimeout", 0, 0, 70),
		Lifetime:    millis("MaxConnLifetime", 0, 0, 300),
		WaitTimeout: millis("WaitTimeout", 0, 0, 40),
		Strategy:    rapid.IntRange(0, len(modelStrategies)-1).Draw(t, "strategy"),
		Seed:        rapid.Uint64Range(1, 9).Draw(t, "seed"),
		Ops: rapid.OneOf(
			rapid.SliceOfN(rapid.Custom(drawOp), 1, 80), // where the shortest are sought
			rapid.SliceOfN(rapid.Custom(drawOp), 12, 80),
			rapid.SliceOfN(rapid.Custom(drawOp), 30, 80),
		).Draw(t, "ops"),
	}
}

var modelStrategies = []func() pooly.Bandit{
	func() pooly.Bandit { return pooly.NewRoundRobin() },
	func() pooly.Bandit { return pooly.NewSoftMax(0.1) },
	func() pooly.Bandit { return pooly.NewPeakEWMA(2) },
	func() pooly.Bandit { return pooly.NewThompson() },
	func() pooly.Bandit { return firstArm{} },
}

// firstArm is a strategy of a user's, which has all calls ask the same host.
type firstArm struct{}

func (firstArm) NewPicker([]pooly.Arm) pooly.Picker { return firstArm{} }
func (firstArm) Pick(*rand.Rand) int                { return 0 }

// An op is one thing that happens. Which of the calls, leases, connections and hosts there are it
// happens to, A and B say; one that has nothing to happen to does nothing.
type op struct {
	Kind  opKind
	A, B  int
	Joint bool // it happens at the same time as the op after it, so that the two race
}

type opKind int

const (
	opGet opKind = iota
	opDo
	opDial
	opRelease
	opReleaseTwice
	opReleaseAgain
	opTalk
	opHangUp
	opCancel
	opAdd
	opRemove
	opSet
	opDrain
	opResume
	opEvict
	opResize
	opMode
	opSettle
	opKill
	opSlowClose
	opSleep
	opClose
)

var opNames = [...]string{
	"get", "do", "dial", "release", "releaseTwice", "releaseAgain", "talk", "hangUp", "cancel", "add", "remove", "set",
	"drain", "resume", "evict", "resize", "mode", "settle", "kill", "slowClose", "sleep", "close",
}

// weighted says how often each kind of op is drawn: calls and releases most, so that queues form.
var weighted = []opKind{
	opGet, opGet, opGet, opGet, opGet, opGet, opGet,
	opDo, opDo, opDo, opDo, opDial, opDial, opTalk, opTalk, opHangUp,
	opRelease, opRelease, opRelease, opRelease, opRelease,
	opReleaseTwice, opReleaseAgain, opCancel, opCancel, opAdd, opRemove, opSet,
	opDrain, opResume, opResume, opEvict, opResize,
	opMode, opMode, opMode, opMode, opSettle, opSettle, opKill, opKill, opSlowClose,
	opSleep, opSleep, opSleep, opSleep, opSleep, opClose,
}

func drawOp(t *rapid.T) op {
	o := op{
		Kind:  rapid.SampledFrom(weighted).Draw(t, "kind"),
		A:     rapid.IntRange(0, 9).Draw(t, "A"),
		B:     rapid.IntRange(0, 9).Draw(t, "B"),
		Joint: rapid.IntRange(0, 4).Draw(t, "joint") == 4,
	}
	if o.Kind == opClose && o.A < 7 {
		o.Kind = opGet // so that most sequences get somewhere before
	}
	return o
}

func (o op) String() string {
	what := ""
	switch o.Kind {
	case opGet, opDial:
		what = patience(o.A).String()
	case opDo:
		what = fmt.Sprintf("%v: %s", patience(o.A), scripts[o.B])
	case opRelease, opReleaseTwice:
		what = fmt.Sprintf("%d: %s", o.A, outcomes[o.B].name)
	case opMode:
		what = fmt.Sprintf("%s: %s", hostName(o.A), modes[o.B].name)
	case opAdd, opRemove, opDrain, opResume, opEvict:
		what = hostName(o.A)
	case opSet:
		what = strings.Join(hostSet(o.A, o.B), " ")
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
		"WaitTimeout %v, DialTimeout %v, FallbackDelay %v, ConsecutiveFailures %d, MaxWaiting %d, MaxHosts %d, "+
		"strategy %d, seed %d:", p.Hosts, p.MaxConns, p.Prespawn, p.Attempts, p.IdleTimeout, p.Lifetime, p.WaitTimeout,
		p.DialTimeout, p.Fallback, p.Fatal, p.MaxWaiting, p.MaxHosts, p.Strategy, p.Seed)
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
	naps = [10]time.Duration{
		time.Millisecond, time.Millisecond, 10 * time.Millisecond, 35 * time.Millisecond, 100 * time.Millisecond,
		300 * time.Millisecond, 300 * time.Millisecond, time.Second, 2 * time.Second, 15 * time.Second,
	}

	errTimeout = fmt.Errorf("reply: %w", os.ErrDeadlineExceeded)

	outcomes = [10]outcome{
		{name: "ok"}, {name: "ok"}, {name: "ok"}, {name: "ok, by pointer", pointer: true},
		{name: "fatal", err: errFatal, closes: true}, {name: "temporary", err: errTemporary},
		{name: "no score", score: 7, wants: pooly.ErrInvalidArg},
		{name: "no error", garbage: true, closes: true, wants: pooly.ErrInvalidArg},
		{name: "timeout", err: errTimeout, closes: true}, {name: "timeout", err: errTimeout, closes: true},
	}

	modes = [10]mode{
		{name: "up"}, {name: "up"}, {name: "up"}, {name: "down", err: errRefused}, {name: "down", err: errRefused},
		{name: "slow", delay: 30 * time.Millisecond}, {name: "slowly down", delay: 30 * time.Millisecond, err: errRefused},
		{name: "hangs", hangs: true}, {name: "hangs and heeds no context", hangs: true, deaf: true},
		{name: "out of files", err: errNoFiles, delay: time.Millisecond},
	}

	closeDelays = [10]time.Duration{5: 50 * time.Millisecond, 6: 50 * time.Millisecond, 7: 3 * time.Second}

	// scripts say what a function given to Do does in each of its runs; the last turn stands for
	// all further ones.
	scripts = [10]doScript{
		{{}},
		{{}},
		{{hold: 5 * time.Millisecond}},
		{{hold: 40 * time.Millisecond, err: errTemporary}},
		{{err: errFatal}},
		{{err: pooly.Retry(errFatal), closes: true}, {}},
		{{err: fmt.Errorf("get: %w", pooly.Retry(errTemporary))}, {err: pooly.Retry(errTemporary)}, {hold: time.Millisecond}},
		{{hold: 10 * time.Millisecond, err: pooly.Retry(errTimeout)}},
		{{itself: true}},
		{{panics: true}},
	}
)

// patience says how long a call may take, 0: without limit.
func patience(n int) time.Duration {
	return [10]time.Duration{6: time.Millisecond, 7: 25 * time.Millisecond, 8: 400 * time.Millisecond, 9: 2 * time.Second}[n]
}

// turn is what a function given to Do does once.
type turn struct {
	hold   time.Duration
	err    error
	closes bool // for errors that do not say so themselves
	itself bool // it releases its lease itself
	panics bool
}

func (t turn) fatal() bool {
	return t.panics || t.err != nil && !errors.Is(t.err, errTemporary)
}

type doScript []turn

func (s doScript) String() string {
	var turns []string
	for _, t := range s {
		switch {
		case t.panics:
			turns = append(turns, "panics")
		case t.itself:
			turns = append(turns, "releases")
		default:
			turns = append(turns, fmt.Sprintf("%v %v", t.hold, t.err))
		}
	}
	return strings.Join(turns, ", ")
}

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

const modelHosts = 6

func hostName(n int) string { return string(rune('a' + n%modelHosts)) }

// hostSet returns hosts for SetHosts: at least one, except in one of ten.
func hostSet(a, b int) (names []string) {
	for i := range (a + 1) % 6 {
		names = append(names, hostName(b+i))
	}
	if a == 5 && b > 0 {
		names = append(names, hostName(b))
	}
	return names
}

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
	m.abandon()
	return m.fault
}

func newModel(p plan) *model {
	m := &model{
		plan: p, born: time.Now(), most: p.MaxConns,
		hosts: make(map[string]*modelHost), want: make(map[string]bool), drained: make(map[string]bool),
	}
	config := pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{
			Driver:          (*modelDriver)(m),
			MaxConns:        p.MaxConns,
			MaxWaiting:      p.MaxWaiting,
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
		MaxHosts:            p.MaxHosts,
		SubsetSeed:          p.Seed,
		BanditStrategy:      modelStrategies[p.Strategy](),
		Logger:              slog.New(slog.DiscardHandler),
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
		m.get(patience(o.A))
	case opDo:
		m.doing(patience(o.A), scripts[o.B])
	case opDial:
		m.dial(patience(o.A))
	case opRelease, opReleaseTwice:
		if l := pick(m.held(), o.A); l != nil {
			m.release(l, outcomes[o.B], o.Kind == opReleaseTwice)
		}
	case opReleaseAgain:
		if l := pick(m.over(), o.A); l != nil {
			m.releaseAgain(l)
		}
	case opTalk:
		if s := pick(m.open(), o.A); s != nil {
			m.talk(s)
		}
	case opHangUp:
		if s := pick(m.open(), o.A); s != nil {
			m.hangUp(s)
		}
	case opCancel:
		if c := pick(m.pending(), o.A); c != nil {
			m.cancel(c)
		}
	case opAdd:
		m.add(hostName(o.A))
	case opRemove:
		m.remove(hostName(o.A))
	case opDrain:
		m.drain(hostName(o.A))
	case opResume:
		m.resume(hostName(o.A))
	case opEvict:
		m.evict(hostName(o.A))
	case opResize:
		m.resize(1 + o.A%4)
	case opSet:
		m.set(hostSet(o.A, o.B))
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

// finish proves that all capacity came back: once every lease is released, every caller gone and
// every host up for as long as a probe may take, every place of every host can be leased at once.
// Then it closes the service.
func (m *model) finish() {
	m.step++
	m.begin(nil)
	for _, c := range m.pending() {
		m.cancel(c)
	}
	m.releaseAll()
	for i := range modelHosts {
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
	m.resize(m.plan.MaxConns)
	m.rest(20 * time.Second)
	m.rest(time.Second)

	for range 40 {
		m.step++
		m.begin([]op{{Kind: opSleep}})
		places := 0
		for _, h := range m.service.Stats().Hosts {
			places += h.Limit
		}
		for range places {
			m.get(0)
			synctest.Wait()
		}
		m.check()
		if n := len(m.held()); m.fault == "" && n != places {
			m.failf("%d leases for %d places: capacity is lost", n, places)
		}
		if m.fault != "" {
			return
		}
		m.step++
		m.begin(nil)
		m.releaseAll()
		m.check()
		if m.fault != "" || places == m.inside.Used()*m.plan.MaxConns {
			break
		}
		m.rest(time.Second) // the limit has to grow back
	}
	m.reached.filled++
	if !m.unlimited() {
		m.failf("a limit did not grow back to MaxConns")
		return
	}
	m.step++
	m.begin(nil)
	m.close()
	m.check()
}

func (m *model) rest(d time.Duration) {
	if m.fault == "" {
		m.step++
		m.begin([]op{{Kind: opSleep}})
		time.Sleep(d)
		m.check()
	}
}

func (m *model) releaseAll() {
	for _, l := range m.held() {
		m.release(l, outcomes[0], false)
	}
	for _, s := range m.open() {
		m.hangUp(s)
	}
}

// abandon lets everything end, whatever it is, so that the bubble can.
func (m *model) abandon() {
	for _, c := range m.pending() {
		c.cancel()
	}
	m.releaseAll()
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

// newCall begins a call of some kind.
func (m *model) newCall(kind opKind, patience time.Duration) (*modelCall, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	if patience > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), patience)
	}
	c := &modelCall{
		id: len(m.calls), kind: kind, step: m.step, began: time.Now(), waits: time.Now(), patience: patience, cancel: cancel,
	}
	m.mu.Lock()
	m.calls = append(m.calls, c)
	m.raced = m.raced || kind == opDial
	m.mu.Unlock()
	return c, ctx
}

func (m *model) get(patience time.Duration) {
	c, ctx := m.newCall(opGet, patience)
	go func() {
		l, err := m.service.GetConnContext(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		c.end(m.step, err)
		if err != nil {
			m.lost++
			return
		}
		m.leases = append(m.leases, &modelLease{call: c.id, handle: l, conn: m.leased(c, l.Interface(), l.Address())})
	}()
}

func (m *model) doing(patience time.Duration, s doScript) {
	c, ctx := m.newCall(opDo, patience)
	c.script = s
	go func() {
		err := errPanicked
		defer func() {
			recover()
			m.mu.Lock()
			defer m.mu.Unlock()
			c.end(m.step, err)
			var failure *pooly.GetConnError
			if errors.As(err, &failure) {
				m.lost++
				if c.runs > 0 {
					m.retries++
				}
			}
			m.retries += uint64(max(0, c.runs-1))
		}()
		err = m.service.Do(ctx, func(l *pooly.Conn) error { return m.run(c, ctx, l) })
	}()
}

var errPanicked = errors.New("the function panicked")

// run is a function given to Do.
func (m *model) run(c *modelCall, ctx context.Context, l *pooly.Conn) error {
	m.mu.Lock()
	conn := m.leased(c, l.Interface(), l.Address())
	t := c.script[min(c.runs, len(c.script)-1)]
	c.runs++
	c.inside = true
	m.checkOther(c, conn)
	c.used = append(c.used, conn.of)
	m.mu.Unlock()

	if t.hold > 0 {
		timer := time.NewTimer(t.hold)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	if t.itself {
		m.mu.Lock()
		m.unlease(conn, false, false)
		m.mu.Unlock()
		_ = l.Release(nil, 0.7)
	} else {
		m.mu.Lock()
		m.unlease(conn, t.fatal(), t.err != nil)
		m.mu.Unlock()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.inside, c.waits, c.last = false, time.Now(), t.err
	if t.panics {
		panic("as the script says")
	}
	return t.err
}

func (m *model) dial(patience time.Duration) {
	c, ctx := m.newCall(opDial, patience)
	go func() {
		nc, err := m.service.DialContext(ctx, "", "")
		m.mu.Lock()
		defer m.mu.Unlock()
		c.end(m.step, err)
		if err != nil {
			m.lost++
			return
		}
		under := nc.(interface{ NetConn() net.Conn }).NetConn()
		conn := m.leased(c, under, under.(*modelConn).of.address)
		m.sockets = append(m.sockets, &modelSocket{conn: nc, under: conn})
	}()
}
