package poolytest_test

import (
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// everywhere runs a test in a bubble, and outside.
func everywhere(t *testing.T, test func(t *testing.T)) {
	t.Run("in a bubble", func(t *testing.T) { synctest.Test(t, test) })
	t.Run("in real time", test)
}
