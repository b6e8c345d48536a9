package web

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// serveVariable is set in the environment of the process that serves.
const serveVariable = "POOLY_BENCH_WEB_SERVERS"

// Servers are web servers in a process of their own, so that their work is not counted as the
// client's.
type Servers struct {
	Addresses []string
	command   *exec.Cmd
	stdin     io.Closer
}

// Start runs this program once more, for so many servers. The program must call ServeIfAsked first.
func Start(n int) (*Servers, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &Servers{command: exec.Command(self)}
	s.command.Env = append(os.Environ(), fmt.Sprintf("%s=%d", serveVariable, n))
	s.command.Stderr = os.Stderr
	if s.stdin, err = s.command.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := s.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.command.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.Stop()
		return nil, fmt.Errorf("web: the servers did not start: %w", err)
	}
	s.Addresses = strings.Fields(line)
	return s, nil
}

// Stop ends the servers.
func (s *Servers) Stop() {
	_ = s.stdin.Close()
	_ = s.command.Wait()
}

// ServeIfAsked serves and never returns, if Start has started this process.
func ServeIfAsked() {
	n, err := strconv.Atoi(os.Getenv(serveVariable))
	if err != nil {
		return
	}
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, "web:", err)
			os.Exit(1)
		}
		addresses = append(addresses, l.Addr().String())
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetUnencryptedHTTP2(true)
		server := &http.Server{Handler: http.HandlerFunc(answer), Protocols: protocols}
		go func() { _ = server.Serve(l) }()
	}
	fmt.Println(strings.Join(addresses, " "))
	_, _ = io.Copy(io.Discard, os.Stdin) // until Stop
	os.Exit(0)
}

var zeros [1 << 20]byte

// answer answers /n with n bytes.
func answer(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Path[1:])
	if err != nil || n > len(zeros) {
		http.Error(w, "want the size of the answer", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	_, _ = w.Write(zeros[:n])
}
