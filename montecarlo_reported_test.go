//go:build montecarlo_simulation

package pooly_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/3XX0/pooly"
)

func TestMonteCarloReported(t *testing.T) {
	ll := func() pooly.Bandit { return pooly.NewLeastLatency() }
	var cs []contender
	for _, m := range strings.Split(os.Getenv("MODES"), ",") {
		c := contender{name: m, loads: true, make: ll}
		switch {
		case m == "none":
		case m == "replies":
			c.replies = true
		case strings.HasPrefix(m, "both"):
			c.replies = true
			fmt.Sscanf(m, "both%f", &c.probes)
		default:
			fmt.Sscanf(m, "probes%f", &c.probes)
		}
		if strings.HasSuffix(m, "w") {
			c.wait = 5 * time.Millisecond
		}
		cs = append(cs, c)
	}
	for _, cl := range strings.Split(os.Getenv("CLIENTS"), ",") {
		d := theHosts()
		fmt.Sscan(cl, &d.Clients)
		load := 0.85
		if v := os.Getenv("LOAD"); v != "" {
			fmt.Sscan(v, &load)
		}
		c := compare(t, d, load, cs, references[:1])
		for _, m := range cs {
			report("%s clients %-10s %s  %s", cl, m.name, c[m.name].ratio.pm(2), c[m.name].times())
		}
	}
}
