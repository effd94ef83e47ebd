package dnsserver

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/dnsserver/answer"
)

const (
	// redrawAfter is how many uses a packed, hence fixed, random choice is given before it
	// is drawn anew; more for many records, since drawing costs by their number.
	redrawAfter = 256
	// entryOverhead is roughly what an entry costs beside its bytes.
	entryOverhead = 256
	maxNegative   = 4096
)

// entry is an answer ready to be copied.
type entry struct {
	gen   uint64 // of the snapshot the entry was last checked against
	basis answer.Basis
	rcode uint8

	// A fixed message: all after the question, with the header's counts.
	body       []byte
	an, ns, ar uint16
	truncated  bool
	serial     int // where in body the SOA's serial is, -1 if none
	uses       int // left until it must be drawn anew, -1 for ever

	// Or a set of addresses: records of stride bytes each, drawn from at each use.
	records []byte
	stride  int
	sampler *answer.Sampler
}

func (e *entry) cost(key string) int {
	n := len(key) + len(e.body) + len(e.records) + entryOverhead
	if e.sampler != nil {
		n += 4 * len(e.records) / e.stride * 4
	}
	return n
}

// cache maps lower-cased wire name, type and size class to entries. It belongs to one
// responder.
type cache struct {
	positive map[string]*entry
	negative map[string]*entry
	bytes    int
	maxBytes int
}

func newCache(maxBytes int) cache {
	return cache{positive: map[string]*entry{}, negative: map[string]*entry{}, maxBytes: maxBytes}
}

// get finds an entry. The conversions don't allocate.
func (c *cache) get(key []byte) *entry {
	if e := c.positive[string(key)]; e != nil {
		return e
	}
	return c.negative[string(key)]
}

func (c *cache) put(key []byte, e *entry) {
	k := string(key)
	c.remove(key)
	if e.an == 0 && e.sampler == nil {
		if len(c.negative) >= maxNegative {
			clear(c.negative)
		}
		c.negative[k] = e
		return
	}
	cost := e.cost(k)
	if cost > c.maxBytes {
		return
	}
	if c.bytes+cost > c.maxBytes {
		clear(c.positive)
		c.bytes = 0
	}
	c.positive[k] = e
	c.bytes += cost
}

func (c *cache) remove(key []byte) {
	if e := c.positive[string(key)]; e != nil {
		c.bytes -= e.cost(string(key))
		delete(c.positive, string(key))
		return
	}
	delete(c.negative, string(key))
}

// newEntry makes an entry of an answer, packed so that message and question take at most
// limit bytes. scratch holds at least that many.
func newEntry(a *answer.Answer, q answer.Question, limit int, scratch []byte, pick []int32, rnd *rand.Rand) (*entry, error) {
	s := a.Sampler()
	if e := addressSet(a, s); e != nil {
		return e, nil
	}
	p, err := a.Pack(scratch, q, s.Draw(pick, s.Max(), rnd), limit)
	if err != nil {
		return nil, err
	}
	e := &entry{
		basis: a.Basis, rcode: uint8(a.Rcode),
		body: append([]byte(nil), scratch[p.Question:p.Len]...),
		an:   p.Answers, ns: p.Authority, ar: p.Additional,
		truncated: p.Truncated, serial: -1, uses: -1,
	}
	if p.Serial != 0 {
		e.serial = p.Serial - p.Question
	}
	if a.Seeded || len(a.Records) > 1 {
		e.uses = redrawAfter + 4*len(a.Records)
	}
	return e, nil
}

// addressSet makes an entry of an answer that is nothing but A or AAAA records, nil of any
// other. Their owner is a pointer at the question's name.
func addressSet(a *answer.Answer, s *answer.Sampler) *entry {
	if len(a.Records) == 0 || len(a.Chain) > 0 || len(a.Authority) > 0 || a.Glue != nil {
		return nil
	}
	var records []byte
	for _, rr := range a.Records {
		var data []byte
		switch rr := rr.(type) {
		case *dns.A:
			data = rr.A
		case *dns.AAAA:
			data = rr.AAAA
		default:
			return nil
		}
		h := rr.Header()
		records = append(records, 0xc0, answer.HeaderSize)
		records = binary.BigEndian.AppendUint16(records, h.Rrtype)
		records = binary.BigEndian.AppendUint16(records, dns.ClassINET)
		records = binary.BigEndian.AppendUint32(records, h.Ttl)
		records = binary.BigEndian.AppendUint16(records, uint16(len(data)))
		records = append(records, data...)
	}
	return &entry{
		basis: a.Basis, records: records, stride: len(records) / len(a.Records),
		sampler: s, serial: -1, uses: -1,
	}
}

// revise brings an entry up to a newer snapshot in which its basis holds.
func (e *entry) revise(gen uint64, rev int64) {
	e.gen = gen
	if e.serial >= 0 {
		binary.BigEndian.PutUint32(e.body[e.serial:], answer.Serial(rev))
	}
}
