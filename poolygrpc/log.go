package poolygrpc

import (
	"context"
	"log/slog"
	"strings"

	"google.golang.org/grpc/grpclog"
)

// logger writes to gRPC's log, which shows what GRPC_GO_LOG_SEVERITY_LEVEL asks for.
var logger = slog.New(grpcLog{grpclog.Component("pooly")})

type grpcLog struct{ grpclog.DepthLoggerV2 }

func (grpcLog) Enabled(context.Context, slog.Level) bool { return true }

func (l grpcLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(" " + a.String())
		return true
	})
	switch {
	case r.Level >= slog.LevelError:
		l.Error(b.String())
	case r.Level >= slog.LevelWarn:
		l.Warning(b.String())
	default:
		l.Info(b.String())
	}
	return nil
}

// pooly's records have all their attributes themselves.
func (l grpcLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l grpcLog) WithGroup(string) slog.Handler      { return l }
