package watch

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/musterhq/muster/core/mvcc"
)

// Encoded is one event as a WatchResponse carries it. It is immutable and
// shared by all responses that hold it: never write to Wire.
//
// The bytes are copied out of the store, not aliased: a queued event that
// aliased it would hold on to a whole chunk of history for as long as its
// reader sleeps, and the stream's budget would say nothing about memory.
type Encoded struct {
	Rev  int64
	Wire []byte // field 11 (events) of etcdserverpb.WatchResponse: tag, length, mvccpb.Event

	self [1]*Encoded
}

// Tags of WatchResponse.events and of mvccpb.Event's fields.
const (
	tagEvents = 11<<3 | 2
	tagType   = 1<<3 | 0
	tagKV     = 2<<3 | 2
	tagPrevKV = 3<<3 | 2

	typeDelete = 1
)

// alone is the event as a slice of one, which is what most responses hold. Its
// capacity is one as well, so that appending to it copies.
func (e *Encoded) alone() []*Encoded { return e.self[:] }

// eventOverhead is charged per queued event on top of its bytes: the Encoded
// itself, the pointer to it and its share of a queue entry.
const eventOverhead = 128

// cost is what the event counts for in a stream's budget. The bytes may be
// shared with other streams, so it is an upper bound.
func (e *Encoded) cost() int { return len(e.Wire) + eventOverhead }

// encoder makes an event's two encodings on first use.
type encoder struct {
	ev          *mvcc.Event
	plain, full *Encoded
}

func (c *encoder) form(prevKV bool) *Encoded {
	if prevKV && c.ev.Prev != nil {
		if c.full == nil {
			c.full = encode(c.ev, c.ev.Prev)
		}
		return c.full
	}
	if c.plain == nil {
		c.plain = encode(c.ev, nil)
	}
	return c.plain
}

func encode(ev *mvcc.Event, prev mvcc.Record) *Encoded {
	size := 1 + protowire.SizeBytes(len(ev.KV))
	if ev.Delete {
		size += 2
	}
	if prev != nil {
		size += 1 + protowire.SizeBytes(len(prev))
	}
	b := make([]byte, 0, 1+protowire.SizeBytes(size))
	b = protowire.AppendVarint(append(b, tagEvents), uint64(size))
	if ev.Delete {
		b = append(b, tagType, typeDelete)
	}
	b = protowire.AppendBytes(append(b, tagKV), ev.KV)
	if prev != nil {
		b = protowire.AppendBytes(append(b, tagPrevKV), prev)
	}
	e := &Encoded{Rev: ev.Rev, Wire: b}
	e.self[0] = e
	return e
}

// revision returns how many of evs, which are in revision order, belong to the
// first one's revision, and their cost.
func revision(evs []*Encoded) (n, cost int) {
	for n < len(evs) && evs[n].Rev == evs[0].Rev {
		cost += evs[n].cost()
		n++
	}
	return n, cost
}
