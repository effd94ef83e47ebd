package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"

	"github.com/musterhq/muster/dnsserver/answer"
)

const (
	maxName = 255
	// optSize is an OPT record without options; staleSize the option added while stale.
	optSize   = 11
	staleSize = 6
	// plainUDP is the most a client without EDNS takes, maxUDP the most that is sent to
	// any over UDP (what passes nearly every path unfragmented), maxTCP the length prefix's limit.
	plainUDP = 512
	maxUDP   = 1232
	maxTCP   = 65535
)

// query is a message taken apart as far as answering needs.
type query struct {
	msg []byte
	// name is the question's name in wire form, as spelled; end is the end of the question
	// in msg, 0 if there is none that can be echoed.
	name   []byte
	end    int
	qtype  uint16
	qclass uint16

	edns    bool
	do      bool
	version uint8
	size    int // the client's UDP size, meaningful with edns
	// signed is set for TSIG and SIG(0).
	signed bool
}

// verdict is what parsing found.
type verdict uint8

const (
	plain     verdict = iota // all is known
	unusual                  // the question is known, the rest needs unpacking
	drop                     // not to be answered at all
	malformed                // FORMERR
	notImp                   // another opcode
)

// parse takes a message apart, without copying or allocating.
func (q *query) parse(msg []byte) verdict {
	*q = query{msg: msg}
	if len(msg) < answer.HeaderSize || msg[2]&0x80 != 0 {
		return drop
	}
	counts := binary.BigEndian.Uint64(msg[4:]) // QD, AN, NS, AR
	if counts>>48 == 1 && !q.question() {
		return malformed
	}
	switch {
	case msg[2]&0x78 != 0:
		return notImp
	case counts>>48 != 1:
		return malformed
	case counts == 1<<48:
		return plain // bytes after the question are ignored, as is customary
	case counts == 1<<48|1:
		return q.opt()
	}
	return unusual
}

// question parses the one question and reports whether it is well-formed.
func (q *query) question() bool {
	off := answer.HeaderSize
	for {
		if off >= len(q.msg) {
			return false
		}
		n := int(q.msg[off])
		off++
		if n == 0 {
			break
		}
		// A pointer can't stand here: there is no earlier name to point at.
		if n > 63 || off+n-answer.HeaderSize >= maxName {
			return false
		}
		off += n
	}
	if off+4 > len(q.msg) {
		return false
	}
	q.name = q.msg[answer.HeaderSize:off]
	q.qtype = binary.BigEndian.Uint16(q.msg[off:])
	q.qclass = binary.BigEndian.Uint16(q.msg[off+2:])
	q.end = off + 4
	return true
}

// opt parses an OPT directly after the question and ending the message. Its only option
// may be a cookie, which dig sends with every query and this server has no use for.
func (q *query) opt() verdict {
	o := q.msg[q.end:]
	if len(o) < optSize || o[0] != 0 || binary.BigEndian.Uint16(o[1:]) != dns.TypeOPT {
		return unusual
	}
	data := o[optSize:]
	if int(binary.BigEndian.Uint16(o[9:])) != len(data) {
		return unusual
	}
	if len(data) > 0 {
		if len(data) < 4 || binary.BigEndian.Uint16(data) != dns.EDNS0COOKIE || int(binary.BigEndian.Uint16(data[2:])) != len(data)-4 {
			return unusual
		}
	}
	q.edns = true
	q.size = int(binary.BigEndian.Uint16(o[3:]))
	q.version = o[6]
	q.do = o[7]&0x80 != 0
	return plain
}

// unpack reads the sections that parse left alone.
func (q *query) unpack() verdict {
	var m dns.Msg
	if err := m.Unpack(q.msg); err != nil {
		return malformed
	}
	opts := 0
	for _, rr := range m.Extra {
		switch rr := rr.(type) {
		case *dns.OPT:
			opts++
			q.edns, q.size, q.version, q.do = true, int(rr.UDPSize()), rr.Version(), rr.Do()
		case *dns.TSIG, *dns.SIG:
			q.signed = true
		}
	}
	if opts > 1 {
		q.edns = false
		return malformed
	}
	return plain
}

// limit is the largest message the client takes.
func (q *query) limit(tcp bool) int {
	switch {
	case tcp:
		return maxTCP
	case !q.edns:
		return plainUDP
	}
	return min(max(q.size, plainUDP), maxUDP)
}

// lower appends name to dst in lower case. A length byte is below 'A', so all bytes may be
// treated alike.
func lower(dst, name []byte) []byte {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// text turns a lower-cased wire name into the dotted form that package answer takes: a byte
// that no name of ours has becomes '?', so that it can't be taken for a dot.
func text(name []byte) string {
	buf := make([]byte, 0, maxName)
	for i := 0; name[i] != 0; {
		n := int(name[i])
		for _, c := range name[i+1 : i+1+n] {
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				c = '?'
			}
			buf = append(buf, c)
		}
		buf = append(buf, '.')
		i += 1 + n
	}
	if len(buf) == 0 {
		return "."
	}
	return string(buf)
}
