package h2load

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/musterhq/muster/cmd/muster/bench/histogram"
)

// session is one connection's state: feed it what came, write what it put into out.
// It is one goroutine's.
//
// Invariant: every client is in exactly one of idle, a slot, or (a stream's client that
// waits for pushed messages only) nowhere.
type session struct {
	cfg     *Config
	number  int // of the connection
	load    *load
	next    func(client int, dst []byte) []byte
	receive func(client int, msg []byte, at time.Duration) error

	// slots are the calls in flight, at (id/2) modulo their number: a ring twice as large
	// as needed or more, in which an id whose place is taken is passed over.
	slots  []slot
	active int
	nextID uint32
	idle   []int    // clients that may begin
	stream []uint32 // by client: the stream that it keeps, 0 none yet
	begun  int      // for pacing: calls begun

	out []byte
	// A header block in several frames.
	block       []byte
	blockStream uint32
	blockFlags  http2.Flags

	first, again []byte // header blocks
	headers      *headerReader

	settled      bool // the server's settings have come
	goingAway    bool
	maxFrame     int
	maxStreams   int
	streamWindow int64
	window       int64    // what we may send on the connection
	blocked      []uint32 // streams whose message waits for a window, in order
	unreturned   int64    // received, not yet given back to the server's window

	stats stats
}

// slot is a call in flight, or a stream that is kept open.
type slot struct {
	id      uint32 // 0: free
	client  int
	sent    time.Duration
	waiting bool // for an answer
	half    bool // we have ended our side, once pending is out
	failed  bool // the answer came, and receive didn't like it
	http    int
	window  int64
	pending []byte // of a message that waits for a window
	partial []byte // of a message that hasn't come whole
	unread  int64  // received, not yet given back
}

// stats is what a session has counted.
type stats struct {
	begun, done uint64
	bytes       uint64
	errors      map[string]uint64
	latency     histogram.Histogram
}

// maxFailures is how many different failures are told apart.
const maxFailures = 16

func (s *stats) fail(what string) {
	if s.errors[what] == 0 && len(s.errors) >= maxFailures {
		what = "others"
	}
	s.errors[what]++
}

// load is what all sessions of a run share.
type load struct {
	left atomic.Int64 // calls that may still begin
	done atomic.Int64 // for progress
	stop atomic.Bool  // none may begin
}

// timeless is later than any run.
const timeless = time.Duration(1<<63 - 1)

func newSession(cfg *Config, number, clients int, l *load) *session {
	ring := 1
	for ring < 2*clients {
		ring <<= 1
	}
	s := &session{
		cfg: cfg, number: number, load: l,
		next:     cfg.Next(number),
		slots:    make([]slot, ring),
		nextID:   1,
		stream:   make([]uint32, clients),
		out:      openingBytes(),
		headers:  newHeaderReader(),
		maxFrame: defaultMaxFrame, maxStreams: clients, streamWindow: defaultWindow, window: defaultWindow,
		stats: stats{errors: map[string]uint64{}},
	}
	if cfg.Receive != nil {
		s.receive = cfg.Receive(number)
	}
	for c := range clients {
		s.idle = append(s.idle, c)
	}
	s.first, s.again = requestHeaders(cfg.authority(), cfg.Method)
	return s
}

// pump begins what may begin at a time and returns when to come again, timeless if only
// an answer changes anything.
func (s *session) pump(now time.Duration) (time.Duration, error) {
	for len(s.idle) > 0 && !s.load.stop.Load() && !s.goingAway {
		client := s.idle[len(s.idle)-1]
		if s.stream[client] == 0 && s.active >= s.maxStreams {
			break
		}
		from := now
		if s.cfg.Rate > 0 {
			// The connections take turns.
			due := time.Duration((float64(s.begun)*float64(s.cfg.Conns) + float64(s.number)) / s.cfg.Rate * float64(time.Second))
			if due > now {
				return due, nil
			}
			from = due
		}
		if s.load.left.Add(-1) < 0 {
			s.load.stop.Store(true)
			break
		}
		s.begun++
		s.stats.begun++
		s.idle = s.idle[:len(s.idle)-1]
		if err := s.begin(client, from); err != nil {
			return 0, err
		}
	}
	return timeless, nil
}

// waiting tells whether answers are outstanding. Streams that wait for pushed messages
// are, always.
func (s *session) waiting() bool { return len(s.idle) < len(s.stream) }

// begin makes a client's call.
func (s *session) begin(client int, at time.Duration) error {
	if id := s.stream[client]; id != 0 {
		sl := s.slot(id)
		sl.sent, sl.waiting = at, true
		s.message(sl)
		return nil
	}
	if s.nextID > maxStream-uint32(2*len(s.slots)) {
		return fmt.Errorf("a connection's %d calls are used up: use more connections, or a smaller total", maxStream/2)
	}
	for s.slots[s.place(s.nextID)].id != 0 {
		s.nextID += 2
	}
	id := s.nextID
	s.nextID += 2
	sl := &s.slots[s.place(id)]
	*sl = slot{
		id: id, client: client, sent: at, waiting: true, half: !s.cfg.Stream,
		window: s.streamWindow, pending: sl.pending[:0], partial: sl.partial[:0],
	}
	s.active++
	s.out = appendFrame(s.out, len(s.first), http2.FrameHeaders, http2.FlagHeadersEndHeaders, id)
	s.out = append(s.out, s.first...)
	s.first = s.again
	if s.cfg.Stream {
		s.stream[client] = id
	}
	opening := 1
	if s.cfg.Opening != nil {
		opening = s.cfg.Opening(s.number)
	}
	for range opening {
		s.message(sl)
	}
	return nil
}

func (s *session) place(id uint32) uint32 { return id >> 1 & uint32(len(s.slots)-1) }

// slot of a stream, nil if it has ended.
func (s *session) slot(id uint32) *slot {
	if sl := &s.slots[s.place(id)]; id != 0 && sl.id == id {
		return sl
	}
	return nil
}

// message sends a client's next message. It is written in place, and taken out again if
// it doesn't fit into one frame or into the windows.
func (s *session) message(sl *slot) {
	at := len(s.out)
	flags := http2.Flags(0)
	if sl.half {
		flags = http2.FlagDataEndStream
	}
	s.out = appendFrame(s.out, 0, http2.FrameData, flags, sl.id)
	s.out = append(s.out, 0, 0, 0, 0, 0)
	s.out = s.next(sl.client, s.out)
	body := s.out[at+frameHeader:]
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-messagePrefix))
	n := int64(len(body))
	if len(sl.pending) == 0 && len(body) <= s.maxFrame && n <= sl.window && n <= s.window {
		s.out[at], s.out[at+1], s.out[at+2] = byte(n>>16), byte(n>>8), byte(n)
		sl.window -= n
		s.window -= n
		return
	}
	if len(sl.pending) == 0 {
		s.blocked = append(s.blocked, sl.id)
	}
	sl.pending = append(sl.pending, body...)
	s.out = s.out[:at]
	s.unblock()
}

// unblock sends of waiting messages what the windows allow.
func (s *session) unblock() {
	still := s.blocked[:0]
	for _, id := range s.blocked {
		sl := s.slot(id)
		if sl == nil {
			continue // it has ended
		}
		sent := 0
		for sent < len(sl.pending) {
			n := min(int64(len(sl.pending)-sent), int64(s.maxFrame), sl.window, s.window)
			if n <= 0 {
				break
			}
			flags := http2.Flags(0)
			if sl.half && sent+int(n) == len(sl.pending) {
				flags = http2.FlagDataEndStream
			}
			s.out = appendFrame(s.out, int(n), http2.FrameData, flags, id)
			s.out = append(s.out, sl.pending[sent:sent+int(n)]...)
			sl.window -= n
			s.window -= n
			sent += int(n)
		}
		sl.pending = append(sl.pending[:0], sl.pending[sent:]...)
		if len(sl.pending) > 0 {
			still = append(still, id)
		}
	}
	s.blocked = still
}

// answered takes note of a client's answer and lets it begin again.
func (s *session) answered(sl *slot, now time.Duration, failure string) {
	if !sl.waiting {
		return
	}
	sl.waiting = false
	if failure == "" {
		s.stats.latency.Add(now - sl.sent)
		s.stats.done++
	} else {
		s.stats.fail(failure)
	}
	s.idle = append(s.idle, sl.client)
}

// end forgets a stream.
func (s *session) end(sl *slot, now time.Duration, failure string) {
	if s.cfg.Stream {
		s.stream[sl.client] = 0
		if failure == "" {
			failure = "stream ended by the server"
		}
		if !sl.waiting {
			s.stats.fail(failure)
		}
	}
	if len(sl.pending) > 0 { // the answer didn't need the whole request
		s.out = appendFrame(s.out, 4, http2.FrameRSTStream, 0, sl.id)
		s.out = binary.BigEndian.AppendUint32(s.out, uint32(http2.ErrCodeCancel))
	}
	s.answered(sl, now, failure)
	sl.id = 0
	s.active--
}
