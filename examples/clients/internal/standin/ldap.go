package standin

import (
	"net"

	ber "github.com/go-asn1-ber/asn1-ber"
)

// LDAP starts a server that lets anyone in and has one object, dc=example.
func LDAP() *Server {
	return serve(func(c net.Conn, _ string) {
		for {
			request, err := ber.ReadPacket(c)
			if err != nil || len(request.Children) < 2 {
				return
			}
			id, op := request.Children[0].Value, request.Children[1]
			result := int64(0)
			switch op.Tag {
			case 0: // bind
			case 3: // search
				base, _ := op.Children[0].Value.(string)
				if base != "dc=example" {
					result = 32 // no such object
					break
				}
				entry := ber.Encode(ber.ClassApplication, ber.TypeConstructed, 4, nil, "entry")
				entry.AppendChild(octets(base))
				entry.AppendChild(ber.NewSequence("attributes"))
				if send(c, id, entry) != nil {
					return
				}
			default: // unbind, and what it does not know
				return
			}
			tag := ber.Tag(1) // of a bind's response
			if op.Tag == 3 {
				tag = 5
			}
			done := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "result")
			done.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, result, "code"))
			done.AppendChild(octets(""))
			done.AppendChild(octets(""))
			if send(c, id, done) != nil {
				return
			}
		}
	})
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func send(c net.Conn, id any, op *ber.Packet) error {
	message := ber.NewSequence("message")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, "id"))
	message.AppendChild(op)
	_, err := c.Write(message.Bytes())
	return err
}
