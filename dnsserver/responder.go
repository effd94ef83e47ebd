package dnsserver

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/discovery/catalog"
	"github.com/musterhq/muster/dnsserver/answer"
)

// Size classes of cached messages, the last byte of their key.
const (
	classPlain byte = iota // 512 bytes, no OPT
	classEDNS              // 1232 with room for the OPT
	classTCP               // below 64 KiB with room for an OPT
)

// responder turns queries into replies. It belongs to one goroutine at a time.
type responder struct {
	zone     *answer.Zone
	source   Source
	maxStale time.Duration
	rnd      *rand.Rand
	counters *counters
	tcp      bool

	cache   cache
	snap    *catalog.Snapshot
	gen     uint64
	stale   bool
	expired bool

	// Scratch.
	q    query
	key  []byte
	pick []int32
	pack []byte
}

func newResponder(z *answer.Zone, cfg *Config, tcp bool, rnd *rand.Rand) *responder {
	size := maxUDP
	if tcp {
		size = maxTCP
	}
	return &responder{
		zone: z, source: cfg.Source, maxStale: cfg.MaxStale,
		rnd: rnd, counters: new(counters), tcp: tcp,
		cache: newCache(cfg.CacheBytes), key: make([]byte, 0, maxName+3), pack: make([]byte, size),
	}
}

// sync takes the newest snapshot. It is called once for each batch of queries, after they
// have arrived, so that a reply never shows less than was known when its query came.
func (r *responder) sync() {
	if snap := r.source.Snapshot(); snap != r.snap {
		r.snap = snap
		r.gen++
	}
	age := r.source.Staleness()
	r.stale, r.expired = age > 0, age > r.maxStale
}

// serve answers one message into out, which holds maxUDP or maxTCP bytes, and returns the
// reply's length, 0 for none.
func (r *responder) serve(msg, out []byte) int {
	q := &r.q
	v := q.parse(msg)
	if v == unusual {
		v = q.unpack()
	}
	switch {
	case v == drop:
		r.counters.dropped.Add(1)
		return 0
	case v == malformed:
		return r.refuse(out, dns.RcodeFormatError, 0, "")
	case v == notImp:
		return r.refuse(out, dns.RcodeNotImplemented, 0, "")
	case q.edns && q.version != 0:
		return r.refuse(out, dns.RcodeBadVers, 0, "")
	case q.qclass != dns.ClassINET:
		return r.refuse(out, dns.RcodeRefused, 0, "")
	case q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR:
		return r.refuse(out, dns.RcodeRefused, dns.ExtendedErrorCodeProhibited, "zone transfer is not offered")
	case q.signed:
		return r.refuse(out, dns.RcodeRefused, dns.ExtendedErrorCodeNotSupported, "signed messages are not supported")
	}
	r.key = lower(r.key[:0], q.name)
	class := classPlain
	switch {
	case r.tcp:
		class = classTCP
	case q.edns:
		class = classEDNS
	}
	r.key = append(r.key, byte(q.qtype>>8), byte(q.qtype), class)

	if r.snap != nil && !r.expired {
		if e := r.current(); e != nil {
			if n := r.reply(out, e); n > 0 {
				return n
			}
		}
	}
	return r.build(out, class)
}

// current finds the entry of r.key if it may still be used.
func (r *responder) current() *entry {
	e := r.cache.get(r.key)
	if e == nil {
		return nil
	}
	if e.gen != r.gen {
		if !e.basis.Holds(r.snap) {
			return nil
		}
		e.revise(r.gen, r.snap.Rev())
	}
	if e.uses == 0 {
		return nil
	}
	if e.uses > 0 {
		e.uses--
	}
	return e
}

// build answers what the cache can't: a name not seen before, one of another's zone, one
// whose cached answer is used up or doesn't fit this client.
func (r *responder) build(out []byte, class byte) int {
	q := &r.q
	name := text(r.key[:len(q.name)])
	switch {
	case !r.zone.Contains(name):
		return r.refuse(out, dns.RcodeRefused, dns.ExtendedErrorCodeNotAuthoritative, "")
	case r.snap == nil:
		return r.refuse(out, dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the service index is not synced yet")
	case r.expired:
		return r.refuse(out, dns.RcodeServerFailure, dns.ExtendedErrorCodeNotReady, "the service index is too old")
	}
	r.counters.built.Add(1)
	question := answer.Question{Name: name, Type: q.qtype, Seed: r.rnd.Uint64()}
	a := r.zone.Build(r.snap, question)
	// Cached is what suits the class's usual client; another limit gets its own.
	usual := plainUDP
	switch class {
	case classEDNS:
		usual = maxUDP - optSize - staleSize
	case classTCP:
		usual = maxTCP - optSize - staleSize
	}
	limit := min(usual, r.room())
	e, err := newEntry(a, question, limit, r.pack, r.pick[:0], r.rnd)
	if err != nil { // the question alone always fits, so only a bug comes here
		return r.refuse(out, dns.RcodeServerFailure, dns.ExtendedErrorCodeOther, "the answer can't be packed")
	}
	e.revise(r.gen, r.snap.Rev())
	if limit == usual || e.sampler != nil {
		r.cache.put(r.key, e)
	}
	return r.reply(out, e)
}

// room is the most that header, question and records may take for this client. The room
// for a stale mark is always kept, so that the answer doesn't change with it.
func (r *responder) room() int {
	limit := r.q.limit(r.tcp)
	if r.q.edns {
		limit -= optSize + staleSize
	}
	return limit
}

// reply copies an entry, or returns 0 if it doesn't fit this client.
func (r *responder) reply(out []byte, e *entry) int {
	q := &r.q
	room := r.room()
	off := q.end
	an, truncated := e.an, e.truncated
	if e.sampler != nil {
		r.pick = e.sampler.Draw(r.pick[:0], (room-off)/e.stride, r.rnd)
		for _, i := range r.pick {
			off += copy(out[off:], e.records[int(i)*e.stride:(int(i)+1)*e.stride])
		}
		an, truncated = uint16(len(r.pick)), len(r.pick) < e.sampler.Max()
	} else {
		if off+len(e.body) > room {
			return 0
		}
		off += copy(out[off:], e.body)
	}
	ar := e.ar
	if q.edns {
		ede := uint16(0)
		if r.stale {
			ede = dns.ExtendedErrorCodeStaleAnswer
			if e.rcode == dns.RcodeNameError {
				ede = dns.ExtendedErrorCodeStaleNXDOMAINAnswer
			}
		}
		off = putOPT(out, off, q.do, 0, ede, "")
		ar++
	}
	copy(out, q.msg[:2])
	out[2] = 0x84 | q.msg[2]&0x01 // QR, AA, RD as asked
	if truncated {
		out[2] |= 0x02
		r.counters.truncated.Add(1)
	}
	out[3] = e.rcode
	binary.BigEndian.PutUint16(out[4:], 1)
	binary.BigEndian.PutUint16(out[6:], an)
	binary.BigEndian.PutUint16(out[8:], e.ns)
	binary.BigEndian.PutUint16(out[10:], ar)
	copy(out[answer.HeaderSize:], q.msg[answer.HeaderSize:q.end])
	r.counters.count(q.qtype, int(e.rcode))
	return off
}

// refuse answers without records: header, question if there was one, and if the client
// speaks EDNS an OPT with an extended error (ede 0: none).
func (r *responder) refuse(out []byte, rcode int, ede uint16, text string) int {
	q := &r.q
	clear(out[:answer.HeaderSize])
	copy(out, q.msg[:2])
	out[2] = 0x80 | q.msg[2]&0x79 // QR, opcode and RD as asked
	out[3] = byte(rcode & 0x0f)
	off := answer.HeaderSize
	if q.end > 0 {
		out[5] = 1
		off += copy(out[off:], q.msg[off:q.end])
	}
	if q.edns {
		off = putOPT(out, off, q.do, byte(rcode>>4), ede, text)
		out[11] = 1
	}
	r.counters.count(q.qtype, rcode)
	return off
}

// putOPT writes an OPT record at off and returns its end.
func putOPT(out []byte, off int, do bool, rcodeHigh byte, ede uint16, text string) int {
	o := out[off:]
	o[0] = 0
	binary.BigEndian.PutUint16(o[1:], dns.TypeOPT)
	binary.BigEndian.PutUint16(o[3:], maxUDP)
	o[5], o[6], o[7], o[8] = rcodeHigh, 0, 0, 0
	if do {
		o[7] = 0x80
	}
	if ede == 0 {
		o[9], o[10] = 0, 0
		return off + optSize
	}
	binary.BigEndian.PutUint16(o[9:], uint16(staleSize+len(text)))
	binary.BigEndian.PutUint16(o[11:], dns.EDNS0EDE)
	binary.BigEndian.PutUint16(o[13:], uint16(2+len(text)))
	binary.BigEndian.PutUint16(o[15:], ede)
	copy(o[17:], text)
	return off + optSize + staleSize + len(text)
}
