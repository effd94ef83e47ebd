package node

import (
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/simbug"
)

// Batch is a run of client commands of this member that becomes one log entry:
// group commit at the proposer. Data is the entry as it will be stored.
type Batch struct {
	Data []byte
	IDs  []uint64 // one a command, for the waiters

	offs []int // where each command starts in Data, to stamp the time

	// deadline on the node's clock: a batch that found no leader by then is
	// dropped unsent, and one that was sent and not seen since is forgotten. Its
	// callers have stopped waiting.
	deadline time.Duration

	term   uint64 // term it was proposed or sent in
	index  uint64 // log position once seen, 0 before
	iterm  uint64 // term of the entry at index
	sentTo uint64 // leader it was forwarded to, 0 if proposed here
}

// NewBatch returns an empty batch with room for size bytes.
func NewBatch(size int, deadline time.Duration) *Batch {
	return &Batch{Data: machine.AppendEntryHeader(make([]byte, 0, size)), deadline: deadline}
}

// Add appends a command.
func (b *Batch) Add(c *machine.Command) {
	var off int
	b.Data, off = machine.AppendCommand(b.Data, c)
	b.offs = append(b.offs, off)
	b.IDs = append(b.IDs, c.ID)
}

// stamp writes the leader's wall clock (unix nanoseconds) into every command.
func (b *Batch) stamp(wall int64) {
	for _, off := range b.offs {
		machine.StampTime(b.Data[off:], wall)
	}
}

// adopt checks a batch that a follower forwarded: well formed, and nothing but
// what a client may ask for. An expiry, say, never travels.
func adopt(data []byte) (*Batch, error) {
	b := &Batch{Data: data}
	for c, err := range machine.Commands(data) {
		if err != nil {
			return nil, err
		}
		if !c.Kind.Client() && !simbug.On(simbug.OldLeaderExpires) {
			return nil, fmt.Errorf("%w: %v is not a client's command", errBadMessage, c.Kind)
		}
		b.offs = append(b.offs, c.Offset)
	}
	if len(b.offs) == 0 {
		return nil, fmt.Errorf("%w: no command", errBadMessage)
	}
	return b, nil
}

// Errors a proposal or a read can end with. core/rpc gives them etcd's codes.
var (
	ErrNoLeader        = errors.New("no leader")
	ErrLeaderChanged   = errors.New("leader changed; the outcome is unknown")
	ErrTooManyRequests = errors.New("too many requests in flight")
	ErrTimeout         = errors.New("request timed out; the outcome is unknown")
	ErrStopped         = errors.New("member is stopping")
	ErrNotLeader       = errors.New("not the leader")
	ErrLeaseNotFound   = errors.New("lease not found")
)
