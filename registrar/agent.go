package registrar

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

// agent holds the lease and carries out plans. All of it belongs to one goroutine.
type agent struct {
	store  Store
	file   *leaseFile
	logger *slog.Logger
	random func() float64
	ttl    time.Duration
	owner  string
	epoch  uint64

	lease   int64
	granted time.Duration // what the store made of ttl
	renewAt time.Time
	stored  map[discovery.Ref]held
	known   bool // stored is what the store says; otherwise everything is read anew first
	resync  time.Time
	blocked map[discovery.Ref]bool
	adopted map[discovery.Ref]bool
	tallies map[discovery.Ref]*tally
	later   time.Time // when held-back health may be written

	failures int
	retryAt  time.Time
	lastErr  error
}

// resyncEvery is how often everything is read anew although nothing seems wrong.
const resyncEvery = 60 * time.Second

// remember takes over what the lease file says. The lease is tried before another is granted.
func (a *agent) remember(m memory) {
	if id := m.id(); id != 0 {
		a.lease, a.granted = id, a.ttl
		a.save(id) // with the new epoch
	}
}

// timeout bounds one call, so that several fit between two renewals.
func (a *agent) timeout() time.Duration {
	return min(5*time.Second, max(time.Second, a.ttl/6))
}

func (a *agent) call(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout())
	defer cancel()
	return fn(ctx)
}

// step does what is due and returns when it wants to be called again; wishes is asked for what should be stored, after
// the lease is certain. A failure is remembered, and nothing is tried before the backoff has passed.
func (a *agent) step(ctx context.Context, wishes func() map[discovery.Ref]wish, now func() time.Time) (next time.Time, done bool) {
	if t := now(); a.retryAt.After(t) {
		return a.retryAt, false
	}
	err := a.work(ctx, wishes, now)
	if ctx.Err() != nil {
		return now(), false
	}
	if err != nil {
		a.failures++
		if a.failures == 1 || err.Error() != errorText(a.lastErr) {
			a.logger.Warn("registration failed; trying again", "error", err, "failures", a.failures)
		}
		a.lastErr = err
		a.known = false // at the reconnect everything is read anew
		limit := min(maxBackoff, a.ttl/3)
		a.retryAt = now().Add(backoff(a.failures, limit, a.random()))
		return a.retryAt, false
	}
	if a.failures > 0 {
		a.logger.Info("registration works again", "failures", a.failures)
	}
	a.failures, a.lastErr = 0, nil
	next = a.renewAt
	if a.resync.Before(next) {
		next = a.resync
	}
	if !a.later.IsZero() && a.later.Before(next) {
		next = a.later
	}
	return next, true
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// work renews, reads and writes as is due. Losing the lease on the way starts it over once: a new one is granted and
// everything put under it.
func (a *agent) work(ctx context.Context, wishes func() map[discovery.Ref]wish, now func() time.Time) error {
	for attempt := 0; ; attempt++ {
		err := a.hold(ctx, now)
		if err == nil {
			err = a.reconcile(ctx, wishes(), now)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, sdk.ErrLeaseNotFound):
			a.logger.Warn("lease is gone; registering anew", "lease", a.lease)
			a.lease = 0
		case errors.Is(err, discovery.ErrNotHeld):
			a.known = false
		default:
			return err
		}
		if attempt == 2 {
			return err
		}
	}
}

// hold makes sure of a live lease: grants one if there is none, renews one that is due.
func (a *agent) hold(ctx context.Context, now func() time.Time) error {
	if a.lease == 0 {
		a.stored, a.known = map[discovery.Ref]held{}, false
		var l sdk.Lease
		sent := now()
		if err := a.call(ctx, func(ctx context.Context) (err error) {
			l, err = a.store.Grant(ctx, a.ttl)
			return err
		}); err != nil {
			return err
		}
		// The file first: a lease that nothing remembers must hold nothing.
		a.save(l.ID)
		a.lease, a.granted = l.ID, l.TTL
		a.renewAt = sent.Add(renewAfter(l.TTL, a.random()))
		a.logger.Info("lease granted", "lease", l.ID, "ttl", l.TTL)
		return nil
	}
	if now().Before(a.renewAt) {
		return nil
	}
	sent := now()
	if err := a.call(ctx, func(ctx context.Context) error {
		l, err := a.store.KeepAlive(ctx, a.lease)
		if err == nil && l.TTL > 0 {
			a.granted = l.TTL
		}
		return err
	}); err != nil {
		return err
	}
	a.renewAt = sent.Add(renewAfter(a.granted, a.random()))
	if !a.known {
		return nil // everything is about to be read
	}
	return a.verify(ctx)
}

// verify asks which keys the lease holds. One RPC tells of keys that someone deleted or took over.
func (a *agent) verify(ctx context.Context) error {
	var keys []string
	if err := a.call(ctx, func(ctx context.Context) (err error) {
		keys, err = a.store.Keys(ctx, a.lease)
		return err
	}); err != nil {
		return err
	}
	have := make(map[string]bool, len(keys))
	for _, k := range keys {
		have[k] = true
	}
	want := 0
	for ref, h := range a.stored {
		want++
		missing := !have[ref.InstanceKey()]
		if h.health != nil {
			want++
			missing = missing || !have[ref.HealthKey()]
		}
		if missing {
			a.logger.Warn("a registration is missing from the store; reading everything anew", "instance", ref.String())
			a.known = false
			return nil
		}
	}
	if registryKeys(keys) != want {
		a.known = false
	}
	return nil
}

func registryKeys(keys []string) (n int) {
	for _, k := range keys {
		if kind, _, err := discovery.ParseKey(k); err == nil && (kind == discovery.KindInstance || kind == discovery.KindHealth) {
			n++
		}
	}
	return n
}

// reconcile carries out the difference between what is wished and what is stored.
func (a *agent) reconcile(ctx context.Context, wishes map[discovery.Ref]wish, now func() time.Time) error {
	records := map[discovery.Ref]discovery.Record{}
	if !a.known || !now().Before(a.resync) {
		var err error
		if records, err = a.read(ctx, wishes); err != nil {
			return err
		}
		a.resync = now().Add(time.Duration(float64(resyncEvery) * (0.9 + 0.2*a.random())))
	}
	p := diff(wishes, a.stored, a.blocked, now())
	a.later = p.later
	if len(p.deregister) > 0 {
		if err := a.bulk(ctx, len(p.deregister), func(ctx context.Context) error { return a.store.Deregister(ctx, a.lease, p.deregister...) }); err != nil {
			return err
		}
		for _, ref := range p.deregister {
			delete(a.stored, ref)
			a.logger.Info("deregistered", "instance", ref.String())
		}
	}
	if err := a.register(ctx, wishes, p.register, records); err != nil {
		return err
	}
	return a.setHealth(ctx, wishes, p.health, now)
}

// bulk is call for something that takes a transaction for every fifty instances.
func (a *agent) bulk(ctx context.Context, n int, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout()+time.Duration(n/50)*100*time.Millisecond)
	defer cancel()
	return fn(ctx)
}

// read finds out what is stored: the records of everything wished, and whatever else the lease holds.
func (a *agent) read(ctx context.Context, wishes map[discovery.Ref]wish) (map[discovery.Ref]discovery.Record, error) {
	var keys []string
	if err := a.call(ctx, func(ctx context.Context) (err error) {
		keys, err = a.store.Keys(ctx, a.lease)
		return err
	}); err != nil {
		return nil, err
	}
	refs := make(map[discovery.Ref]bool, len(wishes))
	for ref := range wishes {
		refs[ref] = true
	}
	for _, k := range keys {
		if kind, ref, err := discovery.ParseKey(k); err == nil && (kind == discovery.KindInstance || kind == discovery.KindHealth) {
			refs[ref] = true
		}
	}
	var records map[discovery.Ref]discovery.Record
	if err := a.bulk(ctx, len(refs), func(ctx context.Context) (err error) {
		records, err = a.store.Fetch(ctx, sortedRefs(refs)...)
		return err
	}); err != nil {
		return nil, err
	}
	stored := make(map[discovery.Ref]held, len(records))
	for ref, rec := range records {
		h, ok := fromRecord(rec, a.lease)
		if _, wished := wishes[ref]; !ok && !wished && rec.HealthLease == a.lease {
			stored[ref] = held{} // health without an instance: to be removed
		}
		if !ok {
			continue
		}
		if old, ok := a.stored[ref]; ok {
			h.wrote = old.wrote
		} else if a.tallies[ref] == nil || !a.tallies[ref].opened {
			a.adopted[ref] = true
		}
		stored[ref] = h
	}
	a.stored, a.known, a.blocked = stored, true, map[discovery.Ref]bool{}
	return records, nil
}

func (a *agent) register(
	ctx context.Context, wishes map[discovery.Ref]wish, refs []discovery.Ref, records map[discovery.Ref]discovery.Record,
) error {
	if len(refs) == 0 {
		return nil
	}
	regs := make([]discovery.Registration, 0, len(refs))
	for _, ref := range refs {
		reg := discovery.Registration{Instance: wishes[ref].instance, Health: wishes[ref].health}
		if rec, ok := records[ref]; ok {
			reg.Prev = &rec
		}
		regs = append(regs, reg)
	}
	err := a.bulk(ctx, len(regs), func(ctx context.Context) error { return a.store.Register(ctx, a.lease, regs...) })
	conflicts, rest := discovery.Conflicts(err)
	for _, c := range conflicts {
		a.blocked[c.Ref] = true
		delete(a.stored, c.Ref)
		a.logger.Error("instance can't be registered", "error", c)
	}
	if rest != nil {
		return rest
	}
	for _, ref := range refs {
		if a.blocked[ref] {
			continue
		}
		w := wishes[ref]
		_, again := a.stored[ref]
		a.stored[ref] = held{encoded: string(w.instance.EncodeKnown()), health: w.health}
		if !again {
			a.logger.Info("registered", "instance", ref.String(), "endpoints", len(w.instance.Endpoints))
		}
	}
	return nil
}

func (a *agent) setHealth(ctx context.Context, wishes map[discovery.Ref]wish, refs []discovery.Ref, now func() time.Time) error {
	if len(refs) == 0 {
		return nil
	}
	health := make(map[discovery.Ref]discovery.Health, len(refs))
	for _, ref := range refs {
		health[ref] = *wishes[ref].health
	}
	if err := a.bulk(ctx, len(refs), func(ctx context.Context) error { return a.store.SetHealth(ctx, a.lease, health) }); err != nil {
		return err
	}
	for _, ref := range refs {
		h := a.stored[ref]
		h.health, h.wrote = wishes[ref].health, now()
		a.stored[ref] = h
	}
	return nil
}

// leave deregisters and ends the lease. What can't be done in time, the lease's end does.
func (a *agent) leave(ctx context.Context) error {
	if a.lease == 0 {
		return nil
	}
	err := a.store.Deregister(ctx, a.lease, sortedRefs(a.stored)...)
	if rerr := a.store.Revoke(ctx, a.lease); rerr != nil && !errors.Is(rerr, sdk.ErrLeaseNotFound) {
		return errors.Join(err, rerr)
	}
	a.save(0)
	a.lease, a.stored = 0, map[discovery.Ref]held{}
	return err
}

// save notes the lease in the file. A file that can't be written doesn't keep the services from being registered.
func (a *agent) save(lease int64) {
	m := memory{Epoch: a.epoch, Owner: a.owner}
	if lease != 0 {
		m.Lease = hex(lease)
	}
	if err := a.file.save(m); err != nil {
		a.logger.Error("lease file can't be written; after a crash the lease won't be adopted", "error", err)
	}
}
