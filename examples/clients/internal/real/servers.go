package real

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Redis starts a redis-server and two replicas that have all its data. The key greeting is hello.
func Redis(t testing.TB) []*Server {
	t.Helper()
	redis, cli := program(t, "redis-server", "redis-server"), program(t, "redis-cli", "redis-tools")
	var servers []*Server
	primary := port(t)
	for i, p := range []string{primary, port(t), port(t)} {
		args := []string{"--port", p, "--bind", "127.0.0.1", "--dir", folder(t), "--save", "", "--repl-diskless-sync-delay", "0"}
		ready := ask("127.0.0.1:"+p, "PING\r\n", "+PONG")
		if i > 0 {
			args = append(args, "--replicaof", "127.0.0.1", primary)
			ready = ask("127.0.0.1:"+p, "GET greeting\r\n", "hello")
		}
		servers = append(servers, start(t, "127.0.0.1:"+p, exec.Command(redis, args...), ready))
		if i == 0 {
			require.NoError(t, exec.Command(cli, "-p", p, "set", "greeting", "hello").Run())
		}
	}
	return servers
}

// Memcached starts three servers that know nothing of each other.
func Memcached(t testing.TB) []*Server {
	t.Helper()
	memcached := program(t, "memcached", "memcached")
	var servers []*Server
	for range 3 {
		p := port(t)
		args := []string{"-l", "127.0.0.1", "-p", p, "-U", "0", "-m", "16"}
		if os.Getuid() == 0 {
			args = append(args, "-u", "nobody")
		}
		ready := ask("127.0.0.1:"+p, "version\r\n", "VERSION")
		servers = append(servers, start(t, "127.0.0.1:"+p, exec.Command(memcached, args...), ready))
	}
	return servers
}

// Nginx starts three servers that answer / with their port.
func Nginx(t testing.TB) []*Server {
	t.Helper()
	nginx := program(t, "nginx", "nginx-light")
	var servers []*Server
	for range 3 {
		p, dir := port(t), folder(t)
		config := fmt.Sprintf(`
			daemon off; master_process off; pid %[2]s/pid; error_log stderr;
			events { worker_connections 256; }
			http {
				access_log off;
				client_body_temp_path %[2]s; proxy_temp_path %[2]s; fastcgi_temp_path %[2]s;
				uwsgi_temp_path %[2]s; scgi_temp_path %[2]s;
				server { listen 127.0.0.1:%[1]s; location / { return 200 "%[1]s\n"; } }
			}`, p, dir)
		file := filepath.Join(dir, "nginx.conf")
		require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
		command := exec.Command(nginx, "-p", dir, "-c", file, "-e", "stderr")
		ready := ask("127.0.0.1:"+p, "GET / HTTP/1.0\r\n\r\n", p)
		servers = append(servers, start(t, "127.0.0.1:"+p, command, ready))
	}
	return servers
}

// Etcd starts three servers that know nothing of each other. What they speak is gRPC.
func Etcd(t testing.TB) []*Server {
	t.Helper()
	etcd := program(t, "etcd", "etcd-server")
	var servers []*Server
	for range 3 {
		p := port(t)
		client, peer := "http://127.0.0.1:"+p, "http://127.0.0.1:"+port(t)
		command := exec.Command(etcd, "--data-dir", filepath.Join(folder(t), "data"),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
		ready := ask("127.0.0.1:"+p, "GET /health HTTP/1.0\r\n\r\n", `"true"`)
		servers = append(servers, start(t, "127.0.0.1:"+p, command, ready))
	}
	return servers
}

// Postgres starts three servers with the same, empty, database postgres, and lets anyone in. Since the servers refuse
// to run as root, they then run as the user postgres that Debian's package makes.
func Postgres(t testing.TB) []*Server {
	t.Helper()
	initdb, postgres := program(t, "initdb", "postgresql"), program(t, "postgres", "postgresql")
	var servers []*Server
	first := ""
	for range 3 {
		dir := folder(t)
		as := asPostgres(t, dir)
		data := filepath.Join(dir, "data")
		make := exec.Command("cp", "-r", first, data)
		if first == "" {
			first = data
			make = exec.Command(initdb, "-D", data, "-U", "postgres", "--auth", "trust", "--no-sync")
		}
		make.Dir, make.SysProcAttr = dir, as
		output, err := make.CombinedOutput()
		require.NoError(t, err, string(output))
		servers = append(servers, &Server{Address: dir})
	}
	for i, s := range servers {
		dir, p := s.Address, port(t)
		command := exec.Command(postgres, "-D", filepath.Join(dir, "data"), "-p", p, "-c", "listen_addresses=127.0.0.1",
			"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=1MB")
		command.Dir, command.SysProcAttr = dir, asPostgres(t, dir)
		// A startup message of protocol 3.0 for the user postgres; R begins the server's consent.
		startup := "\x00\x00\x00\x17\x00\x03\x00\x00user\x00postgres\x00\x00"
		servers[i] = start(t, "127.0.0.1:"+p, command, ask("127.0.0.1:"+p, startup, "R\x00\x00\x00\x08"))
	}
	return servers
}

// MariaDB starts three servers with the same, empty, database test, and lets root in without a password.
func MariaDB(t testing.TB) []*Server {
	t.Helper()
	mariadbd, install := program(t, "mariadbd", "mariadb-server"), program(t, "mariadb-install-db", "mariadb-server")
	var servers []*Server
	first := ""
	for range 3 {
		dir, p := folder(t), port(t)
		data := filepath.Join(dir, "data")
		make := exec.Command("cp", "-r", first, data)
		if first == "" {
			first = data
			make = exec.Command(install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal")
		}
		output, err := make.CombinedOutput()
		require.NoError(t, err, string(output))
		command := exec.Command(mariadbd, "--no-defaults", "--datadir="+data, "--port="+p, "--bind-address=127.0.0.1",
			"--socket="+filepath.Join(dir, "socket"), "--skip-name-resolve", "--innodb-buffer-pool-size=8M",
			"--innodb-log-file-size=8M", "--max-connect-errors=1000000")
		if os.Getuid() == 0 {
			command.Args = append(command.Args, "--user=root")
		}
		servers = append(servers, start(t, "127.0.0.1:"+p, command, ask("127.0.0.1:"+p, "", "")))
	}
	return servers
}

// asPostgres gives dir to the user postgres if the test runs as root, and returns what makes a command that user's.
func asPostgres(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Skip("PostgreSQL does not run as root, and there is no user postgres")
	}
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	gid, err := strconv.Atoi(u.Gid)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, uid, gid))
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}
