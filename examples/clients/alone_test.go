// Package clients holds examples, each a program that can be copied whole.
package clients

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a user copies is main.go, without the rest of the folder and without this repository's internal packages.
func TestEachMainStandsAlone(t *testing.T) {
	mains, err := filepath.Glob("*/main.go")
	require.NoError(t, err)
	require.NotEmpty(t, mains)
	for _, main := range mains {
		output, err := exec.Command("go", "vet", main).CombinedOutput()
		require.NoError(t, err, "%s: %s", main, output)
		output, err = exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, main).Output()
		require.NoError(t, err, main)
		require.NotContains(t, string(output), "/internal/", main)
		require.True(t, strings.Contains(string(output), "3XX0/pooly"), main)
	}
}
