package standin

import (
	"context"
	"net"

	"github.com/apache/thrift/lib/go/thrift"
)

// Thrift starts a server of framed binary messages, which serve answers one by one.
func Thrift(serve1 func(ctx context.Context, in, out thrift.TProtocol) error) *Server {
	return serve(func(c net.Conn, _ string) {
		config := &thrift.TConfiguration{}
		transport := thrift.NewTFramedTransportConf(thrift.NewTSocketFromConnConf(c, config), config)
		protocol := thrift.NewTBinaryProtocolConf(transport, config)
		for serve1(context.Background(), protocol, protocol) == nil {
		}
	})
}
