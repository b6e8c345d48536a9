package poolygrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/3XX0/pooly"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/serviceconfig"
)

// Name is the policy's name in a service config.
const Name = "pooly"

func init() {
	balancer.Register(Builder{})
}

// Builder makes balancers of the policy. Register a Builder of your own for what a service config
// cannot express, and name it in the service config:
//
//	func init() {
//		balancer.Register(poolygrpc.Builder{
//			Policy:    "mine",
//			Configure: func(c *pooly.ServiceConfig) { c.BanditStrategy = new(Mine) },
//		})
//	}
//
// A channel has one balancer, and a new one after each idle period (see grpc.WithIdleTimeout).
type Builder struct {
	// Policy is the name in a service config. Default: Name.
	Policy string

	// Configure changes the configuration of each service before it starts, unless it is nil. A
	// strategy that keeps state must be a new one each time. The driver is replaced. If the
	// configuration is impossible, the channel's RPCs fail with the reason.
	Configure func(*pooly.ServiceConfig)

	// Started gets each service, for metrics and for Stats, unless it is nil. The service is closed
	// with its channel, when the channel becomes idle, and when a resolver brings another
	// configuration. It must not be changed.
	Started func(*pooly.Service)
}

// Name implements balancer.Builder.
func (b Builder) Name() string {
	if b.Policy == "" {
		return Name
	}
	return b.Policy
}

// ParseConfig implements balancer.ConfigParser.
func (b Builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	c, err := parse(text)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Build implements balancer.Builder.
func (b Builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	p := &policy{ClientConn: cc, builder: b, target: opts.Target.Endpoint()}
	p.parking.wake = p.wake
	pickFirst := balancer.Get(pickfirst.Name).Build
	p.child = endpointsharding.NewBalancer(p, opts, pickFirst, endpointsharding.Options{})
	return p
}

// policy is the balancer of one channel. gRPC's endpoint sharding keeps a pick_first child for each
// endpoint, and tells their states to UpdateState.
type policy struct {
	balancer.ClientConn                   // immutable; the channel's
	builder             Builder           // immutable
	target              string            // immutable
	child               balancer.Balancer // immutable; endpoint sharding
	parking             parking

	mu      sync.Mutex // guards the fields below; never held while calling child
	options options    // of balance
	balance *balance   // nil before the first configuration
	ready   bool       // the channel has a balance picker
	closed  bool
}

// balance is a service over the endpoints, with what its RPCs tell. It is immutable: another
// configuration needs another balance.
type balance struct {
	service   *pooly.Service
	endpoints *endpoints
	judge     judge
	parking   *parking
}

// UpdateClientConnState implements balancer.Balancer.
func (p *policy) UpdateClientConnState(state balancer.ClientConnState) error {
	config, ok := state.BalancerConfig.(*lbConfig)
	if !ok {
		config = &lbConfig{options: defaults()}
	}
	old, err := p.configure(config)
	if err != nil {
		return err
	}
	// The child tells all states before it returns, so that a new balance has its endpoints then.
	err = p.child.UpdateClientConnState(balancer.ClientConnState{
		ResolverState: pickfirst.EnableHealthListener(state.ResolverState),
	})
	if old != nil {
		_ = old.service.Close()
	}
	return err
}

// configure starts a balance if the configuration is another one. It returns the old balance for
// the caller to close, nil if it stays.
func (p *policy) configure(config *lbConfig) (old *balance, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.balance != nil && reflect.DeepEqual(p.options, config.options) {
		return nil, nil
	}
	fresh, err := p.newBalance(config)
	if err != nil {
		p.fail(err)
		return nil, err
	}
	old, p.balance, p.options = p.balance, fresh, config.options
	return old, nil
}

func (p *policy) newBalance(config *lbConfig) (*balance, error) {
	service, err := config.service()
	if err != nil {
		return nil, err
	}
	if p.builder.Configure != nil {
		p.builder.Configure(service)
	}
	shares := &endpoints{byName: make(map[string]*endpoint)}
	service.Driver = shares
	if err := service.Validate(); err != nil {
		return nil, err
	}
	b := &balance{
		service:   pooly.NewService(p.target, service),
		endpoints: shares,
		judge: judge{config.options.failures(), time.Duration(config.options.LatencyTarget),
			config.options.LoadMetric},
		parking: &p.parking,
	}
	if p.builder.Started != nil {
		p.builder.Started(b.service)
	}
	return b, nil
}

// fail makes RPCs fail, unless there is a balance.
func (p *policy) fail(err error) {
	if p.balance == nil {
		p.ClientConn.UpdateState(balancer.State{
			ConnectivityState: connectivity.TransientFailure,
			Picker:            failing{fmt.Errorf("pooly: %w", err)},
		})
	}
}

type failing struct{ err error }

func (f failing) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, f.err
}

// UpdateState implements balancer.ClientConn for the child. While any endpoint is READY, the
// service picks. Otherwise the child's picker says what RPCs have to wait for, or why they fail.
func (p *policy) UpdateState(state balancer.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if p.balance != nil {
		p.balance.update(endpointsharding.ChildStatesFromPicker(state.Picker))
		p.ready = state.ConnectivityState == connectivity.Ready
	}
	if p.ready {
		state.Picker = p.balance
	}
	p.ClientConn.UpdateState(state)
}

// update tells the service which endpoints there are, and which of them are READY. An endpoint is a
// host from the first time that it is READY until the resolver drops it, so that it keeps its score
// over lost connections. The caller must hold policy.mu.
func (b *balance) update(children []endpointsharding.ChildState) {
	listed, added := make(map[string]bool), false
	for _, c := range children {
		name := nameOf(c.Endpoint)
		listed[name] = true
		if b.endpoints.get(name) == nil && c.State.ConnectivityState == connectivity.Ready {
			b.endpoints.set(name, new(endpoint))
			added = true
		}
	}
	if names, dropped := b.endpoints.keep(listed); added || dropped {
		b.service.SetHosts(names...)
	}
	for _, c := range children {
		name := nameOf(c.Endpoint)
		e := b.endpoints.get(name)
		switch {
		case e == nil:
		case c.State.ConnectivityState == connectivity.Ready:
			e.ready.Store(&c.State.Picker)
			if e.lost {
				e.lost = false
				b.service.Report(name, nil)
			}
		case !e.lost || c.State.ConnectivityState == connectivity.TransientFailure:
			e.ready.Store(nil)
			e.lost = true
			b.service.Report(name, causeOf(c.State))
		}
	}
}

var errLost = errors.New("gRPC has lost the connection")

// causeOf returns why an endpoint is not READY.
func causeOf(state balancer.State) error {
	if state.ConnectivityState == connectivity.TransientFailure {
		if _, err := state.Picker.Pick(balancer.PickInfo{}); err != nil {
			return err
		}
	}
	return errLost
}

// Pick implements balancer.Picker. It never blocks.
func (b *balance) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	lease, err := b.service.TryLease(info.Ctx)
	switch {
	case err == nil:
	case errors.Is(err, pooly.ErrOverloaded), errors.Is(err, pooly.ErrNoHostAvailable):
		b.parking.park()
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	case info.Ctx.Err() != nil, // gRPC makes the error
		errors.Is(err, pooly.ErrPoolClosed): // another picker is on its way
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	default:
		return balancer.PickResult{}, err
	}
	ready := lease.Interface().(*endpoint).ready.Load()
	if ready == nil { // the connection has just been lost, and update is about to bring a new picker
		_ = lease.End()
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	result, err := (*ready).Pick(info)
	if err != nil {
		_ = lease.End()
		return result, err
	}
	r := rpc{lease: lease, method: info.FullMethodName, began: time.Now()}
	done := result.Done
	result.Done = func(info balancer.DoneInfo) {
		b.judge.done(r, info)
		if done != nil {
			done(info)
		}
	}
	return result, nil
}

// wake makes the RPCs that wait in gRPC pick again.
func (p *policy) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready && !p.closed {
		p.ClientConn.UpdateState(balancer.State{ConnectivityState: connectivity.Ready, Picker: p.balance})
	}
}

// ResolverError implements balancer.Balancer.
func (p *policy) ResolverError(err error) {
	p.child.ResolverError(err)
}

// UpdateSubConnState implements balancer.Balancer. gRPC does not call it: children have listeners.
func (p *policy) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle implements balancer.Balancer.
func (p *policy) ExitIdle() {
	p.child.ExitIdle()
}

// Close implements balancer.Balancer.
func (p *policy) Close() {
	p.mu.Lock()
	p.closed = true
	last := p.balance
	p.mu.Unlock()
	p.parking.close()
	p.child.Close()
	if last != nil {
		_ = last.service.Close()
	}
}
