package pooly_test

import (
	"encoding/json"
	"expvar"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/3XX0/pooly"
	"github.com/stretchr/testify/require"
)

// A variable that cannot be written as JSON would break the page of all.
func TestStatsAreAnExpvarWhateverHostsFailWith(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newService(t, pooly.ServiceConfig{PrespawnConns: 1}, "up")
		d.on("down", func(h *fakeHost) { h.err = unwritable{make(chan int)} })
		s.Add("down")
		synctest.Wait()
		variable := expvar.Func(func() any { return s.Stats() })
		var got struct {
			Open     int
			Strategy string
			Hosts    []struct {
				Address, Cause string
				Ejected        bool
				Idle, Failures int
			}
		}
		require.NoError(t, json.Unmarshal([]byte(variable.String()), &got))
		require.Equal(t, 1, got.Open)
		require.Equal(t, "round-robin", got.Strategy)
		require.Len(t, got.Hosts, 2)
		for _, h := range got.Hosts {
			if h.Address == "down" {
				require.True(t, h.Ejected)
				require.Equal(t, "unwritable", h.Cause)
				require.Equal(t, 1, h.Failures)
			} else {
				require.Empty(t, h.Cause)
				require.Equal(t, 1, h.Idle)
			}
		}
	})
}

type unwritable struct{ C chan int }

func (unwritable) Error() string { return "unwritable" }

func ExampleService_Stats_expvar() {
	s := pooly.NewService("orders", nil)
	defer s.Close()
	expvar.Publish("orders", expvar.Func(func() any { return s.Stats() }))
	fmt.Println(len(expvar.Get("orders").String()) > 0)
	// Output: true
}
