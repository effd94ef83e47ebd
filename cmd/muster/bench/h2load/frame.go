package h2load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	frameHeader   = 9
	messagePrefix = 5 // gRPC: compressed or not, length
	// defaultMaxFrame and defaultWindow are what RFC 9113 begins with.
	defaultMaxFrame = 16384
	defaultWindow   = 65535
	// ourWindow is what a server may send us, a stream and a connection, until told of more.
	ourWindow = 16 << 20
	maxStream = 1<<31 - 1
)

// ErrProtocol is wrapped where a peer breaks HTTP/2's or gRPC's rules, or isn't speaking
// them at all.
var ErrProtocol = errors.New("not a gRPC server, or a broken one")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrProtocol, fmt.Errorf(format, args...))
}

// appendFrame appends a frame's header.
func appendFrame(b []byte, length int, t http2.FrameType, flags http2.Flags, stream uint32) []byte {
	b = append(b, byte(length>>16), byte(length>>8), byte(length), byte(t), byte(flags))
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendSetting(b []byte, id http2.SettingID, v uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, uint16(id)), v)
}

func appendWindowUpdate(b []byte, stream uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, http2.FrameWindowUpdate, 0, stream), uint32(n))
}

// openingBytes are a client's first: the preface, its settings, and the connection's window.
func openingBytes() []byte {
	b := append([]byte(nil), http2.ClientPreface...)
	b = appendFrame(b, 12, http2.FrameSettings, 0, 0)
	b = appendSetting(b, http2.SettingEnablePush, 0)
	b = appendSetting(b, http2.SettingInitialWindowSize, ourWindow)
	return appendWindowUpdate(b, 0, ourWindow-defaultWindow)
}

// requestHeaders encodes a call's header block: first is for a connection's first call,
// and teaches the server's table; next is for all after it, and only points there.
func requestHeaders(authority, method string) (first, next []byte) {
	// RFC 7541, appendix A: entries of the static table, and where ours begin.
	const (
		staticAuthority, staticPOST, staticPath, staticHTTP = 1, 3, 4, 6
		staticContentType, staticUserAgent                  = 31, 58
		dynamic                                             = 62
		indexed, add                                        = 0x80, 0x40
	)
	first = append(first, indexed|staticPOST, indexed|staticHTTP)
	next = append(next, first...)
	fields := []struct {
		static      byte // 0: the name is spelled
		name, value string
	}{
		{static: staticPath, value: method},
		{static: staticAuthority, value: authority},
		{static: staticContentType, value: "application/grpc"},
		{static: staticUserAgent, value: "muster-bench"},
		{name: "te", value: "trailers"},
	}
	for i, f := range fields {
		first = append(first, add|f.static)
		if f.static == 0 {
			first = appendHpackString(first, f.name)
		}
		first = appendHpackString(first, f.value)
		// The newest entry comes first.
		next = append(next, indexed|byte(dynamic+len(fields)-1-i))
	}
	return first, next
}

// withPath is a later call's header block with another path, spelled and not remembered.
func withPath(next []byte, method string) []byte {
	const pathAt, literalPath = 2, 4
	b := append([]byte(nil), next[:pathAt]...)
	b = appendHpackString(append(b, literalPath), method)
	return append(b, next[pathAt+1:]...)
}

// appendHpackString appends a string as it is, without Huffman's code.
func appendHpackString(b []byte, s string) []byte {
	const prefix = 127
	if len(s) < prefix {
		return append(append(b, byte(len(s))), s...)
	}
	b = append(b, prefix)
	n := len(s) - prefix
	for ; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(append(b, byte(n)), s...)
}

// answer is what a reply's header block says.
type answer struct {
	http    int // :status, 0 in trailers
	hasCode bool
	code    int // grpc-status
	message string
}

// headerReader decodes header blocks. A block that only points into tables means the
// same as long as no other block has changed them, so a few of those are remembered.
type headerReader struct {
	dec   *hpack.Decoder
	now   answer
	known [3]struct {
		block []byte
		means answer
	}
	used, next int
}

func newHeaderReader() *headerReader {
	h := &headerReader{}
	h.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		switch f.Name {
		case ":status":
			h.now.http, _ = strconv.Atoi(f.Value)
		case "grpc-status":
			code, err := strconv.Atoi(f.Value)
			h.now.code, h.now.hasCode = code, err == nil
		case "grpc-message":
			h.now.message = f.Value
		}
	})
	return h
}

func (h *headerReader) read(block []byte) (answer, error) {
	for i := range h.used {
		if k := &h.known[i]; string(k.block) == string(block) {
			return k.means, nil
		}
	}
	h.now = answer{}
	if _, err := h.dec.Write(block); err != nil {
		return h.now, protocolError("headers: %w", err)
	}
	if err := h.dec.Close(); err != nil {
		return h.now, protocolError("headers: %w", err)
	}
	if !onlyPoints(block) {
		h.used, h.next = 0, 0
		return h.now, nil
	}
	k := &h.known[h.next]
	k.block, k.means = append(k.block[:0], block...), h.now
	h.next = (h.next + 1) % len(h.known)
	h.used = min(h.used+1, len(h.known))
	return h.now, nil
}

// onlyPoints tells whether a block consists of one-byte references to table entries.
func onlyPoints(block []byte) bool {
	for _, b := range block {
		if b <= 0x80 || b == 0xff {
			return false
		}
	}
	return true
}
