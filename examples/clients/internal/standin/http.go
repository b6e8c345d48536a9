package standin

import (
	"fmt"
	"net/http"
)

// HTTP starts a web server that says its address.
func HTTP() *Server {
	l := listen()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, l.Addr())
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	return &Server{Address: l.Addr().String(), stop: func() {
		_ = s.Close()
		<-done
	}}
}
