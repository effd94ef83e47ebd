package differential

import (
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto"        // the codec beneath ours
	_ "google.golang.org/grpc/health/grpc_health_v1" // its methods are called by name
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
)

// rawRequest is a request that goes out as it is.
type rawRequest []byte

// codec is grpc's own but for requests that are bytes already.
type codec struct{ proto encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if raw, ok := v.(rawRequest); ok {
		return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
	}
	return c.proto.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error { return c.proto.Unmarshal(data, v) }
func (c codec) Name() string                                { return "proto" }

// method is what is known of a method by its name.
type method struct {
	response  protoreflect.MessageType
	streaming bool // the server answers with any number of messages
}

// methodOf looks a method up. One that nobody declares answers with nothing, if at all.
func methodOf(full string) method {
	empty := method{response: (&emptypb.Empty{}).ProtoReflect().Type()}
	md := descriptorOf(full)
	if md == nil {
		return empty
	}
	t, err := protoregistry.GlobalTypes.FindMessageByName(md.Output().FullName())
	if err != nil {
		return empty
	}
	return method{response: t, streaming: md.IsStreamingServer()}
}

// wireOf is what goes over the wire for a request.
func wireOf(r proto.Message, seed uint64) (any, error) {
	if seed == 0 {
		return r, nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return nil, err
	}
	return rawRequest(mangle(b, rand.New(rand.NewPCG(seed, 3)))), nil
}

// mangle encodes a message as no client would: most of what comes out means
// the same or something else, some means nothing.
func mangle(b []byte, rng *rand.Rand) []byte {
	fields := split(b)
	for range 1 + rng.IntN(3) {
		at := rng.IntN(len(fields) + 1)
		insert := func(f []byte) {
			fields = append(fields[:at], append([][]byte{f}, fields[at:]...)...)
		}
		switch rng.IntN(11) {
		case 0: // a field that nobody knows
			insert(unknownField(rng))
		case 1: // a field again
			if len(fields) > 0 {
				insert(fields[rng.IntN(len(fields))])
			}
		case 2: // two change places
			if len(fields) > 1 {
				i, j := rng.IntN(len(fields)), rng.IntN(len(fields))
				fields[i], fields[j] = fields[j], fields[i]
			}
		case 3: // one is gone
			if at < len(fields) {
				fields = append(fields[:at], fields[at+1:]...)
			}
		case 4: // a number of any size in any field
			f := protowire.AppendTag(nil, protowire.Number(1+rng.IntN(14)), protowire.VarintType)
			insert(protowire.AppendVarint(f, rng.Uint64()>>rng.IntN(64)))
		case 5: // a default value, spelt out
			f := protowire.AppendTag(nil, protowire.Number(1+rng.IntN(14)), protowire.VarintType)
			insert(append(f, 0))
		case 6: // bytes in any field
			f := protowire.AppendTag(nil, protowire.Number(1+rng.IntN(14)), protowire.BytesType)
			insert(protowire.AppendBytes(f, []byte("abc")[:rng.IntN(4)]))
		case 7: // a number longer than it need be
			if at < len(fields) {
				fields[at] = pad(fields[at])
			}
		case 8: // the same one floor down
			if at < len(fields) {
				fields[at] = within(fields[at], rng)
			}
		case 9: // another byte
			if at < len(fields) && len(fields[at]) > 0 {
				f := append([]byte(nil), fields[at]...)
				f[rng.IntN(len(f))] ^= 1 << rng.IntN(8)
				fields[at] = f
			}
		case 10: // cut off
			if rng.IntN(4) == 0 && at < len(fields) && len(fields[at]) > 1 {
				fields[at] = fields[at][:len(fields[at])-1]
			}
		}
	}
	var out []byte
	for _, f := range fields {
		out = append(out, f...)
	}
	return out
}

// split cuts a message into its fields.
func split(b []byte) (fields [][]byte) {
	for len(b) > 0 {
		_, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return append(fields, b)
		}
		fields, b = append(fields, b[:n:n]), b[n:]
	}
	return fields
}

func unknownField(rng *rand.Rand) []byte {
	num := protowire.Number(90 + rng.IntN(3000))
	switch rng.IntN(5) {
	case 0:
		return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), rng.Uint64())
	case 1:
		return protowire.AppendFixed32(protowire.AppendTag(nil, num, protowire.Fixed32Type), rng.Uint32())
	case 2:
		return protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), rng.Uint64())
	case 3:
		inner := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 7)
		return protowire.AppendGroup(protowire.AppendTag(nil, num, protowire.StartGroupType), num, inner)
	default:
		return protowire.AppendString(protowire.AppendTag(nil, num, protowire.BytesType), "what")
	}
}

// pad adds an empty seventh bit group to a field's number or length.
func pad(f []byte) []byte {
	_, typ, n := protowire.ConsumeTag(f)
	if n < 0 || typ != protowire.VarintType && typ != protowire.BytesType {
		return f
	}
	v, m := protowire.ConsumeVarint(f[n:])
	if m < 0 || m > 8 {
		return f
	}
	out := append([]byte(nil), f[:n]...)
	out = protowire.AppendVarint(out, v)
	out[len(out)-1] |= 0x80
	out = append(out, 0)
	return append(out, f[n+m:]...)
}

// within mangles what a field holds.
func within(f []byte, rng *rand.Rand) []byte {
	num, typ, n := protowire.ConsumeTag(f)
	if n < 0 || typ != protowire.BytesType {
		return f
	}
	v, m := protowire.ConsumeBytes(f[n:])
	if m < 0 || len(split(v)) == 0 {
		return f
	}
	return protowire.AppendBytes(protowire.AppendTag(nil, num, typ), mangle(v, rng))
}

// hexOf shows what a mangled step sends, for whom it may concern.
func hexOf(v any) string {
	if raw, ok := v.(rawRequest); ok {
		return fmt.Sprintf("%x", []byte(raw))
	}
	return ""
}
