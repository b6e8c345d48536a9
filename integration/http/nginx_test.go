package http_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An nginx is a real server, with a master and one worker.
type nginx struct {
	address string
	process *os.Process
	dir     string
}

// startNginx starts one with the given lines in its http block; %s is its address and how it listens. The test is
// skipped if nginx is not installed.
func startNginx(t *testing.T, p protocol, cert tls.Certificate, block string) *nginx {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx"
		if _, err := os.Stat(path); err != nil {
			t.Skip("nginx is not installed (Debian: apt-get install nginx-light)")
		}
	}
	dir, err := os.MkdirTemp("", "pooly-") // workers that are not root cannot enter t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	n := &nginx{address: l.Addr().String(), dir: dir}
	listen := n.address
	if p.version == 2 {
		listen += " http2"
	}
	if p.tls {
		listen += " ssl"
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		require.NoError(t, err)
		n.write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
		n.write(t, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
		block = fmt.Sprintf("ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;\n", dir) + block
	}
	config := n.write(t, "nginx.conf", fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log %[1]s/error.log; worker_processes 1;
events { worker_connections 512; }
http {
  log_format ids "$request_method $request_uri $status"; access_log %[1]s/access.log ids;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
  %[2]s
}`, dir, strings.ReplaceAll(block, "LISTEN", listen)))
	cmd := exec.Command(path, "-p", dir, "-c", config, "-e", filepath.Join(dir, "error.log"))
	require.NoError(t, cmd.Start())
	n.process = cmd.Process
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", n.address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, time.Millisecond)
	return n
}

func (n *nginx) write(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(n.dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// reload does what nginx -s reload does: a new worker takes over, and the old one ends when it has served what has
// begun. It returns when the new one serves.
func (n *nginx) reload(t *testing.T, p protocol, roots *x509.CertPool) {
	t.Helper()
	before := n.worker(t, p, roots)
	require.NoError(t, n.process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return n.worker(t, p, roots) != before }, 10*time.Second, time.Millisecond)
}

// worker returns the process that serves a new connection.
func (n *nginx) worker(t *testing.T, p protocol, roots *x509.CertPool) string {
	t.Helper()
	once := p.transport(roots)
	defer once.CloseIdleConnections()
	resp, err := (&http.Client{Transport: once}).Get(p.scheme() + "://" + n.address)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	pid, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(pid)
}

// twice returns the POSTs that pooly has sent and nginx has served more than once.
func (n *nginx) twice(t *testing.T) (ids []string) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(n.dir, "access.log"))
	require.NoError(t, err)
	seen := make(map[string]int)
	for line := range strings.Lines(string(log)) {
		if strings.HasPrefix(line, "POST /pooly-") && strings.Contains(line, " 200") {
			if seen[line]++; seen[line] == 2 {
				ids = append(ids, line)
			}
		}
	}
	return ids
}

const hello = `server { listen LISTEN; location / { return 200 $pid; } }`

// Connections that end after 20 requests cost no request. nginx has them end after 1,000 by default.
func TestNginxKeepaliveRequestsFailNoRequest(t *testing.T) {
	for _, p := range anyHTTP {
		t.Run(p.name, func(t *testing.T) {
			cert, roots := certificate(t)
			servers, addresses := twoOfNginx(t, p, cert, "keepalive_requests 20;\n"+hello)
			d := newDuel(t, p, roots, addresses...)
			stop := d.load()
			d.answered(t, 3000)
			stop()
			d.report(t)
			d.requireNoneLost(t, servers)
			require.Greater(t, d.service.Stats().Dials, uint64(3000/20), "connections end")
		})
	}
}

// nginx -s reload costs no request where it costs http.Transport none. Over HTTP/1 the old worker closes connections
// although a POST may just come, which neither transport can send again. So there are only GETs.
func TestNginxReloadsFailNoRequest(t *testing.T) {
	for _, p := range anyHTTP {
		t.Run(p.name, func(t *testing.T) {
			cert, roots := certificate(t)
			servers, addresses := twoOfNginx(t, p, cert, hello)
			d := newDuel(t, p, roots, addresses...)
			d.onlyGet(p.version == 1)
			stop := d.load()
			for i := range restarts {
				d.answered(t, 200)
				servers[i%2].reload(t, p, roots)
			}
			d.answered(t, 200)
			stop()
			d.report(t)
			d.requireNoneLost(t, servers)
		})
	}
}

func twoOfNginx(t *testing.T, p protocol, cert tls.Certificate, block string) (servers []*nginx, addresses []string) {
	t.Helper()
	for range 2 {
		n := startNginx(t, p, cert, block)
		servers = append(servers, n)
		addresses = append(addresses, n.address)
	}
	return servers, addresses
}

func (d *duel) requireNoneLost(t *testing.T, servers []*nginx) {
	t.Helper()
	require.Zero(t, d.pooly.failed.Load(), d.pooly.err)
	require.Zero(t, d.ejections())
	for _, n := range servers {
		require.Empty(t, n.twice(t), "no POST is served twice")
	}
}
