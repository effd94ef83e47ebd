package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/musterhq/muster/core/membership"
)

// messageKind tells peer messages apart. Values are part of the peer protocol.
type messageKind uint8

const (
	msgRaft         messageKind = 1 // a raft message
	msgForward      messageKind = 2 // a batch of client commands for the leader
	msgForwardReply messageKind = 3 // the leader's refusal of a batch
	msgRenew        messageKind = 4 // lease renewals for the leader
	msgRenewReply   messageKind = 5
	msgChange       messageKind = 6 // a membership change for the leader; refused by msgForwardReply
	msgHash         messageKind = 7 // the sender's hash at a checked index, for the leader
	msgAskHash      messageKind = 8 // the leader asks for it
)

// Message is what members say to each other.
type Message struct {
	kind     messageKind
	Raft     *raftpb.Message
	*content // nil in raft's, which are by far the most
}

// content is what our own messages are made of. Seq matches a reply to its
// request and is never reused by one process; of hashes it is the index.
type content struct {
	seq   uint64
	batch []byte // forward: an entry as the proposer encoded it; change: its command
	code  refusal
	lease leaseCall
	reply leaseReply
	hash  uint64
}

// refusal says why a leader did not take a request.
type refusal uint8

const (
	accepted        refusal = 0
	refusedNoLeader refusal = 1
	refusedBusy     refusal = 2
	refusedMissing  refusal = 3

	refusedUnderWay   refusal = 4
	refusedNotStarted refusal = 5
	refusedUnhealthy  refusal = 6
	refusedNotReady   refusal = 7
	refusedUnknown    refusal = 8
	refusedMoving     refusal = 9
)

// refusals says what each code means to whoever asked.
func refusals() map[refusal]error {
	return map[refusal]error{
		refusedNoLeader:   ErrNoLeader,
		refusedBusy:       ErrTooManyRequests,
		refusedMissing:    ErrLeaseNotFound,
		refusedUnderWay:   ErrChangeUnderWay,
		refusedNotStarted: ErrNotEnoughStarted,
		refusedUnhealthy:  ErrUnhealthy,
		refusedNotReady:   ErrLearnerNotReady,
		refusedUnknown:    membership.ErrIDNotFound,
		refusedMoving:     errLeaderMoves,
	}
}

// refusalError turns a code into its error; one of a newer release means at
// least that nothing was taken.
func refusalError(c refusal) error {
	if err, ok := refusals()[c]; ok {
		return err
	}
	return ErrNoLeader
}

func refusalOf(err error) refusal {
	for code, e := range refusals() {
		if errors.Is(err, e) {
			return code
		}
	}
	return refusedNoLeader
}

// leaseCall asks the leader to renew a lease, or with peek only how long it has left.
type leaseCall struct {
	id   int64
	peek bool
}

type leaseReply struct {
	ttl, remaining int64 // seconds
}

var errBadMessage = errors.New("malformed peer message")

// AppendTo appends the message's encoding: a kind byte, then fields as
// varints; a raft message or a batch runs to the end.
func (m *Message) AppendTo(b []byte) ([]byte, error) {
	b = slices.Grow(b, m.sizeHint())
	b = append(b, byte(m.kind))
	switch m.kind {
	case msgRaft:
		return appendRaft(b, m.Raft)
	case msgForward, msgChange:
		b = binary.AppendUvarint(b, m.seq)
		return append(b, m.batch...), nil
	case msgForwardReply:
		b = binary.AppendUvarint(b, m.seq)
		return append(b, byte(m.code)), nil
	case msgRenew:
		b = binary.AppendUvarint(b, m.seq)
		b = binary.AppendVarint(b, m.lease.id)
		if m.lease.peek {
			return append(b, 1), nil
		}
		return append(b, 0), nil
	case msgRenewReply:
		b = binary.AppendUvarint(b, m.seq)
		b = append(b, byte(m.code))
		b = binary.AppendVarint(b, m.reply.ttl)
		return binary.AppendVarint(b, m.reply.remaining), nil
	case msgHash:
		return binary.AppendUvarint(binary.AppendUvarint(b, m.seq), m.hash), nil
	case msgAskHash:
		return binary.AppendUvarint(b, m.seq), nil
	}
	return nil, fmt.Errorf("%w: kind %d", errBadMessage, m.kind)
}

// sizeHint is room enough for the encoding of nearly all messages.
func (m *Message) sizeHint() int {
	const fixed = 64 // of nearly all, what isn't counted here
	n := fixed
	if m.content != nil {
		n += len(m.batch)
	}
	if m.Raft != nil {
		n += len(m.Raft.Context)
		for _, e := range m.Raft.Entries {
			n += entrySize(e) + 4
		}
	}
	return n
}

// DecodeMessage reads what AppendTo wrote. The message aliases b.
func DecodeMessage(b []byte) (*Message, error) {
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: empty", errBadMessage)
	}
	if messageKind(b[0]) == msgRaft {
		m, err := decodeRaft(b[1:])
		if err == nil && !travels(m.Raft.GetType()) {
			return nil, fmt.Errorf("%w: raft's %v does not come from peers", errBadMessage, m.Raft.GetType())
		}
		return m, err
	}
	m := &Message{kind: messageKind(b[0]), content: &content{}}
	d := fields{b: b[1:]}
	switch m.kind {
	case msgForward, msgChange:
		m.seq = d.uvarint()
		m.batch = d.b
		d.b = nil
	case msgForwardReply:
		m.seq = d.uvarint()
		m.code = refusal(d.byte())
	case msgRenew:
		m.seq = d.uvarint()
		m.lease.id = d.varint()
		m.lease.peek = d.byte() != 0
	case msgRenewReply:
		m.seq = d.uvarint()
		m.code = refusal(d.byte())
		m.reply.ttl = d.varint()
		m.reply.remaining = d.varint()
	case msgHash:
		m.seq = d.uvarint()
		m.hash = d.uvarint()
	case msgAskHash:
		m.seq = d.uvarint()
	default:
		return nil, fmt.Errorf("%w: kind %d is of a newer release", errBadMessage, b[0])
	}
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: kind %d", errBadMessage, b[0])
	}
	return m, nil
}

// travels reports whether members send each other raft messages of this type as
// they are. A proposal is forwarded as a batch, which is checked; a checkpoint is
// announced by the connection that brings it (Member.Install), and raft must not
// hear of one that is not here; the others are raft's own, or nobody's.
func travels(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MessageType_MsgApp, raftpb.MessageType_MsgAppResp,
		raftpb.MessageType_MsgVote, raftpb.MessageType_MsgVoteResp,
		raftpb.MessageType_MsgPreVote, raftpb.MessageType_MsgPreVoteResp,
		raftpb.MessageType_MsgHeartbeat, raftpb.MessageType_MsgHeartbeatResp,
		raftpb.MessageType_MsgReadIndex, raftpb.MessageType_MsgReadIndexResp,
		raftpb.MessageType_MsgTransferLeader, raftpb.MessageType_MsgTimeoutNow:
		return true
	}
	return false
}

// fields reads varints off a buffer and remembers whether it ran short.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) uvarint() uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) varint() int64 {
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.bad, f.b = true, nil
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *fields) byte() byte {
	if len(f.b) == 0 {
		f.bad = true
		return 0
	}
	v := f.b[0]
	f.b = f.b[1:]
	return v
}

func formatID(id uint64) string { return membership.FormatID(id) }
