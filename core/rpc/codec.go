package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that everything but the hot messages goes through
	"google.golang.org/grpc/mem"
)

// wireReply is a reply that writes its own protobuf encoding. The bytes are
// asked for exactly once, so an implementation may recycle itself in there.
type wireReply interface {
	marshalWire() (mem.BufferSlice, error)
}

// wireRequest is a request that reads its own protobuf encoding. data belongs
// to grpc and is freed after the call: what is kept must be referenced or copied.
type wireRequest interface {
	unmarshalWire(data mem.BufferSlice) error
}

// codec is the server's codec: hot messages encode and decode themselves,
// everything else is ordinary protobuf. It stands in for the codec named
// "proto" on this server only, so that clients never notice.
type codec struct {
	proto encoding.CodecV2
}

func newCodec() codec { return codec{proto: encoding.GetCodecV2("proto")} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(wireReply); ok {
		return m.marshalWire()
	}
	return c.proto.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(wireRequest); ok {
		if err := m.unmarshalWire(data); err != nil {
			return fmt.Errorf("%T: %w", v, err)
		}
		return nil
	}
	return c.proto.Unmarshal(data, v)
}

func (c codec) Name() string { return "proto" }
