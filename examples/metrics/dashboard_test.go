package main

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// emitted returns what pooly sends: each metric's name without the service's, with * for a host's, and its type.
func emitted(t *testing.T) map[string]string {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = server.Close() }()
	s := pooly.NewService("emitted", &pooly.ServiceConfig{
		PoolConfig:        pooly.PoolConfig{Driver: oneHost{}},
		GetAttempts:       1,
		StatsdAddr:        server.LocalAddr().String(),
		StatsdHostMetrics: pooly.HostMetricsNamed,
	})
	defer func() { _ = s.Close() }()
	_, err = s.GetConn()
	require.Error(t, err, "there is no host yet")
	s.Add("up")
	s.Add("down")
	for range 4 {
		c, err := s.GetConn()
		require.NoError(t, err)
		require.NoError(t, c.Release(nil, pooly.HostUp))
	}
	metrics := make(map[string]string)
	packet := make([]byte, 1<<16)
	deadline := time.Now().Add(10 * time.Second)
	for len(metrics) < 15 {
		require.NoError(t, server.SetReadDeadline(deadline))
		n, _, err := server.ReadFrom(packet)
		require.NoError(t, err, "only %v", metrics)
		for line := range strings.SplitSeq(string(packet[:n]), "\n") {
			name, rest, _ := strings.Cut(strings.TrimPrefix(line, "service.emitted."), ":")
			_, kind, _ := strings.Cut(rest, "|")
			for _, host := range []string{"up", "down"} {
				name = strings.Replace(name, "host."+host+".", "host.*.", 1)
			}
			metrics[name] = kind
		}
	}
	return metrics
}

// oneHost is a network in which the host "up" is up.
type oneHost struct{}

func (oneHost) Dial(_ context.Context, address string) (*pooly.Conn, error) {
	if address != "up" {
		return nil, net.ErrClosed
	}
	return pooly.NewConn(0), nil
}
func (oneHost) Close(*pooly.Conn)              {}
func (oneHost) TestOnBorrow(*pooly.Conn) error { return nil }
func (oneHost) Temporary(error) bool           { return false }

var (
	path = regexp.MustCompile(`stats\.(\w+)\.service\.\$service\.([\w.*]+)`)

	// What statsd makes of each type of metric, as statsd.js configures it.
	series = map[string]struct {
		folder string
		parts  []string
	}{
		"c":  {"counters", []string{".count", ".rate"}},
		"g":  {"gauges", []string{""}},
		"ms": {"timers", []string{".mean", ".median", ".upper_50", ".upper_90", ".upper_99", ".upper", ".lower", ".count", ".count_ps", ".std", ".sum"}},
	}
)

func TestDashboardShowsWhatIsEmittedAndNothingElse(t *testing.T) {
	d, err := readDashboard()
	require.NoError(t, err)
	known := make(map[string]string) // the series in Graphite, and which metric it is of
	metrics := emitted(t)
	require.Len(t, metrics, 15)
	for name, kind := range metrics {
		for _, part := range series[kind].parts {
			known[series[kind].folder+" "+name+part] = name
		}
	}
	shown := make(map[string]bool)
	for _, p := range d.Panels {
		require.NotEmpty(t, p.Targets, p.Title)
		for _, target := range p.Targets {
			found := path.FindAllStringSubmatch(target.Target, -1)
			require.Len(t, found, strings.Count(target.Target, "stats."), target.Target)
			require.NotEmpty(t, found, target.Target)
			for _, m := range found {
				require.Contains(t, known, m[1]+" "+m[2], "panel %q", p.Title)
				shown[known[m[1]+" "+m[2]]] = true
			}
		}
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(metrics)), slices.Collect(maps.Keys(shown)))
}

func TestDashboardCanBeImported(t *testing.T) {
	var d struct {
		Title         string
		UID           string
		SchemaVersion int
		ID            *int // of a dashboard that a server has
		Templating    struct {
			List []struct{ Name, Type, Query string }
		}
		Panels []struct {
			panel
			Datasource struct{ Type, UID string }
		}
	}
	require.NoError(t, json.Unmarshal(dashboardJSON, &d))
	require.NotEmpty(t, d.Title)
	require.NotEmpty(t, d.UID)
	require.Nil(t, d.ID)
	require.GreaterOrEqual(t, d.SchemaVersion, 36)
	require.Len(t, d.Templating.List, 2)
	require.Equal(t, "datasource", d.Templating.List[0].Type)
	require.Equal(t, "graphite", d.Templating.List[0].Query)
	require.Equal(t, "service", d.Templating.List[1].Name)
	require.Equal(t, "stats.gauges.service.*", d.Templating.List[1].Query)
	taken := make(map[[2]int]string) // cells of the grid, 24 wide
	ids, files := make(map[int]bool), make(map[string]bool)
	for _, p := range d.Panels {
		require.Equal(t, "${"+d.Templating.List[0].Name+"}", p.Datasource.UID)
		require.NotEmpty(t, p.Description, p.Title)
		require.Contains(t, units, p.FieldConfig.Defaults.Unit, p.Title)
		require.False(t, ids[p.ID] || files[fileName(p.Title)], p.Title)
		ids[p.ID], files[fileName(p.Title)] = true, true
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, taken[cell], "%s overlaps", p.Title)
				taken[cell] = p.Title
			}
		}
		refs := make(map[string]bool)
		for _, target := range p.Targets {
			require.False(t, refs[target.RefID], p.Title)
			refs[target.RefID] = true
		}
	}
}

// The pictures in the docs are of these panels.
func TestDashboardPicturesAreOfItsPanels(t *testing.T) {
	d, err := readDashboard()
	require.NoError(t, err)
	var want, have []string
	for _, p := range d.Panels {
		want = append(want, fileName(p.Title))
	}
	files, err := os.ReadDir("../../docs/metrics")
	require.NoError(t, err)
	for _, f := range files {
		have = append(have, f.Name())
	}
	require.Subset(t, have, want)
}

func TestComposeFileMountsWhatIsThere(t *testing.T) {
	compose, err := os.ReadFile("compose.yaml")
	require.NoError(t, err)
	mounts := regexp.MustCompile(`- (\./[^:]+):`).FindAllStringSubmatch(string(compose), -1)
	require.Len(t, mounts, 3)
	for _, m := range mounts {
		_, err := os.Stat(m[1])
		require.NoError(t, err)
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pooly.NewService("none", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		load(ctx, s, time.Hour)
		require.Less(t, time.Since(began), 61*time.Second)
		require.Positive(t, s.Stats().GetFailures)
		require.NoError(t, s.Close())
	})
}
