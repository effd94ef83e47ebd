package catalog

import (
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
)

// builder makes the next snapshot from the last one: it copies what it changes, once, and shares the rest. It is used
// by one goroutine, for one snapshot.
type builder struct {
	e       *edit
	snap    Snapshot
	touched map[*ServiceView]bool // views made by this builder: changed in place
	changed map[ServiceName]bool
}

func newBuilder(from *Snapshot) *builder {
	b := &builder{e: new(edit), touched: map[*ServiceView]bool{}, changed: map[ServiceName]bool{}}
	if from != nil {
		b.snap = *from
	}
	return b
}

// publish ends the builder.
func (b *builder) publish(rev int64, syncedAt time.Time) *Snapshot {
	b.snap.rev, b.snap.syncedAt = rev, syncedAt
	out := b.snap
	b.e, b.touched = nil, nil
	return &out
}

// names returns the services changed so far.
func (b *builder) names() []ServiceName {
	out := make([]ServiceName, 0, len(b.changed))
	for n := range b.changed {
		out = append(out, n)
	}
	return out
}

// reuse compares a builder that holds a full listing at revision rev with the snapshot before it: services that are the
// same are taken over from old, so that their pointers stay; the names of the others, and of those gone, are returned.
// A listing older than old comes from a store that was restored: its revisions prove nothing, and nothing is reused.
func (b *builder) reuse(old *Snapshot, rev int64) []ServiceName {
	if old == nil {
		return b.names()
	}
	comparable := rev >= old.rev
	var changed []ServiceName
	for key, v := range b.snap.services.all() {
		o, ok := old.services.get(key)
		if ok && comparable && sameService(o, v) {
			b.snap.services.set(b.e, key, o)
			continue
		}
		v.Rev = rev // what changed, and when, isn't known: a removal leaves no trace
		changed = append(changed, ServiceName{v.NS, v.Name})
	}
	for key, o := range old.services.all() {
		if _, ok := b.snap.services.get(key); !ok {
			changed = append(changed, ServiceName{o.NS, o.Name})
		}
	}
	return changed
}

// sameService relies on a revision standing for one content.
func sameService(a, b *ServiceView) bool {
	if a.HasPolicy != b.HasPolicy || a.policyRev != b.policyRev || len(a.Instances) != len(b.Instances) {
		return false
	}
	for i, x := range a.Instances {
		if y := b.Instances[i]; x.Rev != y.Rev || x.Instance.ID != y.Instance.ID {
			return false
		}
	}
	return true
}

// service returns a view of the service that may be changed, made if needed.
func (b *builder) service(ns, name string) *ServiceView {
	key := ns + "/" + name
	v, ok := b.snap.services.get(key)
	if ok && b.touched[v] {
		return v
	}
	n := &ServiceView{NS: ns, Name: name, Policy: discovery.Service{NS: ns, Name: name}}
	if ok {
		*n = *v
		n.Instances = append(make([]*InstanceView, 0, len(v.Instances)+1), v.Instances...)
	} else {
		count, _ := b.snap.namespaces.get(ns)
		b.snap.namespaces.set(b.e, ns, count+1)
	}
	b.snap.services.set(b.e, key, n)
	b.touched[n] = true
	b.changed[ServiceName{ns, name}] = true
	return n
}

// settle removes the service if nothing is left of it.
func (b *builder) settle(v *ServiceView, rev int64) {
	v.Rev = max(v.Rev, rev)
	if v.HasPolicy || len(v.Instances) > 0 {
		return
	}
	delete(b.touched, v)
	b.snap.services.remove(b.e, v.NS+"/"+v.Name)
	if count, _ := b.snap.namespaces.get(v.NS); count > 1 {
		b.snap.namespaces.set(b.e, v.NS, count-1)
	} else {
		b.snap.namespaces.remove(b.e, v.NS)
	}
}

func (b *builder) putPolicy(p discovery.Service, rev int64) {
	v := b.service(p.NS, p.Name)
	v.Policy, v.HasPolicy, v.policyRev = p, true, rev
	b.settle(v, rev)
}

func (b *builder) deletePolicy(ns, name string, rev int64) {
	if old := b.snap.Service(ns, name); old == nil || !old.HasPolicy {
		return
	}
	v := b.service(ns, name)
	v.Policy, v.HasPolicy, v.policyRev = discovery.Service{NS: ns, Name: name}, false, 0
	b.settle(v, rev)
}

// putInstance stores the record; the health that the instance has stays.
func (b *builder) putInstance(ref discovery.Ref, in discovery.Instance, rev int64) {
	n := &InstanceView{Instance: in, Rev: rev}
	if old := b.snap.Instance(ref.NS, ref.Svc, ref.ID); old != nil {
		n.Health = old.Health
	}
	b.place(ref, n, rev)
}

// putHealth gives an instance health, nil for none, and reports whether there is such an instance.
func (b *builder) putHealth(ref discovery.Ref, h *discovery.Health, rev int64) bool {
	old := b.snap.Instance(ref.NS, ref.Svc, ref.ID)
	if old == nil {
		return false
	}
	b.place(ref, &InstanceView{Instance: old.Instance, Health: h, Rev: rev}, rev)
	return true
}

// place puts a view at its place in service and node.
func (b *builder) place(ref discovery.Ref, n *InstanceView, rev int64) {
	n.Status = discovery.Effective(&n.Instance, n.Health)
	n.Serving = n.Status.Serving()
	v := b.service(ref.NS, ref.Svc)
	i, ok := v.find(ref.ID)
	if ok {
		old := v.Instances[i]
		v.count(old, -1)
		if old.Instance.Node != n.Instance.Node {
			b.leaveNode(old)
		}
		v.Instances[i] = n
	} else {
		v.Instances = slices.Insert(v.Instances, i, n)
		b.snap.instances++
	}
	v.count(n, 1)
	b.enterNode(n)
	b.settle(v, rev)
}

func (s *ServiceView) count(i *InstanceView, by int) {
	if i.Serving {
		s.Serving += by
	}
}

// deleteInstance removes an instance and returns the health it had.
func (b *builder) deleteInstance(ref discovery.Ref, rev int64) *discovery.Health {
	if b.snap.Instance(ref.NS, ref.Svc, ref.ID) == nil {
		return nil
	}
	v := b.service(ref.NS, ref.Svc)
	i, _ := v.find(ref.ID)
	old := v.Instances[i]
	v.count(old, -1)
	v.Instances = slices.Delete(v.Instances, i, i+1)
	b.snap.instances--
	b.leaveNode(old)
	b.settle(v, rev)
	return old.Health
}

// nodeList is the instances of one node, changed in place only by the builder that made it.
type nodeList struct {
	owner *edit
	views []*InstanceView // sorted by compareViews
}

// ownNode returns a list of the node that may be changed.
func (b *builder) ownNode(node string) *nodeList {
	l, ok := b.snap.nodes.get(node)
	if ok && l.owner == b.e {
		return l
	}
	n := &nodeList{owner: b.e}
	if ok {
		n.views = append(make([]*InstanceView, 0, len(l.views)+1), l.views...)
	}
	b.snap.nodes.set(b.e, node, n)
	return n
}

func (b *builder) enterNode(n *InstanceView) {
	if n.Instance.Node == "" {
		return
	}
	l := b.ownNode(n.Instance.Node)
	if i, ok := slices.BinarySearchFunc(l.views, n, compareViews); ok {
		l.views[i] = n
	} else {
		l.views = slices.Insert(l.views, i, n)
	}
}

func (b *builder) leaveNode(n *InstanceView) {
	if n.Instance.Node == "" {
		return
	}
	l := b.ownNode(n.Instance.Node)
	if i, ok := slices.BinarySearchFunc(l.views, n, compareViews); ok {
		l.views = slices.Delete(l.views, i, i+1)
	}
	if len(l.views) == 0 {
		b.snap.nodes.remove(b.e, n.Instance.Node)
	}
}

func compareViews(a, b *InstanceView) int {
	if c := strings.Compare(a.Instance.NS, b.Instance.NS); c != 0 {
		return c
	}
	if c := strings.Compare(a.Instance.Svc, b.Instance.Svc); c != 0 {
		return c
	}
	return strings.Compare(a.Instance.ID, b.Instance.ID)
}
