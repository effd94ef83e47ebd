package h2load

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/net/http2"
)

// feed works off the frames that are whole and says how many bytes they were. The caller
// presents the rest again, with more. An error is the connection's end.
func (s *session) feed(b []byte, now time.Duration) (used int, err error) {
	before := s.stats.done
	for len(b)-used >= frameHeader {
		h := b[used:]
		length := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		t := http2.FrameType(h[3])
		if length > defaultMaxFrame || !s.settled && t != http2.FrameSettings {
			return used, protocolError("its first bytes or a frame's length don't fit: %q", h[:frameHeader])
		}
		if len(h) < frameHeader+length {
			break
		}
		id := binary.BigEndian.Uint32(h[5:]) & maxStream
		if err := s.frame(t, http2.Flags(h[4]), id, h[frameHeader:frameHeader+length], now); err != nil {
			return used, err
		}
		used += frameHeader + length
	}
	if s.unreturned > ourWindow/2 {
		s.out = appendWindowUpdate(s.out, 0, s.unreturned)
		s.unreturned = 0
	}
	if n := s.stats.done - before; n > 0 {
		s.load.done.Add(int64(n))
	}
	return used, nil
}

func (s *session) frame(t http2.FrameType, flags http2.Flags, id uint32, p []byte, now time.Duration) error {
	if s.blockStream != 0 && (t != http2.FrameContinuation || id != s.blockStream) {
		return protocolError("a header block is interrupted by a frame of type %v", t)
	}
	switch t {
	case http2.FrameData:
		return s.data(flags, id, p, now)
	case http2.FrameHeaders:
		p, err := unpad(flags, p)
		if err != nil {
			return err
		}
		if flags.Has(http2.FlagHeadersPriority) {
			if len(p) < 5 {
				return protocolError("a HEADERS frame of %d bytes", len(p))
			}
			p = p[5:]
		}
		if !flags.Has(http2.FlagHeadersEndHeaders) {
			s.block, s.blockStream, s.blockFlags = append(s.block[:0], p...), id, flags
			return nil
		}
		return s.replyHeaders(flags, id, p, now)
	case http2.FrameContinuation:
		if s.blockStream == 0 || len(s.block) > 1<<20 {
			return protocolError("a CONTINUATION of nothing, or without end")
		}
		s.block = append(s.block, p...)
		if flags.Has(http2.FlagContinuationEndHeaders) {
			s.blockStream = 0
			return s.replyHeaders(s.blockFlags, id, s.block, now)
		}
	case http2.FrameRSTStream:
		if len(p) != 4 {
			return protocolError("a RST_STREAM frame of %d bytes", len(p))
		}
		if sl := s.slot(id); sl != nil {
			s.end(sl, now, "reset: "+http2.ErrCode(binary.BigEndian.Uint32(p)).String())
		}
	case http2.FrameSettings:
		return s.settings(flags, p)
	case http2.FramePing:
		if len(p) != 8 {
			return protocolError("a PING frame of %d bytes", len(p))
		}
		if !flags.Has(http2.FlagPingAck) {
			s.out = append(appendFrame(s.out, 8, http2.FramePing, http2.FlagPingAck, 0), p...)
		}
	case http2.FrameGoAway:
		if len(p) < 8 {
			return protocolError("a GOAWAY frame of %d bytes", len(p))
		}
		s.goingAway = true
		if code := http2.ErrCode(binary.BigEndian.Uint32(p[4:])); code != http2.ErrCodeNo {
			return fmt.Errorf("the server ended the connection: %v %s", code, p[8:])
		}
	case http2.FrameWindowUpdate:
		if len(p) != 4 {
			return protocolError("a WINDOW_UPDATE frame of %d bytes", len(p))
		}
		n := int64(binary.BigEndian.Uint32(p) & maxStream)
		if id == 0 {
			s.window += n
		} else if sl := s.slot(id); sl != nil {
			sl.window += n
		}
		if len(s.blocked) > 0 {
			s.unblock()
		}
	case http2.FramePushPromise:
		return protocolError("a PUSH_PROMISE frame")
	}
	return nil // other types are extensions, to be ignored
}

func (s *session) settings(flags http2.Flags, p []byte) error {
	if flags.Has(http2.FlagSettingsAck) {
		return nil
	}
	if len(p)%6 != 0 {
		return protocolError("a SETTINGS frame of %d bytes", len(p))
	}
	for ; len(p) > 0; p = p[6:] {
		v := binary.BigEndian.Uint32(p[2:])
		switch http2.SettingID(binary.BigEndian.Uint16(p)) {
		case http2.SettingHeaderTableSize:
			if v < 4096 {
				return fmt.Errorf("the server's header table of %d bytes is not supported: it must hold 4096", v)
			}
		case http2.SettingMaxConcurrentStreams:
			s.maxStreams = int(min(v, maxStream))
		case http2.SettingInitialWindowSize:
			change := int64(v) - s.streamWindow
			s.streamWindow = int64(v)
			for i := range s.slots {
				s.slots[i].window += change
			}
		case http2.SettingMaxFrameSize:
			if v < defaultMaxFrame || v > 1<<24-1 {
				return protocolError("a largest frame of %d bytes", v)
			}
			s.maxFrame = int(v)
		}
	}
	s.settled = true
	s.out = appendFrame(s.out, 0, http2.FrameSettings, http2.FlagSettingsAck, 0)
	s.unblock()
	return nil
}

// unpad takes off a frame's padding.
func unpad(flags http2.Flags, p []byte) ([]byte, error) {
	if !flags.Has(http2.FlagDataPadded) { // the same bit in HEADERS
		return p, nil
	}
	if len(p) == 0 || int(p[0]) >= len(p) {
		return nil, protocolError("a frame with more padding than bytes")
	}
	return p[1 : len(p)-int(p[0])], nil
}

func (s *session) data(flags http2.Flags, id uint32, p []byte, now time.Duration) error {
	s.unreturned += int64(len(p))
	s.stats.bytes += uint64(len(p))
	sl := s.slot(id)
	if sl == nil {
		return nil // it has ended
	}
	if sl.unread += int64(len(p)); sl.unread > ourWindow/2 {
		s.out = appendWindowUpdate(s.out, id, sl.unread)
		sl.unread = 0
	}
	p, err := unpad(flags, p)
	if err != nil {
		return err
	}
	if s.cfg.Stream || s.receive != nil {
		if err := s.messages(sl, p, now); err != nil {
			return err
		}
	}
	if flags.Has(http2.FlagDataEndStream) {
		s.end(sl, now, "ended without trailers")
	}
	return nil
}

// messages finds the messages in a stream's bytes.
func (s *session) messages(sl *slot, p []byte, now time.Duration) error {
	joined := len(sl.partial) > 0
	if joined {
		sl.partial = append(sl.partial, p...)
		p = sl.partial
	}
	before := len(p)
	for len(p) >= messagePrefix {
		n := int(binary.BigEndian.Uint32(p[1:]))
		if p[0] != 0 {
			return fmt.Errorf("the server compresses: %w", errUnsupported)
		}
		if n > maxMessage {
			return protocolError("a message of %d bytes", n)
		}
		if len(p)-messagePrefix < n {
			break
		}
		failure := ""
		if s.receive != nil {
			if err := s.receive(sl.client, p[messagePrefix:messagePrefix+n], now); err != nil {
				failure = err.Error()
			}
		}
		switch {
		case s.cfg.Push:
			if failure != "" {
				s.stats.fail(failure)
			}
		case s.cfg.Stream:
			s.answered(sl, now, failure)
		case failure != "": // a unary call's answer is complete with its trailers
			sl.failed = true
			s.stats.fail(failure)
		}
		p = p[messagePrefix+n:]
	}
	if !joined || len(p) < before { // else it is all there already, and may be long
		sl.partial = append(sl.partial[:0], p...)
	}
	return nil
}

func (s *session) replyHeaders(flags http2.Flags, id uint32, block []byte, now time.Duration) error {
	a, err := s.headers.read(block)
	if err != nil {
		return err
	}
	sl := s.slot(id)
	if sl == nil {
		return nil
	}
	if a.http != 0 {
		sl.http = a.http
	}
	if !flags.Has(http2.FlagHeadersEndStream) {
		return nil
	}
	failure := ""
	switch {
	case sl.http != 200:
		failure = fmt.Sprintf("HTTP status %d", sl.http)
	case !a.hasCode:
		failure = "no grpc-status"
	case a.code != 0:
		failure = fmt.Sprintf("%s: %s", codeName(a.code), a.message)
	}
	if failure == "" && sl.failed {
		sl.waiting = false // counted already
		s.idle = append(s.idle, sl.client)
	}
	s.end(sl, now, failure)
	return nil
}
