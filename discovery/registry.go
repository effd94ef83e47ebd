package discovery

import (
	"context"
	"errors"
	"fmt"

	"github.com/musterhq/muster/sdk"
)

// The defaults of RegistryConfig.
const (
	DefaultMaxOps   = 128     // etcd's default --max-txn-ops
	DefaultMaxBytes = 1 << 20 // below etcd's default --max-request-bytes of 1.5 MiB
)

// Errors of the Registry.
var (
	// ErrConflict: the instance's key holds a record of another registrar. See ConflictError.
	ErrConflict = errors.New("instance is registered by another owner")
	// ErrNotHeld: a key to be changed isn't there under the given lease; read and register anew.
	ErrNotHeld = errors.New("instance is not held by this lease")
	// ErrContention: the keys changed again and again between reading and writing; try again.
	ErrContention = errors.New("registration kept changing while it was written")
)

// ConflictError names the registrar in whose hands an instance is.
type ConflictError struct {
	Ref   Ref
	Owner string
	Epoch uint64
	// Superseded tells that it is a later incarnation of the same owner.
	Superseded bool
}

func (e *ConflictError) Error() string {
	switch {
	case e.Superseded:
		return fmt.Sprintf("instance %s: taken over by a later registrar of the same owner %q (epoch %d): stop one of the two or give them different ids", e.Ref, e.Owner, e.Epoch)
	case e.Owner == "":
		return fmt.Sprintf("instance %s: the key holds a record without owner, registered by hand: delete %s or choose another id", e.Ref, e.Ref.InstanceKey())
	}
	return fmt.Sprintf("instance %s: registered by %q: choose another id, or stop that registrar", e.Ref, e.Owner)
}

// Is makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// Conflicts takes an error of Register apart: the conflicts in it, and everything else, nil if there is nothing else.
func Conflicts(err error) (conflicts []*ConflictError, rest error) {
	var c *ConflictError
	if !errors.As(err, &c) {
		return nil, err
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []*ConflictError{c}, nil
	}
	var others []error
	for _, e := range joined.Unwrap() {
		cs, r := Conflicts(e)
		conflicts = append(conflicts, cs...)
		others = append(others, r)
	}
	return conflicts, errors.Join(others...)
}

// Store is what a Registry needs of the store; *sdk.Client has it.
type Store interface {
	Get(ctx context.Context, key string, opts ...sdk.Option) (sdk.GetResult, error)
	Txn(ctx context.Context, t sdk.Txn) (sdk.TxnResult, error)
}

// RegistryConfig configures a Registry. Only Store is needed.
type RegistryConfig struct {
	Store  Store
	Naming Naming
	// MaxOps and MaxBytes bound one transaction.
	MaxOps, MaxBytes int
}

// Registry writes and reads registrations. It holds no state of its own and may be used from any goroutine.
type Registry struct{ cfg RegistryConfig }

// NewRegistry returns a Registry on a store.
func NewRegistry(cfg RegistryConfig) *Registry {
	if cfg.MaxOps <= 0 {
		cfg.MaxOps = DefaultMaxOps
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	return &Registry{cfg: cfg}
}

// Registration is what Register stores for one instance.
type Registration struct {
	Instance Instance
	// Health is stored beside it; nil removes a stored one.
	Health *Health
	// Prev is the record as Fetch read it, nil if there was none or it isn't known: it saves Register a round trip.
	Prev *Record
}

// Register stores registrations under a lease (0 for none), in transactions within the configured bounds. Instances are
// normalized and validated first; nothing is stored if one is invalid. Each transaction takes effect wholly or not at
// all, an instance and its health always together.
//
// A key that is already there is taken over if it is under the same lease, can't be decoded, or belongs to the same
// owner with an epoch not greater; fields this release doesn't know are kept. Otherwise the instance is left out, the
// others are stored all the same, and the error holds a *ConflictError for each.
func (r *Registry) Register(ctx context.Context, lease int64, regs ...Registration) error {
	items := make([]write, 0, len(regs))
	var invalid []error
	seen := make(map[Ref]bool, len(regs))
	for _, reg := range regs {
		w := write{ref: reg.Instance.Ref(), in: reg.Instance, health: reg.Health}
		w.in.Endpoints = append([]Endpoint(nil), w.in.Endpoints...) // Normalize and KeepUnknown write into it
		w.in.Normalize()
		w.ref = w.in.Ref()
		if err := w.in.Validate(r.cfg.Naming); err != nil {
			invalid = append(invalid, fmt.Errorf("instance %s: %w", w.ref, err))
			continue
		}
		if seen[w.ref] {
			invalid = append(invalid, fmt.Errorf("instance %s: %w", w.ref, &FieldError{"id", "is given twice", "choose another id for one of them"}))
			continue
		}
		seen[w.ref] = true
		if p := reg.Prev; p != nil {
			if err := w.takeOver(p, lease); err != nil {
				invalid = append(invalid, err)
				continue
			}
		}
		items = append(items, w)
	}
	if err := errors.Join(invalid...); err != nil && !onlyConflicts(invalid) {
		return err
	}
	problems := invalid
	for len(items) > 0 {
		n := r.batch(items)
		conflicts, err := r.write(ctx, lease, items[:n])
		problems = append(problems, conflicts...)
		if err != nil {
			return errors.Join(append(problems, err)...)
		}
		items = items[n:]
	}
	return errors.Join(problems...)
}

func onlyConflicts(errs []error) bool {
	for _, err := range errs {
		if !errors.Is(err, ErrConflict) {
			return false
		}
	}
	return true
}

// write is one registration on its way.
type write struct {
	ref      Ref
	in       Instance
	health   *Health
	expected int64 // mod revision the instance key must have; 0: absent
	value    []byte
	hvalue   []byte
}

// takeOver decides whether the stored record may be replaced, and takes its unknown fields over.
func (w *write) takeOver(p *Record, lease int64) error {
	decoded := p.Instance.ID != ""
	mine := lease != 0 && p.Lease == lease || !decoded || p.Rev == 0 ||
		p.Instance.Owner == w.in.Owner && w.in.Owner != "" && p.Instance.Epoch <= w.in.Epoch
	if !mine {
		return &ConflictError{
			Ref: w.ref, Owner: p.Instance.Owner, Epoch: p.Instance.Epoch,
			Superseded: p.Instance.Owner == w.in.Owner && w.in.Owner != "",
		}
	}
	w.expected = p.Rev
	if decoded {
		w.in.KeepUnknown(&p.Instance)
	}
	if w.health != nil && p.Health != nil {
		h := *w.health
		h.KeepUnknown(p.Health)
		w.health = &h
	}
	return nil
}

const opsPerWrite = 2 // the instance and its health

// batch encodes from the front of items as many as fit into one transaction, at least one.
func (r *Registry) batch(items []write) int {
	bytes := 0
	for n := range items {
		items[n].encode()
		bytes += items[n].size()
		if n > 0 && ((n+1)*opsPerWrite > r.cfg.MaxOps || bytes > r.cfg.MaxBytes) {
			return n
		}
	}
	return len(items)
}

func (w *write) encode() {
	w.value, w.hvalue = w.in.Encode(), nil
	if w.health != nil {
		w.hvalue = w.health.Encode()
	}
}

func (w *write) size() int { return len(w.value) + len(w.hvalue) + 4*(len(w.ref.String())+32) }

// maxAttempts bounds the reads and rewrites of one transaction whose keys change meanwhile.
const maxAttempts = 4

// write stores one batch and returns the conflicts it left out.
func (r *Registry) write(ctx context.Context, lease int64, items []write) (conflicts []error, err error) {
	for range maxAttempts {
		if len(items) == 0 {
			return conflicts, nil
		}
		t := sdk.Txn{}
		for k := range items {
			w := &items[k]
			t.If = append(t.If, sdk.CmpMod(w.ref.InstanceKey(), "=", w.expected))
			t.Then = append(t.Then, sdk.OpPut(w.ref.InstanceKey(), w.value, sdk.WithLease(lease)))
			if w.health != nil {
				t.Then = append(t.Then, sdk.OpPut(w.ref.HealthKey(), w.hvalue, sdk.WithLease(lease)))
			} else {
				t.Then = append(t.Then, sdk.OpDelete(w.ref.HealthKey()))
			}
			t.Else = append(t.Else, sdk.OpGet(w.ref.InstanceKey()), sdk.OpGet(w.ref.HealthKey()))
		}
		res, err := r.cfg.Store.Txn(ctx, t)
		if err != nil {
			return conflicts, err
		}
		if res.Succeeded {
			return conflicts, nil
		}
		kept := items[:0]
		for k, w := range items {
			rec := record(w.ref, res.Results[2*k].Get, res.Results[2*k+1].Get)
			w.expected = 0
			if rec.Rev != 0 {
				if err := w.takeOver(&rec, lease); err != nil {
					conflicts = append(conflicts, err)
					continue
				}
				w.encode()
			}
			kept = append(kept, w)
		}
		items = kept
	}
	return conflicts, fmt.Errorf("register %d instances: %w", len(items), ErrContention)
}

// SetHealth rewrites the health of instances held by a lease, and nothing else. If one of them isn't held by it,
// nothing of its transaction is written and the error is ErrNotHeld.
func (r *Registry) SetHealth(ctx context.Context, lease int64, health map[Ref]Health) error {
	refs := make([]Ref, 0, len(health))
	for ref := range health {
		refs = append(refs, ref)
	}
	for len(refs) > 0 {
		n := min(len(refs), r.cfg.MaxOps)
		t := sdk.Txn{}
		for _, ref := range refs[:n] {
			h := health[ref]
			t.If = append(t.If, sdk.CmpLease(ref.InstanceKey(), "=", lease))
			t.Then = append(t.Then, sdk.OpPut(ref.HealthKey(), h.Encode(), sdk.WithLease(lease)))
		}
		res, err := r.cfg.Store.Txn(ctx, t)
		if err != nil {
			return err
		}
		if !res.Succeeded {
			return fmt.Errorf("health of %d instances: %w", n, ErrNotHeld)
		}
		refs = refs[n:]
	}
	return nil
}

// Deregister removes instances and their health, as far as they are held by the lease; what isn't there or is held
// otherwise is left alone. A lease of 0 removes whoever holds them, which is an operator's business.
func (r *Registry) Deregister(ctx context.Context, lease int64, refs ...Ref) error {
	for len(refs) > 0 {
		n := min(len(refs), max(1, r.cfg.MaxOps/opsPerWrite))
		if err := r.remove(ctx, lease, refs[:n]); err != nil {
			return err
		}
		refs = refs[n:]
	}
	return nil
}

// removal is one instance on its way out; bare if only its health is left.
type removal struct {
	ref  Ref
	bare bool
}

func (r *Registry) remove(ctx context.Context, lease int64, refs []Ref) error {
	items := make([]removal, 0, len(refs))
	for _, ref := range refs {
		items = append(items, removal{ref: ref})
	}
	for range maxAttempts {
		if len(items) == 0 {
			return nil
		}
		t := sdk.Txn{}
		for _, it := range items {
			in, health := it.ref.InstanceKey(), it.ref.HealthKey()
			switch {
			case lease == 0:
				t.Then = append(t.Then, sdk.OpDelete(in), sdk.OpDelete(health))
			case it.bare:
				t.If = append(t.If, sdk.CmpVersion(in, "=", 0), sdk.CmpLease(health, "=", lease))
				t.Then = append(t.Then, sdk.OpDelete(health))
			default:
				t.If = append(t.If, sdk.CmpLease(in, "=", lease))
				t.Then = append(t.Then, sdk.OpDelete(in), sdk.OpDelete(health))
			}
			t.Else = append(t.Else, sdk.OpGet(in, sdk.WithKeysOnly()), sdk.OpGet(health, sdk.WithKeysOnly()))
		}
		res, err := r.cfg.Store.Txn(ctx, t)
		if err != nil {
			return err
		}
		if res.Succeeded {
			return nil
		}
		kept := items[:0]
		for k, it := range items {
			in, there := res.Results[2*k].Get.First()
			health, _ := res.Results[2*k+1].Get.First()
			it.bare = !there
			if there && in.Lease == lease || !there && health.Lease == lease {
				kept = append(kept, it)
			}
		}
		items = kept
	}
	return fmt.Errorf("deregister %d instances: %w", len(items), ErrContention)
}

// PutService stores a service's policy, keeping the fields of a stored one that this release doesn't know.
func (r *Registry) PutService(ctx context.Context, s Service) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("service %s/%s: %w", s.NS, s.Name, err)
	}
	key := ServiceKey(s.NS, s.Name)
	for range maxAttempts {
		res, err := r.cfg.Store.Get(ctx, key)
		if err != nil {
			return err
		}
		n := s
		kv, _ := res.First()
		if old, err := DecodeService(s.NS, s.Name, kv.Value); err == nil {
			n.KeepUnknown(&old)
		}
		t, err := r.cfg.Store.Txn(ctx, sdk.Txn{
			If:   []sdk.Cmp{sdk.CmpMod(key, "=", kv.ModRevision)},
			Then: []sdk.Op{sdk.OpPut(key, n.Encode())},
		})
		if err != nil || t.Succeeded {
			return err
		}
	}
	return fmt.Errorf("service %s/%s: %w", s.NS, s.Name, ErrContention)
}
