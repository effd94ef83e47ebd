package machine

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/membership"
)

// CurrentClusterVersion is the newest cluster version whose semantics this
// release knows.
const CurrentClusterVersion = "3.7.0"

// RaisedAlarm is one alarm that stands.
type RaisedAlarm struct {
	Member uint64
	Type   pb.AlarmType
}

// alarmList is sorted by type, then member. It is replaced, never modified, so
// views share it.
type alarmList []RaisedAlarm

func compareAlarms(a, b RaisedAlarm) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Member, b.Member))
}

func (l alarmList) has(t pb.AlarmType) bool {
	for _, a := range l {
		if a.Type == t {
			return true
		}
	}
	return false
}

// setAlarm raises or clears one alarm and reports whether that changed anything.
func (m *Machine) setAlarm(a RaisedAlarm, raised bool) bool {
	i, found := slices.BinarySearchFunc(m.alarms, a, compareAlarms)
	if found == raised {
		return false
	}
	next := slices.Clone(m.alarms)
	effect := uint64(a.Type)
	if raised {
		next = slices.Insert(next, i, a)
		effect += 256
	} else {
		next = slices.Delete(next, i, i+1)
	}
	m.alarms = next
	m.hash.fold(effectAlarm, a.Member, effect)
	return true
}

func (m *Machine) applyAlarm(body []byte, want bool) ([]byte, error) {
	var r pb.AlarmRequest
	if err := proto.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	a := RaisedAlarm{Member: r.MemberID, Type: r.Alarm}
	var shown []RaisedAlarm
	switch r.Action {
	case pb.AlarmRequest_GET:
		for _, a := range m.alarms {
			if r.Alarm == pb.AlarmType_NONE || r.Alarm == a.Type {
				shown = append(shown, a)
			}
		}
	case pb.AlarmRequest_ACTIVATE:
		if r.Alarm != pb.AlarmType_NONE {
			m.setAlarm(a, true)
			shown = append(shown, a)
		}
	case pb.AlarmRequest_DEACTIVATE:
		if m.setAlarm(a, false) {
			shown = append(shown, a)
		}
		m.full = m.full && m.alarms.has(pb.AlarmType_NOSPACE)
		m.disputed = m.disputed && m.alarms.has(pb.AlarmType_CORRUPT)
	}
	if !want {
		return nil, nil
	}
	reply := emptyReply(true)
	for _, a := range shown {
		reply = appendBytes(reply, 2, a.encode())
	}
	return reply, nil
}

// encode gives the alarm as an etcdserverpb.AlarmMember.
func (a RaisedAlarm) encode() []byte {
	return appendInt(appendInt(nil, 1, int64(a.Member)), 2, int64(a.Type))
}

// applyClusterVersion raises the version whose semantics all members follow. A
// version beyond this release stops the member: it couldn't keep in step. Going
// back is refused.
func (m *Machine) applyClusterVersion(body []byte, want bool) ([]byte, error) {
	var r membershippb.ClusterVersionSetRequest
	if err := proto.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	v, err := parseVersion(r.Ver)
	if err != nil {
		return nil, err
	}
	if newer(r.Ver) {
		return nil, fmt.Errorf("%w: cluster version %s, this release knows %s", ErrUnknownCommand, r.Ver, CurrentClusterVersion)
	}
	if m.clusterVersion != "" {
		if now, _ := parseVersion(m.clusterVersion); slices.Compare(v[:], now[:]) < 0 {
			return nil, fmt.Errorf("%w: %s is below the present %s", ErrBadVersion, r.Ver, m.clusterVersion)
		}
	}
	m.clusterVersion = r.Ver
	m.hash.fold(effectVersion, 0, digest([]byte(r.Ver)))
	return emptyReply(want), nil
}

// newer reports whether a version, which can be parsed, has semantics that this
// release doesn't know.
func newer(version string) bool {
	v, _ := parseVersion(version)
	own, _ := parseVersion(CurrentClusterVersion)
	return slices.Compare(v[:2], own[:2]) > 0
}

// parseVersion reads "major.minor.patch".
func parseVersion(s string) (v [3]int, err error) {
	parts := strings.Split(s, ".")
	if len(parts) != len(v) {
		return v, fmt.Errorf("%w: %q is not of the form 3.7.0", ErrBadVersion, s)
	}
	for i, p := range parts {
		if v[i], err = strconv.Atoi(p); err != nil || v[i] < 0 {
			return v, fmt.Errorf("%w: %q is not of the form 3.7.0", ErrBadVersion, s)
		}
	}
	return v, nil
}

func (m *Machine) applyMemberAttributes(body []byte, want bool) ([]byte, error) {
	var r membershippb.ClusterMemberAttrSetRequest
	if err := proto.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	id := r.GetMember_ID()
	if !m.members.SetAttributes(id, r.GetMemberAttributes().GetName(), r.GetMemberAttributes().GetClientUrls()) {
		return nil, fmt.Errorf("%w: %s", membership.ErrIDNotFound, membership.FormatID(id))
	}
	m.foldMember(id)
	return emptyReply(want), nil
}

func (m *Machine) foldMember(id uint64) {
	member, ok := m.members.Lookup(id)
	if !ok {
		m.hash.fold(effectMember, id, 0)
		return
	}
	b := appendBool(nil, 1, member.IsLearner)
	b = appendBytes(b, 2, []byte(member.Name))
	for _, u := range member.PeerURLs {
		b = appendBytes(b, 3, []byte(u))
	}
	for _, u := range member.ClientURLs {
		b = appendBytes(b, 4, []byte(u))
	}
	m.hash.fold(effectMember, id, digest(b))
}

func (m *Machine) applySettings(body []byte, want bool) ([]byte, error) {
	s, err := m.settings.merge(body)
	if err != nil {
		return nil, err
	}
	m.settings = s
	m.members.SetMaxLearners(int(s.MaxLearners))
	m.hash.fold(effectSettings, 0, digest(s.Encode()))
	return emptyReply(want), nil
}

// applyHashCheck compares the leader's hash at an earlier entry with this
// member's own. Who is wrong if they differ is for the majority to say: the
// owner is told by Checks. An entry from before the last restart can't be compared.
func (m *Machine) applyHashCheck(body []byte, want bool) ([]byte, error) {
	index, hash, comparable, err := parseHashCheck(body)
	if err != nil {
		return nil, err
	}
	if own, known := m.recent.at(index); known && comparable {
		m.noteCheck(Checked{Index: index, Hash: own, Differs: own != hash})
	}
	return emptyReply(want), nil
}

// applyVerdict stops this member if the majority's hash at the index is not its
// own. The others go on; if an undecided verdict had stopped them by the CORRUPT
// alarm, that is over. One that was raised by hand stands until it is disarmed: who
// raised it may have compared more than these hashes cover.
func (m *Machine) applyVerdict(body []byte, want bool) ([]byte, error) {
	v, comparable, err := parseVerdict(body)
	if err != nil {
		return nil, err
	}
	if v.Undecided {
		var ids []string
		for _, id := range v.Diverged {
			m.disputed = true
			m.setAlarm(RaisedAlarm{Member: id, Type: pb.AlarmType_CORRUPT}, true)
			ids = append(ids, membership.FormatID(id))
		}
		own, _ := m.hashAt(v.Index)
		m.log.Error("members' states differ and no majority agrees: nothing is served until one does; start the missing members, "+
			"or remove the member that is wrong", "members", ids, "index", v.Index, "own", fmt.Sprintf("%016x", own))
		return emptyReply(want), nil
	}
	if own, known := m.hashAt(v.Index); known && comparable && own != v.Hash {
		return nil, fmt.Errorf("%w: at index %d its hash is %016x, theirs is %016x", ErrDiverged, v.Index, own, v.Hash)
	}
	for _, a := range m.alarms { // replaced, never modified: safe to walk
		if a.Type == pb.AlarmType_CORRUPT && m.disputed {
			m.setAlarm(a, false)
		}
	}
	m.disputed = false
	if m.index < m.replays {
		return emptyReply(want), nil
	}
	for _, id := range v.Diverged {
		m.diverged++
		m.log.Error("a member's state has diverged: it stops", "member", membership.FormatID(id), "index", v.Index,
			"majority", fmt.Sprintf("%016x", v.Hash))
	}
	return emptyReply(want), nil
}

// ConfChangeContext encodes the context of a raft configuration change.
func ConfChangeContext(c Command, change membership.Change) (*raftpb.ConfChangeV2, error) {
	body, err := change.Marshal()
	if err != nil {
		return nil, err
	}
	c.Kind, c.Body = ConfChange, body
	return change.ConfChange(c.AppendTo(nil))
}

// ChangeCommand is a membership change as its command, by which a member passes
// it on to the leader.
type ChangeCommand struct {
	Encoded
	Change membership.Change
}

// ParseChangeCommand reads the context of a configuration change that
// ConfChangeContext made.
func ParseChangeCommand(context []byte) (ChangeCommand, error) {
	c, err := ParseCommand(context)
	if err != nil {
		return ChangeCommand{}, err
	}
	if c.Kind != ConfChange {
		return ChangeCommand{}, fmt.Errorf("%w: kind %v in a configuration change", ErrBadEntry, c.Kind)
	}
	change, err := membership.UnmarshalChange(c.body())
	return ChangeCommand{c, change}, err
}

// ConfChange gives what raft is to agree on; the command's bytes go with it.
func (c ChangeCommand) ConfChange() (*raftpb.ConfChangeV2, error) {
	return c.Change.ConfChange(c.Bytes)
}

// parseConfChange reads what ConfChangeContext made. A change without a context
// concerns raft alone (it leaves a joint configuration): its Op is empty.
func parseConfChange(cc *raftpb.ConfChangeV2) (Encoded, membership.Change, error) {
	if len(cc.GetContext()) == 0 && len(cc.GetChanges()) == 0 {
		return Encoded{}, membership.Change{}, nil
	}
	c, err := ParseChangeCommand(cc.GetContext())
	if err == nil && !c.Change.Matches(cc) {
		err = fmt.Errorf("%w: raft is told something else than the members", membership.ErrBadChange)
	}
	return c.Encoded, c.Change, err
}

// CheckConfChange says whether ApplyConfChange will carry the change out. If
// not, raft must not be told of it.
func (m *Machine) CheckConfChange(cc *raftpb.ConfChangeV2) error {
	_, change, err := parseConfChange(cc)
	if err != nil || change.Op == "" {
		return err
	}
	return m.members.Check(change)
}

// ApplyConfChange executes a configuration change; confState is what raft made
// of it, or the one before if CheckConfChange refused it. An EndEntry follows.
func (m *Machine) ApplyConfChange(index, term uint64, cc *raftpb.ConfChangeV2, confState *raftpb.ConfState) Result {
	m.within = true
	if confState != nil {
		m.confState = proto.CloneOf(confState)
	}
	c, change, err := parseConfChange(cc)
	if err == nil && change.Op != "" {
		m.maxTime = max(m.maxTime, c.Time)
		if err = m.members.Apply(change); err == nil {
			m.foldMember(change.Member.ID)
			m.log.Info("members changed", "index", index, "term", term, "op", change.Op, "member", membership.FormatID(change.Member.ID))
		}
	}
	if err != nil && !Fatal(err) {
		m.hash.fold(effectRefused, uint64(ConfChange), refusalCode(err))
	}
	return Result{ID: c.ID, Rev: m.kv.Rev(), Err: err}
}
