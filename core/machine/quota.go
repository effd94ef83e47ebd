package machine

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// The quota counts logical bytes: all versions that compaction hasn't given up,
// and leases. It is equal on all members whatever each has physically freed.
// What takes space (put, txn with a put, grant) is refused before it is applied;
// what gives back space always passes.

const (
	leaseCost = 64 // charged for a lease
	putCost   = 64 // charged for a put beyond key and value, before the store's own count is known
)

func costPut(key, value int) int64 { return int64(putCost + key + value) }

// cost is what the dearer branch of a txn may take.
func (t *txnRequest) cost() int64 { return max(costOps(t.success), costOps(t.failure)) }

func costOps(ops []operation) (n int64) {
	for i := range ops {
		switch o := &ops[i]; o.kind {
		case opPut:
			n += costPut(len(o.put.key), len(o.put.value))
		case opTxn:
			n += o.txn.cost()
		}
	}
	return n
}

// used is the space taken, as the quota counts it.
func (m *Machine) used() int64 { return m.kv.Bytes() + int64(m.leases.Len())*leaseCost }

// admit refuses what would exceed the quota, raising the alarm in the name of
// the member that took the request, and everything that takes space while the
// alarm stands.
func (m *Machine) admit(cost int64, member uint64) error {
	if cost == 0 {
		return nil
	}
	if m.alarms.has(pb.AlarmType_NOSPACE) {
		return ErrNoSpace
	}
	if m.settings.Quota < 0 || m.used()+cost <= m.settings.Quota {
		return nil
	}
	m.full = true
	m.setAlarm(RaisedAlarm{Member: member, Type: pb.AlarmType_NOSPACE}, true)
	m.log.Warn("quota reached", "used", m.used(), "quota", m.settings.Quota)
	return ErrNoSpace
}

// clearFull clears the NOSPACE alarms once an eighth of the quota is free again,
// so that the alarm doesn't flicker at the limit.
func (m *Machine) clearFull() {
	q := m.settings.Quota
	if q >= 0 && m.used() > q-q/8 {
		return
	}
	m.full = false
	for _, a := range m.alarms {
		if a.Type == pb.AlarmType_NOSPACE {
			m.setAlarm(a, false)
		}
	}
	m.log.Info("quota has room again", "used", m.used(), "quota", q)
}
