//go:build graphite

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// stack starts statsd, carbon and graphite-web, and stops them when the test ends.
func stack(t *testing.T) (statsd, graphite string) {
	t.Helper()
	cmd := exec.Command("./stack.sh")
	cmd.Stderr = os.Stderr
	// A flush that a busy machine makes late, in the same second as the next, would be overwritten by it.
	cmd.Env = append(os.Environ(), "STATSD_FLUSH=3000")
	stdin, err := cmd.StdinPipe() // the stack stops when it ends, even if this process is killed
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := fmt.Sscanf(line, "STATSD_ADDR=%s GRAPHITE_URL=%s", &statsd, &graphite); err != nil {
		_ = stdin.Close()
		var exit *exec.ExitError
		if errors.As(cmd.Wait(), &exit) && exit.ExitCode() == 77 {
			t.Skip("the stack cannot run here; stack.sh says above what is missing")
		}
		require.Failf(t, "the stack did not start", "it said %q", line)
	}
	return statsd, graphite
}

// graphiteSeries are the points of one series, those that have a value.
type graphiteSeries struct {
	Target string
	Tags   map[string]string
	Points []float64
}

func query(t *testing.T, graphite, target string, from time.Time) (all []graphiteSeries) {
	t.Helper()
	answer, err := http.Get(graphite + "/render?" + url.Values{
		"format": {"json"}, "target": {target}, "from": {fmt.Sprint(from.Unix() - 1)}, "noCache": {"1"},
	}.Encode())
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode, target)
	var raw []struct {
		Target     string
		Tags       map[string]string
		Datapoints [][2]*float64
	}
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&raw))
	for _, r := range raw {
		s := graphiteSeries{Target: r.Target, Tags: r.Tags}
		for _, p := range r.Datapoints {
			if p[0] != nil {
				s.Points = append(s.Points, *p[0])
			}
		}
		all = append(all, s)
	}
	return all
}

func sum(points []float64) (total float64) {
	for _, p := range points {
		total += p
	}
	return total
}

// ask asks again until an answer is right, since statsd and carbon take their time.
func ask(t *testing.T, graphite, target string, from time.Time, right func([]graphiteSeries) bool) []graphiteSeries {
	t.Helper()
	var answer []graphiteSeries
	deadline := time.Now().Add(15 * time.Second)
	for {
		answer = query(t, graphite, target, from)
		if right(answer) {
			return answer
		}
		if time.Now().After(deadline) {
			require.Failf(t, "not in Graphite", "%s: %v", target, answer)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// flaky is a network in which hosts of the name "down" refuse.
type flaky struct{ oneHost }

func (flaky) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	if strings.HasPrefix(address, "down") {
		return nil, syscall.ECONNREFUSED
	}
	return pooly.NewConn(0), nil
}

func TestGraphiteHasEverySeriesAndCountersAddUp(t *testing.T) {
	statsd, graphite := stack(t)
	began := time.Now()
	service := func(name string, format pooly.HostMetrics) *pooly.Service {
		return pooly.NewService(name, &pooly.ServiceConfig{
			PoolConfig:        pooly.PoolConfig{Driver: flaky{}, MaxConns: 1},
			GetAttempts:       1,
			StatsdAddr:        statsd,
			StatsdHostMetrics: format,
		})
	}
	orders, tagged := service("orders", pooly.HostMetricsNamed), service("tagged", pooly.HostMetricsGraphite)
	for range 7 {
		_, err := orders.GetConn()
		require.ErrorIs(t, err, pooly.ErrNoHostAvailable)
	}
	for _, s := range []*pooly.Service{orders, tagged} {
		s.Add("db-1.example:80")
		s.Add("db-2.example:80")
		s.Add("down.example:80")
	}
	const calls = 1500
	gets := make(map[string]float64)
	for i := range calls { // over three seconds: a burst would overflow the buffer of statsd's socket
		c, err := orders.GetConn()
		require.NoError(t, err)
		gets[c.Address()]++
		if i%100 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		require.NoError(t, c.Release(nil, 0.9))
		time.Sleep(2 * time.Millisecond)
	}
	c, err := tagged.GetConn()
	require.NoError(t, err)
	held := c.Address()

	adds := func(total float64) func([]graphiteSeries) bool {
		return func(s []graphiteSeries) bool { return len(s) == 1 && sum(s[0].Points) == total }
	}
	ends := func(value float64) func([]graphiteSeries) bool {
		return func(s []graphiteSeries) bool {
			return len(s) == 1 && len(s[0].Points) > 0 && s[0].Points[len(s[0].Points)-1] == value
		}
	}
	const prefix = ".service.orders."
	ask(t, graphite, "stats.counters"+prefix+"conns.get.count.count", began, adds(calls))
	ask(t, graphite, "stats.counters"+prefix+"conns.put.count.count", began, adds(calls))
	ask(t, graphite, "stats.counters"+prefix+"conns.get.fails.count", began, adds(7))
	ask(t, graphite, "stats.gauges"+prefix+"hosts.count", began, ends(3))
	ask(t, graphite, "stats.gauges"+prefix+"conns.count", began, ends(2))
	for _, timer := range []string{"hosts.score", "conns.get.delay", "conns.active.period"} {
		ask(t, graphite, "stats.timers"+prefix+timer+".count", began, adds(calls))
	}
	score := query(t, graphite, "stats.timers"+prefix+"hosts.score.upper", began)[0].Points
	require.InDelta(t, 90, score[len(score)-1], 10)
	longest := 0.0
	for _, ms := range query(t, graphite, "stats.timers"+prefix+"conns.active.period.upper", began)[0].Points {
		longest = max(longest, ms)
	}
	require.GreaterOrEqual(t, longest, 20.0, "milliseconds")

	// Per host, in the name.
	ask(t, graphite, "stats.counters"+prefix+"host.db-1_example__80.conns.get.count.count", began, adds(gets["db-1.example:80"]))
	ask(t, graphite, "stats.counters"+prefix+"host.db-2_example__80.conns.get.count.count", began, adds(gets["db-2.example:80"]))
	ask(t, graphite, "stats.gauges"+prefix+"host.down_example__80.ejected", began, ends(1))

	// Per host, as tags.
	ask(t, graphite, "seriesByTag('name=stats.gauges.service.tagged.host.ejected','address=down_example__80')", began, ends(1))
	ask(t, graphite, "seriesByTag('name=stats.gauges.service.tagged.host.conns.active','address="+
		strings.NewReplacer(".", "_", ":", "__").Replace(held)+"')", began, ends(1))
	require.NoError(t, c.Release(nil, pooly.HostUp))

	// Failed dials are probes too, so their number is known only once these have ended.
	require.NoError(t, tagged.Close())
	require.NoError(t, orders.Close())
	ask(t, graphite, "stats.counters"+prefix+"conns.fails.count", began, adds(float64(orders.Stats().Failures)))

	// The dashboard's panels, with what Graphite has now.
	d, err := readDashboard()
	require.NoError(t, err)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			found := query(t, graphite, strings.ReplaceAll(target.Target, "$service", "orders"), began)
			require.NotEmpty(t, found, "%s: %s", p.Title, target.Target)
			require.NotEmpty(t, found[0].Points, "%s: %s", p.Title, target.Target)
		}
	}
	folder := t.TempDir()
	require.NoError(t, drawPanels(graphite, "orders", began, time.Now(), folder))
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, files, len(d.Panels))
}
