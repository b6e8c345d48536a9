// Package peers puts pooly and the libraries that its users would otherwise choose behind one interface, so that
// a benchmark runs the same loop over each.
//
// redis/go-redis is missing: its pool is an internal package, which no other module can import, and reached
// through its client it would measure the Redis protocol.
package peers

import (
	"context"
	"net"
	"strconv"
	"time"

	"github.com/3XX0/pooly"
	"github.com/bitly/go-hostpool"
	"github.com/jackc/puddle/v2"
	commons "github.com/jolestar/go-commons-pool/v2"
)

// Peer is a pool, or for go-hostpool a choice of hosts, that is ready for use.
type Peer interface {
	// Pair leases a connection and gives it back, in the way that the library's documentation
	// shows. If use is not nil, it is called in between.
	Pair(use func(net.Conn)) error

	// Close gives up everything.
	Close()
}

// Dial makes a connection.
type Dial func(context.Context) (net.Conn, error)

// Nothing is the Dial of a connection that costs nothing, so that only the pool is measured.
func Nothing(context.Context) (net.Conn, error) { return nil, nil }

// Pools are the libraries that pool the connections of one host, each with at most size of them.
var Pools = []struct {
	Name string
	New  func(size int, dial Dial) Peer
}{
	{"channel", NewBareChannel},
	{"channelpool", func(size int, dial Dial) Peer { return NewChannelPool(size, dial) }},
	{"puddle", NewPuddle},
	{"commons", NewCommons},
	{"pooly.Pool", func(size int, dial Dial) Peer { return NewPool(pooly.PoolConfig{MaxConns: size, Driver: Driver{dial}}) }},
	{"pooly", func(size int, dial Dial) Peer {
		return NewService(1, &pooly.ServiceConfig{PoolConfig: pooly.PoolConfig{MaxConns: size, Driver: Driver{dial}}})
	}},
}

// Strategies are the ways in which pooly chooses a host. Each call makes one of its own.
var Strategies = []struct {
	Name string
	New  func() pooly.Bandit
}{
	{"roundrobin", func() pooly.Bandit { return pooly.NewRoundRobin() }},
	{"epsilon", func() pooly.Bandit { return pooly.NewEpsilonGreedy(0.1) }},
	{"softmax", func() pooly.Bandit { return pooly.NewSoftMax(0.1) }},
	{"thompson", func() pooly.Bandit { return pooly.NewThompson() }},
	{"ucb", func() pooly.Bandit { return pooly.NewUCB(0.5) }},
	{"weighted", func() pooly.Bandit { return pooly.NewWeightedRoundRobin() }},
	{"poweroftwo", func() pooly.Bandit { return pooly.NewPowerOfTwo() }},
	{"peakewma", func() pooly.Bandit { return pooly.NewPeakEWMA(5) }},
	{"leastlatency", func() pooly.Bandit { return pooly.NewLeastLatency() }},
	{"hotcold", func() pooly.Bandit { return pooly.NewHotCold(5, 0.84) }},
}

// HostPools are the ways in which go-hostpool chooses a host; it pools no connections.
var HostPools = []struct {
	Name string
	New  func(hosts int) Peer
}{
	{"hostpool-roundrobin", func(n int) Peer { return hostPool{hostpool.New(Addresses(n))} }},
	{"hostpool-epsilon", func(n int) Peer {
		return hostPool{hostpool.NewEpsilonGreedy(Addresses(n), 0, &hostpool.LinearEpsilonValueCalculator{})}
	}},
}

// Addresses returns n names of hosts.
func Addresses(n int) []string {
	addresses := make([]string, n)
	for i := range addresses {
		addresses[i] = "10.0." + strconv.Itoa(i/250) + "." + strconv.Itoa(i%250) + ":6379"
	}
	return addresses
}

// Driver is a pooly.Driver that only dials.
type Driver struct{ dial Dial }

// NewDriver returns a driver that dials with dial.
func NewDriver(dial Dial) Driver { return Driver{dial} }

// Dial implements pooly.Driver.
func (d Driver) Dial(ctx context.Context, _ string) (*pooly.Conn, error) {
	c, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	return pooly.NewConn(c), nil
}

// Close implements pooly.Driver.
func (d Driver) Close(c *pooly.Conn) {
	if nc := c.NetConn(); nc != nil {
		_ = nc.Close()
	}
}

// TestOnBorrow implements pooly.Driver: every connection is fit.
func (d Driver) TestOnBorrow(*pooly.Conn) error { return nil }

// Temporary implements pooly.Driver: every error is fatal.
func (d Driver) Temporary(error) bool { return false }

// Service is a pooly.Service as a Peer.
type Service struct{ *pooly.Service }

// NewService returns a service with n hosts, each with a connection. A config without a driver gets
// one that costs nothing.
func NewService(n int, config *pooly.ServiceConfig) Service {
	if config.Driver == nil {
		config.Driver = Driver{Nothing}
	}
	s := pooly.NewService("bench", config)
	for _, address := range Addresses(n) {
		s.Add(address)
	}
	for config.PrespawnConns >= 0 && idle(s) < n {
		time.Sleep(time.Millisecond)
	}
	return Service{s}
}

func idle(s *pooly.Service) (n int) {
	for _, conns := range s.Status() {
		n += int(conns)
	}
	return n
}

// Pair implements Peer.
func (s Service) Pair(use func(net.Conn)) error {
	c, err := s.GetConn()
	if err != nil {
		return err
	}
	if use != nil {
		use(c.NetConn())
	}
	return c.Release(nil, pooly.HostUp)
}

// Close implements Peer.
func (s Service) Close() { must(s.Service.Close()) }

type pool struct{ *pooly.Pool }

// NewPool returns a pooly.Pool used alone.
func NewPool(config pooly.PoolConfig) Peer {
	return pool{pooly.NewPool("10.0.0.0:6379", &config)}
}

func (p pool) Pair(use func(net.Conn)) error {
	c, err := p.Get()
	if err != nil {
		return err
	}
	if use != nil {
		use(c.NetConn())
	}
	return c.Release(nil, pooly.HostUp)
}

func (p pool) Close() { must(p.Pool.Close()) }

type puddlePool struct{ *puddle.Pool[net.Conn] }

// NewPuddle returns a pool of jackc/puddle.
func NewPuddle(size int, dial Dial) Peer {
	p, err := puddle.NewPool(&puddle.Config[net.Conn]{
		Constructor: puddle.Constructor[net.Conn](dial),
		Destructor:  closeConn,
		MaxSize:     int32(size),
	})
	must(err)
	return puddlePool{p}
}

func (p puddlePool) Pair(use func(net.Conn)) error {
	r, err := p.Acquire(context.Background())
	if err != nil {
		return err
	}
	if use != nil {
		use(r.Value())
	}
	r.Release()
	return nil
}

type commonsPool struct{ *commons.ObjectPool }

// NewCommons returns a pool of jolestar/go-commons-pool.
func NewCommons(size int, dial Dial) Peer {
	config := commons.NewDefaultPoolConfig()
	config.MaxTotal, config.MaxIdle = size, size
	factory := commons.NewPooledObjectFactorySimple(func(ctx context.Context) (any, error) {
		c, err := dial(ctx)
		return &boxed{c}, err // the pool tells its objects apart by their identity
	})
	return commonsPool{commons.NewObjectPool(context.Background(), factory, config)}
}

type boxed struct{ net.Conn }

func (p commonsPool) Pair(use func(net.Conn)) error {
	ctx := context.Background()
	o, err := p.BorrowObject(ctx)
	if err != nil {
		return err
	}
	if use != nil {
		use(o.(*boxed).Conn)
	}
	return p.ReturnObject(ctx, o)
}

func (p commonsPool) Close() { p.ObjectPool.Close(context.Background()) }

type hostPool struct{ hostpool.HostPool }

func (p hostPool) Pair(func(net.Conn)) error {
	r := p.Get()
	_ = r.Host()
	r.Mark(nil)
	return nil
}

func closeConn(c net.Conn) {
	if c != nil {
		_ = c.Close()
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
