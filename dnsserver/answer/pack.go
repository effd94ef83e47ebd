package answer

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// HeaderSize is the length of a message's header.
const HeaderSize = 12

// Packed is a message made by Pack.
type Packed struct {
	// Len is the message's length, Question the end of its question section.
	Len, Question int
	// Answers, Authority and Additional count records. The counts in the header are set.
	Answers, Authority, Additional uint16
	// Truncated says that a drawn record was left out.
	Truncated bool
	// Serial is where the SOA's serial lies in a message with an SOA as authority, 0 if none.
	Serial int
}

// Pack writes the answer as a message of at most limit bytes to buf, with the records
// of a.Records that pick names, in that order. The header has only counts, the response
// code and the bits QR, AA and TC; id and the rest are the server's. Owner names point
// at the question's, so that whatever case the question's bytes are given afterwards is
// theirs too. There is no OPT: the caller leaves room for it.
//
// buf holds at least limit bytes, and limit at least a header with the question.
func (a *Answer) Pack(buf []byte, q Question, pick []int32, limit int) (Packed, error) {
	buf = buf[:limit]
	clear(buf[:HeaderSize])
	names := make(map[string]int)
	off, err := dns.PackDomainName(q.Name, buf, HeaderSize, names, true)
	if err != nil {
		return Packed{}, err
	}
	if off+4 > limit {
		return Packed{}, dns.ErrBuf
	}
	binary.BigEndian.PutUint16(buf[off:], q.Type)
	binary.BigEndian.PutUint16(buf[off+2:], dns.ClassINET)
	off += 4
	p := Packed{Question: off}

	put := func(rr dns.RR) bool {
		n, err := dns.PackRR(rr, buf, off, names, true)
		if err != nil {
			return false // no room; names may now point past the end, so nothing may follow
		}
		off = n
		return true
	}
	p.Truncated = func() bool {
		for _, rr := range a.Chain {
			if !put(rr) {
				return true
			}
			p.Answers++
		}
		for _, i := range pick {
			if !put(a.Records[i]) {
				return true
			}
			p.Answers++
		}
		for _, rr := range a.Authority {
			if !put(rr) {
				return true
			}
			p.Authority++
			p.Serial = off - 20 // serial and four more numbers end the SOA
		}
		return false
	}()
	if !p.Truncated && a.Glue != nil {
		seen := make(map[string]bool)
		end := off
	glue:
		for _, i := range pick {
			if len(a.Glue[i]) == 0 || seen[a.Glue[i][0].Header().Name] {
				continue
			}
			seen[a.Glue[i][0].Header().Name] = true
			for _, rr := range a.Glue[i] {
				if !put(rr) {
					break glue // whole sets only: forget what of this one was written
				}
			}
			end = off
			p.Additional += uint16(len(a.Glue[i]))
		}
		off = end
	}
	p.Len = off
	buf[2] = 0x84 // QR, AA
	if p.Truncated {
		buf[2] |= 0x02
	}
	buf[3] = byte(a.Rcode)
	binary.BigEndian.PutUint16(buf[4:], 1)
	binary.BigEndian.PutUint16(buf[6:], p.Answers)
	binary.BigEndian.PutUint16(buf[8:], p.Authority)
	binary.BigEndian.PutUint16(buf[10:], p.Additional)
	return p, nil
}
