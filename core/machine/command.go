package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
)

// Kind says what a command does. The numbers are part of the log's format.
type Kind uint8

// The kinds of the first release. Auth kinds will follow; until then a member
// that meets one stops, as it does for any kind it doesn't know.
const (
	Put              Kind = 1  // body: etcdserverpb.PutRequest
	DeleteRange      Kind = 2  // body: etcdserverpb.DeleteRangeRequest
	Txn              Kind = 3  // body: etcdserverpb.TxnRequest
	Compact          Kind = 4  // body: etcdserverpb.CompactionRequest
	LeaseGrant       Kind = 5  // body: etcdserverpb.LeaseGrantRequest with an id
	LeaseRevoke      Kind = 6  // body: etcdserverpb.LeaseRevokeRequest
	LeaseExpire      Kind = 7  // body: EncodeLeaseExpire
	LeaseCheckpoint  Kind = 8  // body: etcdserverpb.LeaseCheckpointRequest
	ClusterVersion   Kind = 9  // body: membershippb.ClusterVersionSetRequest
	MemberAttributes Kind = 10 // body: membershippb.ClusterMemberAttrSetRequest
	HashCheck        Kind = 11 // body: EncodeHashCheck
	Alarm            Kind = 12 // body: etcdserverpb.AlarmRequest
	SetSettings      Kind = 13 // body: Settings.Encode
	ConfChange       Kind = 14 // body: membership.Change; only as the context of a configuration change
	HashVerdict      Kind = 15 // body: Verdict.Encode
	Noop             Kind = 16 // no body: changes nothing; that its entry is committed is what it is for
)

// Client reports whether clients may cause a command of this kind, so that a
// follower may forward it. All others come from the leader alone.
func (k Kind) Client() bool {
	switch k {
	case Put, DeleteRange, Txn, Compact, LeaseGrant, LeaseRevoke, Alarm, MemberAttributes, Noop:
		return true
	}
	return false
}

func (k Kind) String() string {
	names := [...]string{
		Put: "Put", DeleteRange: "DeleteRange", Txn: "Txn", Compact: "Compact", LeaseGrant: "LeaseGrant",
		LeaseRevoke: "LeaseRevoke", LeaseExpire: "LeaseExpire", LeaseCheckpoint: "LeaseCheckpoint",
		ClusterVersion: "ClusterVersion", MemberAttributes: "MemberAttributes", HashCheck: "HashCheck",
		Alarm: "Alarm", SetSettings: "SetSettings", ConfChange: "ConfChange", HashVerdict: "HashVerdict",
		Noop: "Noop",
	}
	if int(k) < len(names) && names[k] != "" {
		return names[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Command is one request to change the state, as it travels through the log.
// Encoded it is, little-endian:
//
//	offset  size  field
//	0       1     format version, 1
//	1       1     kind
//	2       8     id: of the proposal, for whoever waits for its result
//	10      8     member that took the request
//	18      8     time: leader's wall clock, unix nanoseconds
//	26      8     auth revision the user was checked at
//	34      2     length of the user's name
//	36            user, then body up to the end
type Command struct {
	Kind         Kind
	ID, Member   uint64
	User         string
	AuthRevision uint64
	Time         int64
	Body         []byte
}

const (
	commandVersion = 1
	entryVersion   = 1

	timeOffset   = 18
	userOffset   = 34
	commandFixed = 36
)

// The failures of reading commands. Either stops the member: going on would
// leave it with another state than the others.
var (
	// ErrUnknownCommand means a command, or a format of one, that this release
	// doesn't know.
	ErrUnknownCommand = errors.New("unknown command; this member needs a newer release")
	// ErrBadEntry means that an entry isn't a sequence of commands.
	ErrBadEntry = errors.New("unreadable log entry")
)

// AppendTo appends the encoded command. A user's name longer than 65,535 bytes
// is a bug of the caller's, who has authenticated it.
func (c *Command) AppendTo(b []byte) []byte {
	if len(c.User) > math.MaxUint16 {
		panic("machine: user name of " + fmt.Sprint(len(c.User)) + " bytes")
	}
	b = append(b, commandVersion, byte(c.Kind))
	b = binary.LittleEndian.AppendUint64(b, c.ID)
	b = binary.LittleEndian.AppendUint64(b, c.Member)
	b = binary.LittleEndian.AppendUint64(b, uint64(c.Time))
	b = binary.LittleEndian.AppendUint64(b, c.AuthRevision)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.User)))
	b = append(b, c.User...)
	return append(b, c.Body...)
}

// size is the length of the encoded command.
func (c *Command) size() int { return commandFixed + len(c.User) + len(c.Body) }

// StampTime sets the time of a command that starts at encoded[0].
func StampTime(encoded []byte, t int64) {
	binary.LittleEndian.PutUint64(encoded[timeOffset:], uint64(t))
}

// Encoded is a command as it stands in an entry.
type Encoded struct {
	Kind       Kind
	ID, Member uint64
	Time       int64
	Offset     int    // of the command in the entry, for StampTime
	Bytes      []byte // the whole command, for Apply; aliases the entry
}

// Decode reads the rest of the command; Body aliases the entry.
func (e *Encoded) Decode() Command {
	b := e.Bytes
	user := commandFixed + int(binary.LittleEndian.Uint16(b[userOffset:]))
	return Command{
		Kind: e.Kind, ID: e.ID, Member: e.Member, Time: e.Time,
		User:         string(b[commandFixed:user]),
		AuthRevision: binary.LittleEndian.Uint64(b[timeOffset+8:]),
		Body:         b[user:],
	}
}

// body is the request message inside the command.
func (e *Encoded) body() []byte {
	return e.Bytes[commandFixed+int(binary.LittleEndian.Uint16(e.Bytes[userOffset:])):]
}

// ParseCommand reads the fixed part of an encoded command.
func ParseCommand(b []byte) (Encoded, error) {
	if len(b) == 0 {
		return Encoded{}, fmt.Errorf("%w: empty command", ErrBadEntry)
	}
	if b[0] != commandVersion {
		return Encoded{}, fmt.Errorf("%w: command format %d", ErrUnknownCommand, b[0])
	}
	if len(b) < commandFixed || len(b) < commandFixed+int(binary.LittleEndian.Uint16(b[userOffset:])) {
		return Encoded{}, fmt.Errorf("%w: command of %d bytes is cut short", ErrBadEntry, len(b))
	}
	return Encoded{
		Kind:   Kind(b[1]),
		ID:     binary.LittleEndian.Uint64(b[2:]),
		Member: binary.LittleEndian.Uint64(b[10:]),
		Time:   int64(binary.LittleEndian.Uint64(b[timeOffset:])),
		Bytes:  b,
	}, nil
}

// An entry's data is a version byte, then commands, each behind its length as
// an unsigned varint. raft's own empty entries have no data at all.

// AppendEntryHeader starts an entry.
func AppendEntryHeader(b []byte) []byte { return append(b, entryVersion) }

// AppendCommand adds a command to an entry and says where it starts, for
// StampTime.
func AppendCommand(b []byte, c *Command) (entry []byte, offset int) {
	b = binary.AppendUvarint(b, uint64(c.size()))
	offset = len(b)
	return c.AppendTo(b), offset
}

// Commands yields the commands of an entry in order. After an error it ends.
func Commands(entry []byte) iter.Seq2[Encoded, error] {
	return func(yield func(Encoded, error) bool) {
		if len(entry) == 0 {
			return
		}
		if entry[0] != entryVersion {
			yield(Encoded{}, fmt.Errorf("%w: entry format %d", ErrUnknownCommand, entry[0]))
			return
		}
		for at := 1; at < len(entry); {
			size, n := binary.Uvarint(entry[at:])
			if n <= 0 || size > uint64(len(entry)-at-n) {
				yield(Encoded{}, fmt.Errorf("%w: bad command length at byte %d of %d", ErrBadEntry, at, len(entry)))
				return
			}
			at += n
			c, err := ParseCommand(entry[at : at+int(size) : at+int(size)])
			c.Offset = at
			if !yield(c, err) || err != nil {
				return
			}
			at += int(size)
		}
	}
}

// FirstID gives member and id of an entry's first command, by which a proposer
// knows its own entries; false if the entry has none.
func FirstID(entry []byte) (member, id uint64, ok bool) {
	for c, err := range Commands(entry) {
		return c.Member, c.ID, err == nil
	}
	return 0, 0, false
}
