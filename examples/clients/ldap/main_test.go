package main

import (
	"sync"
	"testing"

	"github.com/3XX0/pooly/examples/clients/internal/demo"
	"github.com/3XX0/pooly/examples/clients/internal/real"
	"github.com/3XX0/pooly/examples/clients/internal/standin"
	"github.com/go-ldap/ldap/v3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestRunByItself(t *testing.T) {
	real.RunWithStandIns(t, run, standin.LDAP)
}

func TestSearchesGoOnWhenAServerDies(t *testing.T) {
	servers, addresses := standin.Start(nil, standin.LDAP)
	defer servers.StopAll()
	s := newService(addresses...)
	defer func() { _ = s.Close() }()
	require.NoError(t, demo.Load(2000, servers.StopOne, func() error {
		_, err := search(t.Context(), s, "dc=example", "(objectClass=*)")
		return err
	}))
}

func TestManySearchesShareOneConnection(t *testing.T) {
	servers, addresses := standin.Start(nil, standin.LDAP)
	defer servers.StopAll()
	s := newService(addresses[0])
	defer func() { _ = s.Close() }()
	seen := make(map[*ldap.Conn]bool)
	var wg sync.WaitGroup
	for range 50 {
		c, err := s.GetConn()
		require.NoError(t, err)
		seen[c.Interface().(*ldap.Conn)] = true
		wg.Go(func() {
			_, err := c.Interface().(*ldap.Conn).Search(&ldap.SearchRequest{BaseDN: "dc=example", Filter: "(a=*)"})
			_ = c.Release(err, 1)
		})
	}
	wg.Wait()
	require.Len(t, seen, 1)
}

// "No such object" is an answer, and must cost the others no connection.
func TestAnAnswerKeepsTheConnection(t *testing.T) {
	servers, addresses := standin.Start(nil, standin.LDAP)
	defer servers.StopAll()
	s := newService(addresses[0])
	defer func() { _ = s.Close() }()
	first, err := s.GetConn()
	require.NoError(t, err)
	defer func() { _ = first.Release(nil, 1) }()
	for range 20 {
		_, err := search(t.Context(), s, "dc=nowhere", "(objectClass=*)")
		require.True(t, ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject), "%v", err)
	}
	next, err := s.GetConn()
	require.NoError(t, err)
	defer func() { _ = next.Release(nil, 1) }()
	require.Same(t, first.Interface(), next.Interface())
}
