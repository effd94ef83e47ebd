package differential

import (
	"fmt"
	"hash/crc32"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// renderMessage writes a message on one line: every field that is set, in order of
// number, and what it doesn't know. Two messages have the same text only if they
// are the same, but for long values, which are cut to length and checksum.
func renderMessage(b *strings.Builder, m protoreflect.Message, leases map[int64]int) {
	b.WriteByte('{')
	first := true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if !m.Has(fd) {
			continue
		}
		if fd.IsList() {
			list := m.Get(fd).List()
			for j := range list.Len() {
				renderField(b, fd, list.Get(j), leases, &first)
			}
			continue
		}
		renderField(b, fd, m.Get(fd), leases, &first)
	}
	if u := m.GetUnknown(); len(u) > 0 {
		fmt.Fprintf(b, " unknown:%x", []byte(u))
	}
	b.WriteByte('}')
}

func renderField(b *strings.Builder, fd protoreflect.FieldDescriptor, v protoreflect.Value, leases map[int64]int, first *bool) {
	if !*first {
		b.WriteByte(' ')
	}
	*first = false
	b.WriteString(string(fd.Name()))
	b.WriteByte(':')
	switch fd.Kind() {
	case protoreflect.MessageKind:
		renderMessage(b, v.Message(), leases)
	case protoreflect.BytesKind:
		renderBytes(b, v.Bytes())
	case protoreflect.StringKind:
		fmt.Fprintf(b, "%q", v.String())
	case protoreflect.EnumKind:
		if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
			b.WriteString(string(ev.Name()))
		} else {
			fmt.Fprintf(b, "%d", v.Enum())
		}
	case protoreflect.Int64Kind:
		if text, ok := symbolText(v.Int()); ok {
			b.WriteString(text)
		} else if n, ok := leases[v.Int()]; ok {
			fmt.Fprintf(b, "lease#%d", n)
		} else {
			fmt.Fprintf(b, "%d", v.Int())
		}
	default:
		fmt.Fprintf(b, "%v", v.Interface())
	}
}

func renderBytes(b *strings.Builder, v []byte) {
	const long = 80
	if len(v) <= long {
		fmt.Fprintf(b, "%q", v)
		return
	}
	fmt.Fprintf(b, "%q…(%d bytes, crc %08x)", v[:8], len(v), crc32.ChecksumIEEE(v))
}
