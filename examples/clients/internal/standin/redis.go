package standin

import "github.com/alicebob/miniredis/v2"

// Redis starts a miniredis that knows the key greeting.
func Redis() *Server {
	m := miniredis.NewMiniRedis()
	if err := m.Start(); err != nil {
		panic(err)
	}
	if err := m.Set("greeting", "hello"); err != nil {
		panic(err)
	}
	return &Server{Address: m.Addr(), stop: m.Close}
}
