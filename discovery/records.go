package discovery

import (
	"context"
	"errors"

	"github.com/musterhq/muster/sdk"
)

// Record is a registration as it is stored.
type Record struct {
	Ref      Ref
	Instance Instance
	// Health is nil if there is no health key.
	Health *Health
	// Rev and Lease are the instance key's, HealthLease the health key's.
	Rev, Lease, HealthLease int64
	// Err tells why Instance or Health couldn't be decoded; nil if both could.
	Err error
}

func record(ref Ref, in, health *sdk.GetResult) Record {
	rec := Record{Ref: ref}
	if in != nil {
		if kv, ok := in.First(); ok {
			rec.Rev, rec.Lease = kv.ModRevision, kv.Lease
			rec.Instance, rec.Err = DecodeInstance(ref, kv.Value)
		}
	}
	if health != nil {
		if kv, ok := health.First(); ok {
			rec.setHealth(kv)
		}
	}
	return rec
}

func (rec *Record) setHealth(kv sdk.KV) {
	rec.HealthLease = kv.Lease
	h, err := DecodeHealth(rec.Ref, kv.Value)
	if err != nil {
		rec.Err = errors.Join(rec.Err, err)
		h = Health{Status: StatusUnknown}
	}
	rec.Health = &h
}

// Fetch reads the records of the given instances in as few transactions as fit. Instances without a record and without
// health are left out.
func (r *Registry) Fetch(ctx context.Context, refs ...Ref) (map[Ref]Record, error) {
	out := make(map[Ref]Record, len(refs))
	for len(refs) > 0 {
		n := min(len(refs), max(1, r.cfg.MaxOps/opsPerWrite))
		t := sdk.Txn{}
		for _, ref := range refs[:n] {
			t.Then = append(t.Then, sdk.OpGet(ref.InstanceKey()), sdk.OpGet(ref.HealthKey()))
		}
		res, err := r.cfg.Store.Txn(ctx, t)
		if err != nil {
			return nil, err
		}
		for k, ref := range refs[:n] {
			if rec := record(ref, res.Results[2*k].Get, res.Results[2*k+1].Get); rec.Rev != 0 || rec.Health != nil {
				out[ref] = rec
			}
		}
		refs = refs[n:]
	}
	return out, nil
}

// Get reads one instance and reports whether there is one.
func (r *Registry) Get(ctx context.Context, ref Ref) (Record, bool, error) {
	recs, err := r.Fetch(ctx, ref)
	rec := recs[ref]
	return rec, rec.Rev != 0, err
}

// listPage is how many keys List asks for at once.
const listPage = 1000

// List reads the instances of one service, of a namespace (svc empty) or of all (both empty), sorted by namespace,
// service and id, all as of the returned revision. Values that can't be decoded are in, with Err set.
func (r *Registry) List(ctx context.Context, ns, svc string) ([]Record, int64, error) {
	var out []Record
	at := map[Ref]int{}
	rev, err := r.scan(ctx, instancesPrefix(instancePrefix, ns, svc), 0, func(ref Ref, kv sdk.KV) {
		rec := Record{Ref: ref, Rev: kv.ModRevision, Lease: kv.Lease}
		rec.Instance, rec.Err = DecodeInstance(ref, kv.Value)
		at[ref] = len(out)
		out = append(out, rec)
	})
	if err != nil {
		return nil, 0, err
	}
	_, err = r.scan(ctx, instancesPrefix(healthPrefix, ns, svc), rev, func(ref Ref, kv sdk.KV) {
		if k, ok := at[ref]; ok {
			out[k].setHealth(kv)
		}
	})
	return out, rev, err
}

// scan reads a prefix page by page at one revision, the present one if rev is 0.
func (r *Registry) scan(ctx context.Context, prefix string, rev int64, fn func(Ref, sdk.KV)) (int64, error) {
	start, end := prefix, prefix[:len(prefix)-1]+"0" // '0' follows '/'
	for {
		res, err := r.cfg.Store.Get(ctx, start, sdk.WithRange(end), sdk.WithLimit(listPage), sdk.WithRev(rev))
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = res.Header.Revision
		}
		for _, kv := range res.KVs {
			if _, ref, err := ParseKey(kv.Key); err == nil {
				fn(ref, kv)
			}
		}
		if !res.More || len(res.KVs) == 0 {
			return rev, nil
		}
		start = res.KVs[len(res.KVs)-1].Key + "\x00"
	}
}

// GetService reads a service's policy and reports whether there is one.
func (r *Registry) GetService(ctx context.Context, ns, name string) (Service, bool, error) {
	res, err := r.cfg.Store.Get(ctx, ServiceKey(ns, name))
	if err != nil {
		return Service{}, false, err
	}
	kv, ok := res.First()
	if !ok {
		return Service{}, false, nil
	}
	s, err := DecodeService(ns, name, kv.Value)
	return s, true, err
}
