package machine

import (
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/simbug"
)

// Result is what became of a command.
type Result struct {
	ID  uint64
	Rev int64 // the store's revision right after the command: what the reply's header says
	// Body is the wire encoding of the etcd response without its header (field 1);
	// nil if none was wanted or the command was refused.
	Body []byte
	Err  error
}

// Apply executes one command of the entry at index and term. It depends on
// nothing but the state and its arguments, and want decides only whether a reply
// is built. Whatever the bytes are, it doesn't panic: it refuses. If Fatal holds
// for the error, the member must stop.
func (m *Machine) Apply(index, term uint64, cmd []byte, want bool) Result {
	c, err := ParseCommand(cmd)
	if err != nil {
		return Result{Rev: m.kv.Rev(), Err: err}
	}
	m.within = true
	m.maxTime = max(m.maxTime, c.Time)
	body, err := m.execute(&c, term, want)
	if err != nil {
		if !Fatal(err) {
			m.hash.fold(effectRefused, uint64(c.Kind), refusalCode(err))
		} else if !errors.Is(err, ErrDiverged) {
			err = fmt.Errorf("%v: %w", c.Kind, err)
		}
		body = nil
	}
	if m.full {
		m.clearFull()
	}
	return Result{ID: c.ID, Rev: m.kv.Rev(), Body: body, Err: err}
}

func (m *Machine) execute(c *Encoded, term uint64, want bool) ([]byte, error) {
	body := c.body()
	if m.alarms.has(pb.AlarmType_CORRUPT) {
		switch c.Kind {
		case Put, DeleteRange, Txn, Compact, LeaseGrant, LeaseRevoke:
			return nil, ErrCorrupt
		}
	}
	switch c.Kind {
	case Put:
		return m.applyPut(body, c.Member, want)
	case DeleteRange:
		return m.applyDelete(body, want)
	case Txn:
		return m.applyTxn(body, c.Member, want)
	case Compact:
		return m.applyCompact(body, want)
	case LeaseGrant:
		return m.applyGrant(body, c.Member, want)
	case LeaseRevoke:
		return m.applyRevoke(body, want)
	case LeaseExpire:
		return m.applyExpire(body, term, want)
	case LeaseCheckpoint:
		return m.applyCheckpoint(body, want)
	case ClusterVersion:
		return m.applyClusterVersion(body, want)
	case MemberAttributes:
		return m.applyMemberAttributes(body, want)
	case HashCheck:
		return m.applyHashCheck(body, want)
	case Alarm:
		return m.applyAlarm(body, want)
	case SetSettings:
		return m.applySettings(body, want)
	case HashVerdict:
		return m.applyVerdict(body, want)
	case Noop:
		return emptyReply(want), nil
	}
	return nil, fmt.Errorf("%w: kind %d", ErrUnknownCommand, uint8(c.Kind))
}

// emptyReply is the body of a response that has only a header.
func emptyReply(want bool) []byte {
	if !want {
		return nil
	}
	return make([]byte, 0) // of size 0: allocates nothing
}

func (m *Machine) applyPut(body []byte, member uint64, want bool) ([]byte, error) {
	var p putRequest
	if err := p.parse(body); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if err := m.admit(costPut(len(p.key), len(p.value)), member); err != nil {
		return nil, err
	}
	w := m.begin()
	if p.lease != 0 || p.ignoreValue || p.ignoreLease {
		if err := checkPutState(w.Tx, m.leases, &p); err != nil {
			w.commit() // nothing was written
			return nil, err
		}
	}
	prev := w.put(&p)
	w.commit()
	if want && p.prevKV && prev != nil {
		return appendBytes(make([]byte, 0, len(prev)+8), 2, prev), nil
	}
	return emptyReply(want), nil
}

func (m *Machine) applyDelete(body []byte, want bool) ([]byte, error) {
	var d deleteRequest
	if err := d.parse(body); err != nil {
		return nil, err
	}
	if len(d.key) == 0 {
		return nil, ErrEmptyKey
	}
	d.prevKV = d.prevKV && want
	w := m.begin()
	reply := d.execute(emptyReply(want), w, false)
	w.commit()
	if !want {
		return nil, nil
	}
	return reply, nil
}

func (m *Machine) applyTxn(body []byte, member uint64, want bool) ([]byte, error) {
	r := &m.txn
	r.reset()
	if err := r.parse(body, 0); err != nil {
		return nil, err
	}
	if err := r.check(int(m.settings.MaxTxnOps)); err != nil {
		return nil, err
	}
	if err := m.admit(r.cost(), member); err != nil {
		return nil, err
	}
	w := m.begin()
	t := &m.txnRun
	*t = txnRun{state: w.Tx, leases: m.leases, rev: m.kv.Rev(), compactRev: m.kv.CompactRev(), path: t.path[:0]}
	if simbug.On(simbug.TxnRangeLocal) {
		t.compactRev = m.kv.SweptRev()
	}
	t.choose(r)
	if err := t.check(r); err != nil {
		w.commit() // nothing was written
		return nil, err
	}
	t.next = 0
	var reply []byte
	if want {
		reply = make([]byte, 0, 128)
	}
	reply, err := t.execute(reply, r, w, want)
	if err != nil {
		// check has seen to it that this can't be; half a txn must not be committed.
		panic(fmt.Sprintf("machine: txn failed after it was checked: %v", err))
	}
	w.commit()
	return reply, nil
}

func (m *Machine) applyCompact(body []byte, want bool) ([]byte, error) {
	var rev int64
	if err := ints(body, &rev); err != nil {
		return nil, err
	}
	if err := m.kv.Compact(rev); err != nil {
		return nil, err
	}
	m.hash.fold(effectCompact, uint64(rev), 0)
	return emptyReply(want), nil
}

func (m *Machine) applyGrant(body []byte, member uint64, want bool) ([]byte, error) {
	var ttl, id int64
	if err := ints(body, &ttl, &id); err != nil {
		return nil, err
	}
	if err := m.admit(leaseCost, member); err != nil {
		return nil, err
	}
	ttl = max(ttl, m.settings.MinLeaseTTL)
	if err := m.leases.Grant(id, ttl); err != nil {
		return nil, err
	}
	m.hash.fold(effectGrant, uint64(id), uint64(ttl))
	m.content.add(leaseDigest(lease.Lease{ID: id, TTL: ttl}))
	m.leaseEffects = append(m.leaseEffects, LeaseEffect{ID: id, Granted: true, TTL: ttl})
	if !want {
		return nil, nil
	}
	return appendInt(appendInt(make([]byte, 0, 24), 2, id), 3, ttl), nil
}

func (m *Machine) applyRevoke(body []byte, want bool) ([]byte, error) {
	var id int64
	if err := ints(body, &id); err != nil {
		return nil, err
	}
	w := m.begin()
	err := w.revoke(id)
	w.commit()
	if err != nil {
		return nil, err
	}
	return emptyReply(want), nil
}

// applyExpire revokes leases whose time is up. A leader of another term than the
// entry's cannot cause that: its successor may have renewed them. All go in one
// revision; those that are gone already are passed over.
func (m *Machine) applyExpire(body []byte, term uint64, want bool) ([]byte, error) {
	leaderTerm, ids, err := parseLeaseExpire(body)
	if err != nil {
		return nil, err
	}
	if leaderTerm != term {
		return nil, fmt.Errorf("%w: %d, now %d", ErrStaleTerm, leaderTerm, term)
	}
	w := m.begin()
	for _, id := range ids {
		if err := w.revoke(id); err != nil {
			m.log.Debug("expired lease is gone already", "lease", id)
		}
	}
	w.commit()
	return emptyReply(want), nil
}

func (m *Machine) applyCheckpoint(body []byte, want bool) ([]byte, error) {
	var r pb.LeaseCheckpointRequest
	if err := proto.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for _, c := range r.Checkpoints {
		remaining := max(c.GetRemaining_TTL(), 0)
		was, ok := m.leases.Lookup(c.GetID())
		if !ok || m.leases.Checkpoint(c.GetID(), remaining) != nil {
			continue // gone in the meantime
		}
		m.content.drop(leaseDigest(was))
		was.Remaining = remaining
		m.content.add(leaseDigest(was))
		m.hash.fold(effectLeft, uint64(c.GetID()), uint64(remaining))
		m.leaseEffects = append(m.leaseEffects, LeaseEffect{ID: c.GetID(), Checkpointed: true, Remaining: remaining})
	}
	return emptyReply(want), nil
}

// writeTx is a transaction of the store that keeps leases, events and hash in
// step with it.
type writeTx struct {
	*mvcc.Tx
	m *Machine
}

func (m *Machine) begin() *writeTx {
	m.tx = writeTx{Tx: m.kv.Begin(), m: m}
	return &m.tx
}

// put writes one key, whose request has been checked, and moves it between leases.
func (w *writeTx) put(p *putRequest) (prev mvcc.Record) {
	value, leaseID := p.value, p.lease
	if p.ignoreValue || p.ignoreLease {
		// In a txn the key that was there when it was checked may be gone again, by an
		// overlapping delete before this put: then it starts from nothing.
		if old, ok := w.Get(p.key); ok {
			if p.ignoreValue {
				value = old.Value()
			}
			if p.ignoreLease {
				leaseID = old.Lease()
			}
		}
	}
	prev = w.Put(p.key, value, leaseID)
	var old int64
	if prev != nil {
		old = prev.Lease()
		w.m.content.drop(digest(prev))
	}
	if old != leaseID {
		if old != 0 && !simbug.On(simbug.LeaseKeysStay) {
			w.m.leases.Detach(p.key, old)
		}
		if leaseID != 0 {
			w.m.leases.Attach(p.key, leaseID)
		}
	}
	return prev
}

// deleteRange deletes keys and detaches them; visit may be nil.
func (w *writeTx) deleteRange(key, end []byte, visit func(prev mvcc.Record)) int64 {
	return w.DeleteRange(key, end, func(prev mvcc.Record) {
		w.m.content.drop(digest(prev))
		if id := prev.Lease(); id != 0 {
			w.m.leases.Detach(prev.Key(), id)
		}
		if visit != nil {
			visit(prev)
		}
	})
}

// revoke removes a lease and deletes its keys.
func (w *writeTx) revoke(id int64) error {
	l, _ := w.m.leases.Lookup(id)
	keys, err := w.m.leases.Revoke(id)
	if err != nil {
		return err
	}
	w.m.content.drop(leaseDigest(l))
	for i, k := range keys {
		if i == 0 && simbug.On(simbug.LeaseKeyOutlives) {
			continue
		}
		w.deleteRange(k, nil, nil)
	}
	w.m.hash.fold(effectRevoke, uint64(id), 0)
	w.m.leaseEffects = append(w.m.leaseEffects, LeaseEffect{ID: id})
	return nil
}

// commit ends the transaction and takes its events into hash and queue.
func (w *writeTx) commit() {
	rev, events := w.Commit()
	for i := range events {
		tag, d := effectPut, digest(events[i].KV)
		if events[i].Delete {
			tag = effectDelete
		} else {
			w.m.content.add(d)
		}
		w.m.hash.fold(tag, uint64(rev), d)
	}
	w.m.events = append(w.m.events, events...)
}

var _ leaseReader = (*lease.Table)(nil)
