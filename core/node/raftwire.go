package node

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A raft message travels as the protobuf it is. Nearly all traffic between
// members is made of a few scalars and perhaps entries; encoding and decoding
// those by hand takes a fraction of the time and one piece of memory where
// the generic decoder needs one a field. Everything else goes the generic way.

// Field numbers of raftpb.Message and raftpb.Entry.
const (
	fieldType       = 1
	fieldTo         = 2
	fieldFrom       = 3
	fieldTerm       = 4
	fieldLogTerm    = 5
	fieldIndex      = 6
	fieldEntries    = 7
	fieldCommit     = 8
	fieldReject     = 10
	fieldRejectHint = 11
	fieldContext    = 12
	fieldVote       = 13

	fieldEntryType  = 1
	fieldEntryTerm  = 2
	fieldEntryIndex = 3
	fieldEntryData  = 4
)

// Types beyond these are of a newer release.
const (
	lastMessageType = raftpb.MessageType_MsgForgetLeader
	lastEntryType   = raftpb.EntryType_EntryConfChangeV2
)

func appendRaft(b []byte, m *raftpb.Message) ([]byte, error) {
	if m.Snapshot != nil || len(m.Responses) > 0 || len(m.ProtoReflect().GetUnknown()) > 0 {
		return proto.MarshalOptions{}.MarshalAppend(b, m)
	}
	if m.Type != nil {
		b = appendField(b, fieldType, uint64(*m.Type))
	}
	b = appendOptional(b, fieldTo, m.To)
	b = appendOptional(b, fieldFrom, m.From)
	b = appendOptional(b, fieldTerm, m.Term)
	b = appendOptional(b, fieldLogTerm, m.LogTerm)
	b = appendOptional(b, fieldIndex, m.Index)
	for _, e := range m.Entries {
		b = protowire.AppendTag(b, fieldEntries, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(entrySize(e)))
		b = appendEntry(b, e)
	}
	b = appendOptional(b, fieldCommit, m.Commit)
	if m.Reject != nil {
		b = appendField(b, fieldReject, protowire.EncodeBool(*m.Reject))
	}
	b = appendOptional(b, fieldRejectHint, m.RejectHint)
	if m.Context != nil {
		b = protowire.AppendTag(b, fieldContext, protowire.BytesType)
		b = protowire.AppendBytes(b, m.Context)
	}
	return appendOptional(b, fieldVote, m.Vote), nil
}

func appendEntry(b []byte, e *raftpb.Entry) []byte {
	if e.Type != nil {
		b = appendField(b, fieldEntryType, uint64(*e.Type))
	}
	b = appendOptional(b, fieldEntryTerm, e.Term)
	b = appendOptional(b, fieldEntryIndex, e.Index)
	if e.Data != nil {
		b = protowire.AppendTag(b, fieldEntryData, protowire.BytesType)
		b = protowire.AppendBytes(b, e.Data)
	}
	return b
}

func entrySize(e *raftpb.Entry) int {
	n := 0
	if e.Type != nil {
		n += 1 + protowire.SizeVarint(uint64(*e.Type))
	}
	if e.Term != nil {
		n += 1 + protowire.SizeVarint(*e.Term)
	}
	if e.Index != nil {
		n += 1 + protowire.SizeVarint(*e.Index)
	}
	if e.Data != nil {
		n += 1 + protowire.SizeBytes(len(e.Data))
	}
	return n
}

func appendField(b []byte, num protowire.Number, v uint64) []byte {
	b = append(b, byte(num)<<3|byte(protowire.VarintType)) // all tags are short
	if v < 0x80 {
		return append(b, byte(v))
	}
	return protowire.AppendVarint(b, v)
}

func appendOptional(b []byte, num protowire.Number, v *uint64) []byte {
	if v == nil {
		return b
	}
	return appendField(b, num, *v)
}

// received is a raft message and all that it points to but entries.
type received struct {
	Message
	raft                                   raftpb.Message
	typ                                    raftpb.MessageType
	to, from, term, logTerm, index, commit uint64
	rejectHint, vote                       uint64
	reject                                 bool
}

// receivedEntry is an entry and what it points to.
type receivedEntry struct {
	entry       raftpb.Entry
	typ         raftpb.EntryType
	term, index uint64
}

// decodeRaft reads a raft message, whose entries and context alias b.
func decodeRaft(b []byte) (*Message, error) {
	r := &received{}
	r.kind, r.Raft = msgRaft, &r.raft
	if r.decode(b) {
		return &r.Message, nil
	}
	m := &Message{kind: msgRaft, Raft: new(raftpb.Message)}
	if err := proto.Unmarshal(b, m.Raft); err != nil {
		return nil, fmt.Errorf("%w: %w", errBadMessage, err)
	}
	return m, nil
}

// decode reads a message of the known kind; false if it is not one.
func (r *received) decode(b []byte) bool {
	m := &r.raft
	var slab []receivedEntry
	for len(b) > 0 {
		num, typ := shortTag(b[0])
		b = b[1:]
		switch typ {
		case protowire.VarintType:
			v, n := consumeVarint(b)
			if n < 0 {
				return false
			}
			b = b[n:]
			switch num {
			case fieldType:
				if v > uint64(lastMessageType) {
					return false
				}
				r.typ, m.Type = raftpb.MessageType(v), &r.typ
			case fieldTo:
				r.to, m.To = v, &r.to
			case fieldFrom:
				r.from, m.From = v, &r.from
			case fieldTerm:
				r.term, m.Term = v, &r.term
			case fieldLogTerm:
				r.logTerm, m.LogTerm = v, &r.logTerm
			case fieldIndex:
				r.index, m.Index = v, &r.index
			case fieldCommit:
				r.commit, m.Commit = v, &r.commit
			case fieldReject:
				r.reject, m.Reject = protowire.DecodeBool(v), &r.reject
			case fieldRejectHint:
				r.rejectHint, m.RejectHint = v, &r.rejectHint
			case fieldVote:
				r.vote, m.Vote = v, &r.vote
			default:
				return false
			}
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			b = b[n:]
			switch num {
			case fieldEntries:
				if len(slab) == 0 {
					slab = make([]receivedEntry, 1+countEntries(b))
					m.Entries = slices.Grow(m.Entries, len(slab))
				}
				if !slab[0].decode(v) {
					return false
				}
				m.Entries = append(m.Entries, &slab[0].entry)
				slab = slab[1:]
			case fieldContext:
				m.Context = v[:len(v):len(v)]
			default:
				return false
			}
		default:
			return false
		}
	}
	return true
}

// shortTag reads a tag of one byte, which all known fields have; of a longer one it
// makes a field that is not known.
func shortTag(b byte) (protowire.Number, protowire.Type) {
	return protowire.Number(b >> 3), protowire.Type(b & 7)
}

// consumeVarint is protowire's, with a short way for short ones.
func consumeVarint(b []byte) (uint64, int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return protowire.ConsumeVarint(b)
}

// countEntries is how many entries follow the first, which stand in a row.
func countEntries(b []byte) int {
	count := 0
	for {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num != fieldEntries || typ != protowire.BytesType {
			return count
		}
		_, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return count
		}
		b = b[n+m:]
		count++
	}
}

func (r *receivedEntry) decode(b []byte) bool {
	e := &r.entry
	for len(b) > 0 {
		num, typ := shortTag(b[0])
		b = b[1:]
		if typ == protowire.BytesType && num == fieldEntryData {
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			e.Data, b = v[:len(v):len(v)], b[n:]
			continue
		}
		v, n := consumeVarint(b)
		if n < 0 || typ != protowire.VarintType {
			return false
		}
		b = b[n:]
		switch num {
		case fieldEntryType:
			if v > uint64(lastEntryType) {
				return false
			}
			r.typ, e.Type = raftpb.EntryType(v), &r.typ
		case fieldEntryTerm:
			r.term, e.Term = v, &r.term
		case fieldEntryIndex:
			r.index, e.Index = v, &r.index
		default:
			return false
		}
	}
	return true
}
