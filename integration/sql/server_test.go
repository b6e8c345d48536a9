package sql_test

import (
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, data := range templates {
			_ = os.RemoveAll(filepath.Dir(data))
		}
		os.Exit(code)
	}))
}

// templates are empty databases by the server's name, from which each server has a copy.
var templates = make(map[string]string)

// server is a process of a database, on the same port each time it is started.
type server struct {
	t       testing.TB
	address string
	command func() *exec.Cmd
	ping    func(address string) error
	process *exec.Cmd
	ended   chan struct{} // closed when the process has ended
	log     *strings.Builder
}

// start starts the process and returns when it answers.
func (s *server) start() {
	s.t.Helper()
	s.run()
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case <-s.ended: // what the last one has left may still be there for a moment
			s.run()
		default:
		}
		if err = s.ping(s.address); err == nil {
			return
		}
	}
	s.kill()
	require.FailNow(s.t, "server does not answer", "%v\n%s", err, s.log)
}

func (s *server) run() {
	s.log = new(strings.Builder)
	s.process = s.command()
	s.process.Stdout, s.process.Stderr = s.log, s.log
	require.NoError(s.t, s.process.Start())
	process, ended := s.process, make(chan struct{})
	s.ended = ended
	go func() {
		defer close(ended)
		_ = process.Wait()
	}()
}

// kill ends the process as a crash does. It may be called again.
func (s *server) kill() {
	_ = s.process.Process.Kill()
	<-s.ended
}

// port is how a server calls itself.
func (s *server) port() string {
	_, port, _ := net.SplitHostPort(s.address)
	return port
}

func newServer(
	t testing.TB, command func(port string) *exec.Cmd, ping func(address string) error,
) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	require.NoError(t, err)
	s := &server{t: t, address: l.Addr().String(), ping: ping}
	require.NoError(t, l.Close())
	s.command = func() *exec.Cmd { return command(s.port()) }
	t.Cleanup(func() {
		if s.process != nil {
			s.kill()
		}
	})
	s.start()
	return s
}

// program returns the path of a server's program, or skips the test. Besides PATH it looks where
// Debian keeps such programs.
func program(t testing.TB, name, debian string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, pattern := range []string{"/usr/sbin/" + name, "/usr/lib/postgresql/*/bin/" + name} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	t.Skipf("%s is not installed: apt-get install %s, or run .ci/run modules as root", name, debian)
	return ""
}

// folder returns one that a server of another user can use. t.TempDir is closed to it.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pooly-sql-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// postgres starts servers that let anyone in as postgres. They refuse to run as root, so they then
// run as the user that Debian's package makes.
func postgres(t testing.TB, n int) (servers []*server) {
	t.Helper()
	initdb, postgres := program(t, "initdb", "postgresql"), program(t, "postgres", "postgresql")
	for range n {
		dir := folder(t)
		as := asUser(t, "postgres", dir)
		data := create(t, "postgres", dir, as, func(data string) *exec.Cmd {
			return exec.Command(initdb, "-D", data, "-U", "postgres", "--auth", "trust", "--no-sync")
		})
		servers = append(servers, newServer(t, func(port string) *exec.Cmd {
			command := exec.Command(postgres, "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1",
				"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=1MB")
			command.Dir, command.SysProcAttr = dir, as
			return command
		}, pingPostgres))
	}
	return servers
}

// mariadb starts servers that let anyone in.
func mariadb(t testing.TB, n int) (servers []*server) {
	t.Helper()
	install, mariadbd := program(t, "mariadb-install-db", "mariadb-server"), program(t, "mariadbd", "mariadb-server")
	small := []string{"--innodb-buffer-pool-size=8M", "--innodb-log-file-size=4M", "--skip-log-bin",
		"--innodb-flush-log-at-trx-commit=0", "--performance-schema=0"}
	if os.Getuid() == 0 {
		small = append(small, "--user=root")
	}
	for range n {
		dir := folder(t)
		data := create(t, "mariadb", dir, nil, func(data string) *exec.Cmd {
			return exec.Command(install, append([]string{"--no-defaults", "--datadir=" + data,
				"--auth-root-authentication-method=normal"}, small...)...)
		})
		servers = append(servers, newServer(t, func(port string) *exec.Cmd {
			return exec.Command(mariadbd, append([]string{"--no-defaults", "--datadir=" + data, "--port=" + port,
				"--bind-address=127.0.0.1", "--socket=" + filepath.Join(dir, "socket"), "--skip-grant-tables",
				"--skip-networking=0", "--skip-name-resolve"}, small...)...)
		}, pingMariaDB))
	}
	return servers
}

// create makes a new database in dir and returns its folder.
func create(
	t testing.TB, name, dir string, as *syscall.SysProcAttr, install func(data string) *exec.Cmd,
) (data string) {
	t.Helper()
	run := func(command *exec.Cmd) {
		command.Dir, command.SysProcAttr = dir, as
		output, err := command.CombinedOutput()
		require.NoError(t, err, string(output))
	}
	data = filepath.Join(dir, "data")
	if template := templates[name]; template != "" {
		run(exec.Command("cp", "-r", template, data))
		return data
	}
	run(install(data))
	template, err := os.MkdirTemp("", "pooly-sql-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(template, 0o755))
	templates[name] = filepath.Join(template, "data")
	output, err := exec.Command("cp", "-rp", data, templates[name]).CombinedOutput() // still the same user's
	require.NoError(t, err, string(output))
	return data
}

// asUser gives dir to a user if the test runs as root, and returns what makes a command that user's.
func asUser(t testing.TB, name, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Skipf("the server does not run as root, and there is no user %s", name)
	}
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, uid, gid))
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// slow returns the address of a proxy that passes what the server says on only after a delay.
func slow(t testing.TB, address string, delay time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, c)
	}
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			keep(client)
			server, err := net.Dial("tcp", address)
			if err != nil {
				_ = client.Close()
				continue
			}
			keep(server)
			wg.Go(func() {
				_, _ = io.Copy(server, client)
				_ = server.Close()
			})
			wg.Go(func() {
				defer client.Close()
				b := make([]byte, 64<<10)
				for {
					n, err := server.Read(b)
					time.Sleep(delay)
					if _, failed := client.Write(b[:n]); failed != nil || err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}
