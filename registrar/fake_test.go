package registrar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("store is down")

// fake is a store with leases that run out by the clock of the bubble, and with faults on command.
type fake struct {
	mu       sync.Mutex
	rev      int64
	nextID   int64
	leases   map[int64]time.Time // expiry
	ttl      map[int64]time.Duration
	recs     map[discovery.Ref]discovery.Record
	down     bool
	writes   int // transactions that wrote
	grants   int
	renewals []time.Time
	health   []string // SetHealth, as ref=status
}

func newFake() *fake {
	return &fake{leases: map[int64]time.Time{}, ttl: map[int64]time.Duration{}, recs: map[discovery.Ref]discovery.Record{}, nextID: 100}
}

// enter locks, lets leases run out, and fails if the store is down.
func (f *fake) enter() error {
	f.mu.Lock()
	for id, at := range f.leases {
		if !at.After(time.Now()) {
			f.dropLocked(id)
		}
	}
	if f.down {
		f.mu.Unlock()
		return errDown
	}
	return nil
}

func (f *fake) dropLocked(id int64) {
	delete(f.leases, id)
	for ref, rec := range f.recs {
		if rec.Lease == id {
			delete(f.recs, ref)
		}
	}
}

func (f *fake) Grant(_ context.Context, ttl time.Duration) (sdk.Lease, error) {
	if err := f.enter(); err != nil {
		return sdk.Lease{}, err
	}
	defer f.mu.Unlock()
	f.nextID++
	f.grants++
	f.leases[f.nextID], f.ttl[f.nextID] = time.Now().Add(ttl), ttl
	return sdk.Lease{ID: f.nextID, TTL: ttl}, nil
}

func (f *fake) KeepAlive(_ context.Context, id int64) (sdk.Lease, error) {
	if err := f.enter(); err != nil {
		return sdk.Lease{}, err
	}
	defer f.mu.Unlock()
	if _, ok := f.leases[id]; !ok {
		return sdk.Lease{}, sdk.ErrLeaseNotFound
	}
	f.renewals = append(f.renewals, time.Now())
	f.leases[id] = time.Now().Add(f.ttl[id])
	return sdk.Lease{ID: id, TTL: f.ttl[id]}, nil
}

func (f *fake) Keys(_ context.Context, id int64) ([]string, error) {
	if err := f.enter(); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	if _, ok := f.leases[id]; !ok {
		return nil, sdk.ErrLeaseNotFound
	}
	var keys []string
	for ref, rec := range f.recs {
		if rec.Lease == id {
			keys = append(keys, ref.InstanceKey())
			if rec.Health != nil {
				keys = append(keys, ref.HealthKey())
			}
		}
	}
	return keys, nil
}

func (f *fake) Revoke(_ context.Context, id int64) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.mu.Unlock()
	f.dropLocked(id)
	return nil
}

func (f *fake) Register(_ context.Context, lease int64, regs ...discovery.Registration) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if _, ok := f.leases[lease]; !ok {
		return fmt.Errorf("register: %w", sdk.ErrLeaseNotFound)
	}
	var errs []error
	f.writes++
	for _, reg := range regs {
		ref := reg.Instance.Ref()
		if old, ok := f.recs[ref]; ok && old.Lease != lease && (old.Instance.Owner != reg.Instance.Owner || old.Instance.Epoch > reg.Instance.Epoch) {
			errs = append(errs, &discovery.ConflictError{Ref: ref, Owner: old.Instance.Owner})
			continue
		}
		f.rev++
		rec := discovery.Record{Ref: ref, Instance: reg.Instance, Rev: f.rev, Lease: lease}
		if reg.Health != nil {
			h := *reg.Health
			rec.Health, rec.HealthLease = &h, lease
		}
		f.recs[ref] = rec
	}
	return errors.Join(errs...)
}

func (f *fake) SetHealth(_ context.Context, lease int64, health map[discovery.Ref]discovery.Health) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.mu.Unlock()
	for ref := range health {
		if f.recs[ref].Lease != lease {
			return discovery.ErrNotHeld
		}
	}
	f.writes++
	for ref, h := range health {
		rec := f.recs[ref]
		rec.Health, rec.HealthLease = &h, lease
		f.recs[ref] = rec
		f.health = append(f.health, fmt.Sprintf("%s=%v", ref.ID, h.Status))
	}
	return nil
}

func (f *fake) Deregister(_ context.Context, lease int64, refs ...discovery.Ref) error {
	if err := f.enter(); err != nil {
		return err
	}
	defer f.mu.Unlock()
	f.writes++
	for _, ref := range refs {
		if f.recs[ref].Lease == lease {
			delete(f.recs, ref)
		}
	}
	return nil
}

func (f *fake) Fetch(_ context.Context, refs ...discovery.Ref) (map[discovery.Ref]discovery.Record, error) {
	if err := f.enter(); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	out := map[discovery.Ref]discovery.Record{}
	for _, ref := range refs {
		if rec, ok := f.recs[ref]; ok {
			out[ref] = rec
		}
	}
	return out, nil
}

// set changes the store from outside.
func (f *fake) set(fn func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn(f)
}

// view renders what a client of the store would see now.
func (f *fake) view() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for ref, rec := range f.recs {
		if at, ok := f.leases[rec.Lease]; rec.Lease != 0 && (!ok || !at.After(time.Now())) {
			continue
		}
		out = append(out, fmt.Sprintf("%s %v", ref, discovery.Effective(&rec.Instance, rec.Health)))
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

func (f *fake) snapshot() map[discovery.Ref]discovery.Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.recs)
}
