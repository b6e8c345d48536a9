package pooly_test

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// statsdServer is a UDP socket that understands what a statsd server does.
type statsdServer struct {
	socket *net.UDPConn
	done   sync.WaitGroup

	mu      sync.Mutex
	packets []string            // not parsed yet: a reader that is busy parsing loses what comes meanwhile
	samples map[string][]sample // by metric
	broken  []string            // lines that are not of the form name:value|type or name:value|type|@rate
}

type sample struct {
	value float64
	kind  string
	rate  string
}

func startStatsd(t *testing.T, address string) *statsdServer {
	t.Helper()
	local, err := net.ResolveUDPAddr("udp", address)
	require.NoError(t, err)
	socket, err := net.ListenUDP("udp", local)
	require.NoError(t, err)
	require.NoError(t, socket.SetReadBuffer(4<<20))
	s := &statsdServer{socket: socket, samples: make(map[string][]sample)}
	s.done.Go(s.run)
	t.Cleanup(func() {
		_ = socket.Close()
		s.done.Wait()
	})
	return s
}

func (s *statsdServer) address() string { return s.socket.LocalAddr().String() }

func (s *statsdServer) run() {
	packet := make([]byte, 1<<16)
	for {
		n, err := s.socket.Read(packet)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.packets = append(s.packets, string(packet[:n]))
		s.mu.Unlock()
	}
}

// lock gives access to samples and broken.
func (s *statsdServer) lock() (unlock func()) {
	s.mu.Lock()
	for _, packet := range s.packets {
		for line := range strings.SplitSeq(packet, "\n") {
			s.parse(line)
		}
	}
	s.packets = nil
	return s.mu.Unlock
}

func (s *statsdServer) parse(line string) {
	name, rest, ok := strings.Cut(line, ":")
	fields := strings.Split(rest, "|")
	if !ok || len(fields) < 2 || len(fields) > 3 {
		s.broken = append(s.broken, line)
		return
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		s.broken = append(s.broken, line)
		return
	}
	v := sample{value: value, kind: fields[1]}
	if len(fields) == 3 {
		v.rate = fields[2]
	}
	s.samples[name] = append(s.samples[name], v)
}

func (s *statsdServer) names() []string {
	defer s.lock()()
	return slices.Sorted(maps.Keys(s.samples))
}

func (s *statsdServer) get(metric string) []sample {
	defer s.lock()()
	return slices.Clone(s.samples[metric])
}

func (s *statsdServer) sum(metric string) (sum float64) {
	for _, v := range s.get(metric) {
		sum += v.value
	}
	return sum
}

func TestMetricsAllNineArriveAndCountExactly(t *testing.T) {
	statsd := startStatsd(t, "127.0.0.1:0")
	d := newFakeDriver()
	d.refuse("dead")
	s := pooly.NewService("orders", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: d},
		StatsdAddr: statsd.address(),
	})
	empty := pooly.NewService("empty", &pooly.ServiceConfig{StatsdAddr: statsd.address()})
	s.Add("a")
	s.Add("b")
	s.Add("dead")
	const calls = 10_000
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range calls / 16 {
				c, err := s.GetConn()
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.Release(nil, 0.5); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c := get(t, s)
	time.Sleep(5 * time.Millisecond)
	release(t, c)
	eventually(t, func() bool { return len(statsd.get("service.orders.conns.count")) > 0 })
	for range 3 {
		_, err := empty.GetConn()
		require.Error(t, err)
	}
	stats := s.Stats()
	require.NoError(t, s.Close())
	require.NoError(t, empty.Close())

	const prefix = "service.orders."
	eventually(t, func() bool { return statsd.sum(prefix+"conns.put.count") == calls+1 })
	eventually(t, func() bool { return statsd.sum("service.empty.conns.get.fails") == 3 })
	for metric, kind := range map[string]string{
		"hosts.score": "ms", "hosts.count": "g", "conns.count": "g", "conns.fails": "c",
		"conns.put.count": "c", "conns.get.count": "c", "conns.get.delay": "ms", "conns.active.period": "ms",
	} {
		values := statsd.get(prefix + metric)
		require.NotEmpty(t, values, metric)
		for _, v := range values {
			require.Equal(t, sample{value: v.value, kind: kind}, v, metric)
		}
	}
	require.Equal(t, "c", statsd.get("service.empty.conns.get.fails")[0].kind)
	require.EqualValues(t, calls+1, statsd.sum(prefix+"conns.get.count"))
	require.EqualValues(t, stats.Failures, statsd.sum(prefix+"conns.fails"))
	require.EqualValues(t, 3, statsd.get(prefix + "hosts.count")[0].value)
	require.EqualValues(t, stats.Open, statsd.get(prefix + "conns.count")[0].value)
	const most = calls * 9 / 10 // of the timings: UDP may lose some
	require.Greater(t, len(statsd.get(prefix+"conns.get.delay")), most)
	scores := statsd.get(prefix + "hosts.score")
	require.Greater(t, len(scores), most)
	require.EqualValues(t, 50, scores[len(scores)-1].value, "percent")
	leases := statsd.get(prefix + "conns.active.period")
	require.Greater(t, len(leases), most)
	longest := slices.MaxFunc(leases, func(a, b sample) int { return cmp.Compare(a.value, b.value) })
	require.GreaterOrEqual(t, longest.value, 5.0, "milliseconds")
	require.Less(t, longest.value, 5000.0)
	require.Empty(t, statsd.broken)
}

func TestMetricsAreSampledButCountersExact(t *testing.T) {
	statsd := startStatsd(t, "127.0.0.1:0")
	s := pooly.NewService("sampled", &pooly.ServiceConfig{
		PoolConfig:       pooly.PoolConfig{Driver: newFakeDriver()},
		StatsdAddr:       statsd.address(),
		StatsdSampleRate: 0.1,
	})
	s.Add("a")
	const calls = 10_000
	for i := range calls {
		require.NoError(t, get(t, s).Release([]error{nil, errTemporary}[i%2], pooly.HostUp))
	}
	require.NoError(t, s.Close())
	eventually(t, func() bool { return statsd.sum("service.sampled.conns.put.count") == calls })
	require.EqualValues(t, calls, statsd.sum("service.sampled.conns.get.count"))
	for _, metric := range []string{"hosts.score", "conns.get.delay", "conns.active.period"} {
		values := statsd.get("service.sampled." + metric)
		require.InDelta(t, calls/10, len(values), 200, metric) // 6 standard deviations and more
		require.Equal(t, "@0.100000", values[0].rate)
	}
}

func TestMetricsNameIsMadeSafe(t *testing.T) {
	statsd := startStatsd(t, "127.0.0.1:0")
	s := pooly.NewService("a:b|c@d e\tf\ng", &pooly.ServiceConfig{StatsdAddr: statsd.address()})
	require.NoError(t, s.Close())
	eventually(t, func() bool { return len(statsd.names()) > 0 })
	for _, name := range statsd.names() {
		require.True(t, strings.HasPrefix(name, "service.a_b_c_d_e_f_g."), name)
	}
	require.Empty(t, statsd.broken)
}

// Whatever is wrong with the server, the service must work as if there were none.
func TestMetricsServerThatIsNotThereDisturbsNothing(t *testing.T) {
	for _, address := range []string{
		closedPort(t), "no-such-host.invalid:8125", "no such host:8125", "[::1]:1", ":1",
	} {
		s := pooly.NewService("lost", &pooly.ServiceConfig{
			PoolConfig: pooly.PoolConfig{Driver: newFakeDriver()},
			StatsdAddr: address,
		})
		s.Add("a")
		for range 1000 {
			release(t, get(t, s))
		}
		began := time.Now()
		require.NoError(t, s.Close())
		require.Less(t, time.Since(began), 5*time.Second, address)
	}
}

func TestMetricsArriveOnceTheServerIsThere(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.LocalAddr().String()
	require.NoError(t, l.Close())
	s := pooly.NewService("late", &pooly.ServiceConfig{
		PoolConfig: pooly.PoolConfig{Driver: newFakeDriver()},
		StatsdAddr: "localhost" + address[strings.LastIndex(address, ":"):],
	})
	defer func() { require.NoError(t, s.Close()) }()
	s.Add("a")
	for range 5000 { // more than a packet of nothing
		release(t, get(t, s))
	}
	statsd := startStatsd(t, address)
	eventually(t, func() bool {
		release(t, get(t, s))
		return len(statsd.get("service.late.conns.active.period")) > 0 && len(statsd.get("service.late.hosts.count")) > 0
	})
}

func ExampleServiceConfig_statsd() {
	s := pooly.NewService("orders", &pooly.ServiceConfig{
		StatsdAddr:       "127.0.0.1:8125", // need not be there
		StatsdSampleRate: 0.1,
	})
	defer s.Close()
	fmt.Println(s.Name(), "reports as service.orders.*")
	// Output: orders reports as service.orders.*
}
