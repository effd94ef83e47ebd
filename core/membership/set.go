package membership

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"

	"github.com/musterhq/muster/core/simbug"
)

// The refusals, with etcd's meanings. Each is wrapped with the id or URL concerned.
var (
	ErrIDRemoved       = errors.New("membership: ID removed")
	ErrIDExists        = errors.New("membership: ID exists")
	ErrIDNotFound      = errors.New("membership: ID not found")
	ErrPeerURLExists   = errors.New("membership: peerURL exists")
	ErrNotLearner      = errors.New("membership: can only promote a learner member")
	ErrTooManyLearners = errors.New("membership: too many learner members in cluster")
	// ErrLastVoter has no counterpart: etcd panics there.
	ErrLastVoter = errors.New("membership: the last voting member cannot be removed")
)

// DefaultMaxLearners is etcd's limit.
const DefaultMaxLearners = 1

// Set is the cluster's members and the ids of those removed. The zero Set is
// empty and has the default limit of learners.
type Set struct {
	members     []Member // sorted by id; replaced, never modified
	removed     []uint64 // sorted; replaced, never modified
	maxLearners int      // 0 means DefaultMaxLearners
}

// NewSet returns a set of the given members and removed ids, as a bootstrap or a
// checkpoint states them.
func NewSet(members []Member, removed []uint64) (*Set, error) {
	s := &Set{
		members: slices.SortedFunc(slices.Values(members), func(a, b Member) int { return compareID(a, b.ID) }),
		removed: slices.Sorted(slices.Values(removed)),
	}
	urls := make(map[string]uint64)
	for i, m := range s.members {
		if impossible(m.ID) {
			return nil, fmt.Errorf("%w: member %q has id %s, which no member can have", ErrBadChange, m.Name, FormatID(m.ID))
		}
		if i > 0 && s.members[i-1].ID == m.ID {
			return nil, fmt.Errorf("%w: %s", ErrIDExists, FormatID(m.ID))
		}
		if s.IsRemoved(m.ID) {
			return nil, fmt.Errorf("%w: %s", ErrIDRemoved, FormatID(m.ID))
		}
		for _, u := range m.PeerURLs {
			if other, ok := urls[u]; ok && other != m.ID {
				return nil, fmt.Errorf("%w: %s", ErrPeerURLExists, u)
			}
			urls[u] = m.ID
		}
	}
	return s, nil
}

// impossible ids are raft's own: nobody, its disk, its state machine.
func impossible(id uint64) bool { return id == raft.None || raft.IsLocalMsgTarget(id) }

// SetMaxLearners changes how many learners there may be (0: the default).
func (s *Set) SetMaxLearners(n int) { s.maxLearners = n }

// Members returns all members in id order. The slice is shared: don't write to it.
func (s *Set) Members() []Member { return s.members }

// Removed returns the ids of removed members in order. Don't write to it.
func (s *Set) Removed() []uint64 { return s.removed }

// Lookup finds a member.
func (s *Set) Lookup(id uint64) (Member, bool) {
	i, ok := slices.BinarySearchFunc(s.members, id, compareID)
	if !ok {
		return Member{}, false
	}
	return s.members[i], true
}

// IsRemoved reports whether the id belonged to a member that was removed.
func (s *Set) IsRemoved(id uint64) bool {
	_, ok := slices.BinarySearch(s.removed, id)
	return ok
}

// Check says whether the change is allowed, without carrying it out.
func (s *Set) Check(c Change) error {
	id := c.Member.ID
	if s.IsRemoved(id) && !simbug.On(simbug.IDReuse) {
		return fmt.Errorf("%w: %s; a removed member rejoins with an empty data directory under a new id", ErrIDRemoved, FormatID(id))
	}
	old, exists := s.Lookup(id)
	if c.Op != AddVoter && c.Op != AddLearner && !exists {
		return fmt.Errorf("%w: %s", ErrIDNotFound, FormatID(id))
	}
	switch c.Op {
	case AddVoter, AddLearner:
		if impossible(id) {
			return fmt.Errorf("%w: no member can have id %s", ErrBadChange, FormatID(id))
		}
		if exists {
			return fmt.Errorf("%w: %s", ErrIDExists, FormatID(id))
		}
		if err := s.checkPeerURLs(c.Member); err != nil {
			return err
		}
		if c.Op == AddLearner {
			return s.checkLearnerRoom()
		}
	case Promote:
		if !old.IsLearner {
			return fmt.Errorf("%w: %s", ErrNotLearner, FormatID(id))
		}
	case UpdatePeer:
		return s.checkPeerURLs(c.Member)
	case Remove:
		if _, voters := s.startedVoters(0); !old.IsLearner && voters == 1 {
			return fmt.Errorf("%w: %s", ErrLastVoter, FormatID(id))
		}
	default:
		return fmt.Errorf("%w: operation %q", ErrBadChange, c.Op)
	}
	return nil
}

func (s *Set) checkPeerURLs(m Member) error {
	for _, other := range s.members {
		if other.ID == m.ID {
			continue
		}
		for _, u := range m.PeerURLs {
			if slices.Contains(other.PeerURLs, u) {
				return fmt.Errorf("%w: %s belongs to member %s", ErrPeerURLExists, u, FormatID(other.ID))
			}
		}
	}
	return nil
}

func (s *Set) checkLearnerRoom() error {
	limit := s.maxLearners
	if limit == 0 {
		limit = DefaultMaxLearners
	}
	n := 0
	for _, m := range s.members {
		if m.IsLearner {
			n++
		}
	}
	if n >= limit {
		return fmt.Errorf("%w: the limit is %d; promote or remove one first", ErrTooManyLearners, limit)
	}
	return nil
}

// Apply carries the change out, or refuses it as Check does and changes nothing.
func (s *Set) Apply(c Change) error {
	if err := s.Check(c); err != nil {
		return err
	}
	switch c.Op {
	case AddVoter, AddLearner:
		m := c.Member
		m.IsLearner = c.Op == AddLearner
		s.replace(m)
	case Promote:
		m, _ := s.Lookup(c.Member.ID)
		m.IsLearner = simbug.On(simbug.PromotionLost)
		s.replace(m)
	case UpdatePeer:
		m, _ := s.Lookup(c.Member.ID)
		m.PeerURLs = c.Member.PeerURLs
		s.replace(m)
	case Remove:
		i, _ := slices.BinarySearchFunc(s.members, c.Member.ID, compareID)
		s.members = slices.Delete(slices.Clone(s.members), i, i+1)
		j, _ := slices.BinarySearch(s.removed, c.Member.ID)
		s.removed = slices.Insert(slices.Clone(s.removed), j, c.Member.ID)
	}
	return nil
}

// SetAttributes records the name and client URLs a member announces for itself.
// A removed or unknown member's announcement changes nothing: it may have been
// under way when the member was removed.
func (s *Set) SetAttributes(id uint64, name string, clientURLs []string) bool {
	m, ok := s.Lookup(id)
	if !ok {
		return false
	}
	m.Name, m.ClientURLs = name, clientURLs
	s.replace(m)
	return true
}

// replace stores m in place of the member with its id, or inserts it.
func (s *Set) replace(m Member) {
	next := slices.Clone(s.members)
	i, ok := slices.BinarySearchFunc(next, m.ID, compareID)
	if ok {
		next[i] = m
	} else {
		next = slices.Insert(next, i, m)
	}
	s.members = next
}

// ReadyToAdd reports whether a voter may be added without the started members
// falling below the quorum of the larger cluster. Growing a cluster of one is
// always allowed: that is how a restored cluster regains its size.
func (s *Set) ReadyToAdd() bool {
	started, voters := s.startedVoters(0)
	if started == 1 && voters == 1 {
		return true
	}
	return started >= quorum(voters+1)
}

// ReadyToRemove reports whether the started voters other than id form a quorum
// of what is left.
func (s *Set) ReadyToRemove(id uint64) bool {
	started, voters := s.startedVoters(id)
	return started >= quorum(voters)
}

// ReadyToPromote reports whether the cluster keeps a quorum of started voters
// once one learner, which counts as started, votes.
func (s *Set) ReadyToPromote() bool {
	started, voters := s.startedVoters(0)
	return started+1 >= quorum(voters+1)
}

func (s *Set) startedVoters(except uint64) (started, voters int) {
	for _, m := range s.members {
		if m.IsLearner || m.ID == except {
			continue
		}
		voters++
		if m.Started() {
			started++
		}
	}
	return started, voters
}

func quorum(voters int) int { return voters/2 + 1 }
