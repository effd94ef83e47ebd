package catalog

import (
	"iter"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery"
)

// InstanceView is an instance as a snapshot has it. It is never changed: a change makes a new one.
type InstanceView struct {
	Instance discovery.Instance
	// Health is nil if the instance has no health record.
	Health *discovery.Health
	// Status is the effective state: draining, starting, or the worst check. Serving is Status.Serving().
	Status  discovery.Status
	Serving bool
	// Rev is the revision of the last change of the record or its health.
	Rev int64
}

// Weight returns the weight of one of its endpoints in the instance's present state.
func (v *InstanceView) Weight(e *discovery.Endpoint) uint32 { return v.Instance.WeightAt(e, v.Status) }

// ServiceView is a service as a snapshot has it. It is never changed: two snapshots hold the same pointer if nothing
// changed in between, unless a full resync came between them.
type ServiceView struct {
	NS, Name string
	// Policy is the operator's; the zero policy with NS and Name if there is none.
	Policy discovery.Service
	// HasPolicy tells whether a policy is stored: such a service exists even without instances.
	HasPolicy bool
	// Instances are sorted by id, serving or not.
	Instances []*InstanceView
	// Serving is the number of instances with Serving set.
	Serving int
	// Rev is the revision of the last change: of the policy, of an instance, of a health record, or a removal.
	Rev int64

	policyRev int64
}

// Instance finds an instance by id, nil if there is none.
func (s *ServiceView) Instance(id string) *InstanceView {
	if i, ok := s.find(id); ok {
		return s.Instances[i]
	}
	return nil
}

func (s *ServiceView) find(id string) (int, bool) {
	i := sort.Search(len(s.Instances), func(i int) bool { return s.Instances[i].Instance.ID >= id })
	return i, i < len(s.Instances) && s.Instances[i].Instance.ID == id
}

// ServiceName names a service.
type ServiceName struct{ NS, Name string }

func (n ServiceName) String() string { return n.NS + "/" + n.Name }

// Snapshot is the registry at one revision. It is immutable.
type Snapshot struct {
	rev      int64
	syncedAt time.Time

	services   trie[*ServiceView] // by ns/name
	namespaces trie[int]          // number of services by namespace
	nodes      trie[*nodeList]    // by node
	instances  int
}

// Rev is the store's revision that the snapshot shows; everything up to it is in, nothing after it.
func (s *Snapshot) Rev() int64 { return s.rev }

// SyncedAt is when the full listing that the snapshot goes back to was finished.
func (s *Snapshot) SyncedAt() time.Time { return s.syncedAt }

// Len returns the number of services and of instances.
func (s *Snapshot) Len() (services, instances int) { return s.services.n, s.instances }

// Service returns a service, nil if it has neither policy nor instance.
func (s *Snapshot) Service(ns, name string) *ServiceView {
	v, _ := s.services.get(ns + "/" + name)
	return v
}

// Instance returns an instance, nil if there is none of that name.
func (s *Snapshot) Instance(ns, svc, id string) *InstanceView {
	if v := s.Service(ns, svc); v != nil {
		return v.Instance(id)
	}
	return nil
}

// Node returns the instances that run on a node, sorted by namespace, service and id. The caller must not change the
// slice.
func (s *Snapshot) Node(node string) []*InstanceView {
	if l, ok := s.nodes.get(node); ok {
		return l.views
	}
	return nil
}

// Nodes returns the names of all nodes that have instances, sorted.
func (s *Snapshot) Nodes() []string { return s.nodes.sortedKeys() }

// HasNamespace reports whether any service exists in the namespace.
func (s *Snapshot) HasNamespace(ns string) bool {
	_, ok := s.namespaces.get(ns)
	return ok
}

// Namespaces returns the namespaces that have services, sorted.
func (s *Snapshot) Namespaces() []string { return s.namespaces.sortedKeys() }

// Services iterates over the services of a namespace, or of all namespaces if ns is empty, sorted by namespace and
// name. It sorts anew at each call.
func (s *Snapshot) Services(ns string) iter.Seq[*ServiceView] {
	return func(yield func(*ServiceView) bool) {
		views := make([]*ServiceView, 0, 64)
		for _, v := range s.services.all() {
			if ns == "" || v.NS == ns {
				views = append(views, v)
			}
		}
		slices.SortFunc(views, func(a, b *ServiceView) int {
			if c := strings.Compare(a.NS, b.NS); c != 0 {
				return c
			}
			return strings.Compare(a.Name, b.Name)
		})
		for _, v := range views {
			if !yield(v) {
				return
			}
		}
	}
}

// NewSnapshot builds a snapshot by hand, for tests and for programs with their own source. Records are taken as given;
// set a policy with WithPolicy and health with WithHealth. SyncedAt is zero.
func NewSnapshot(rev int64, instances ...discovery.Instance) *Snapshot {
	b := newBuilder(nil)
	for i := range instances {
		b.putInstance(instances[i].Ref(), instances[i], rev)
	}
	return b.publish(rev, time.Time{})
}

// WithPolicy returns a snapshot in which the service has the given policy. s is not changed.
func (s *Snapshot) WithPolicy(p discovery.Service) *Snapshot {
	b := newBuilder(s)
	b.putPolicy(p, s.rev)
	return b.publish(s.rev, s.syncedAt)
}

// WithHealth returns a snapshot in which the instance has the given health, nil for none. s is not changed, and
// returned itself if it has no such instance.
func (s *Snapshot) WithHealth(ref discovery.Ref, h *discovery.Health) *Snapshot {
	b := newBuilder(s)
	if !b.putHealth(ref, h, s.rev) {
		return s
	}
	return b.publish(s.rev, s.syncedAt)
}
