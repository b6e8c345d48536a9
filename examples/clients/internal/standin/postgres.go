package standin

import (
	"net"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Postgres starts a server that answers every query with its own port, as one row of one column of text.
func Postgres() *Server {
	return serve(func(c net.Conn, address string) {
		_, port, _ := net.SplitHostPort(address)
		b := pgproto3.NewBackend(c, c)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.AuthenticationOk{})
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		columns := &pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
			{Name: []byte("port"), DataTypeOID: 25 /* text */, DataTypeSize: -1, TypeModifier: -1},
		}}
		for b.Flush() == nil {
			message, err := b.Receive()
			if err != nil {
				return
			}
			switch message.(type) {
			case *pgproto3.Parse:
				b.Send(&pgproto3.ParseComplete{})
			case *pgproto3.Describe:
				b.Send(&pgproto3.ParameterDescription{})
				b.Send(columns)
			case *pgproto3.Bind:
				b.Send(&pgproto3.BindComplete{})
			case *pgproto3.Execute:
				b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(port)}})
				b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			case *pgproto3.Query: // a ping
				b.Send(&pgproto3.EmptyQueryResponse{})
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case *pgproto3.Sync:
				b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case *pgproto3.Terminate:
				return
			}
		}
	})
}
