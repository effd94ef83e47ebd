package chaos

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/sdk"
)

// reading is a key as it was read; the zero value is an absent key.
type reading struct {
	value string
	mod   int64
}

// store is what the clients ask for, through either client library.
type store interface {
	put(ctx context.Context, key, value string) (rev int64, err error)
	// pair puts one value under two keys, at once.
	pair(ctx context.Context, a, b, value string) (rev int64, err error)
	get(ctx context.Context, key string, serializable bool) (rev int64, r reading, err error)
	del(ctx context.Context, key string) (rev int64, deleted bool, err error)
	// cas replaces what has the mod revision, or reads what is there instead.
	cas(ctx context.Context, key string, mod int64, value string) (rev int64, won bool, r reading, err error)
	// refused tells that the error means that nothing has happened nor will.
	refused(err error) bool
}

// etcdStore is etcd's official client.
type etcdStore struct{ *clientv3.Client }

func (s etcdStore) put(ctx context.Context, key, value string) (int64, error) {
	r, err := s.Put(ctx, key, value)
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

func (s etcdStore) pair(ctx context.Context, a, b, value string) (int64, error) {
	r, err := s.Txn(ctx).Then(clientv3.OpPut(a, value), clientv3.OpPut(b, value)).Commit()
	if err != nil {
		return 0, err
	}
	return r.Header.Revision, nil
}

func etcdReading(r *clientv3.GetResponse) reading {
	if len(r.Kvs) == 0 {
		return reading{}
	}
	return reading{digest(r.Kvs[0].Value), r.Kvs[0].ModRevision}
}

func (s etcdStore) get(ctx context.Context, key string, serializable bool) (int64, reading, error) {
	var opts []clientv3.OpOption
	if serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	r, err := s.Get(ctx, key, opts...)
	if err != nil {
		return 0, reading{}, err
	}
	return r.Header.Revision, etcdReading(r), nil
}

func (s etcdStore) del(ctx context.Context, key string) (int64, bool, error) {
	r, err := s.Delete(ctx, key)
	if err != nil {
		return 0, false, err
	}
	return r.Header.Revision, r.Deleted > 0, nil
}

func (s etcdStore) cas(ctx context.Context, key string, mod int64, value string) (int64, bool, reading, error) {
	r, err := s.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", mod)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err != nil || r.Succeeded {
		return revision(r), err == nil, reading{}, err
	}
	return r.Header.Revision, false, etcdReading((*clientv3.GetResponse)(r.Responses[0].GetResponseRange())), nil
}

func revision(r *clientv3.TxnResponse) int64 {
	if r == nil {
		return 0
	}
	return r.Header.Revision
}

// refused: etcd's client knows less than ours, but "no leader" is promised to
// be said only before anything was proposed.
func (s etcdStore) refused(err error) bool { return errors.Is(err, rpctypes.ErrNoLeader) }

// ownStore is Muster's SDK.
type ownStore struct{ *sdk.Client }

func (s ownStore) put(ctx context.Context, key, value string) (int64, error) {
	r, err := s.Put(ctx, key, []byte(value))
	return r.Header.Revision, err
}

func (s ownStore) pair(ctx context.Context, a, b, value string) (int64, error) {
	r, err := s.Txn(ctx, sdk.Txn{Then: []sdk.Op{sdk.OpPut(a, []byte(value)), sdk.OpPut(b, []byte(value))}})
	return r.Header.Revision, err
}

func ownReading(r sdk.GetResult) reading {
	kv, ok := r.First()
	if !ok {
		return reading{}
	}
	return reading{digest(kv.Value), kv.ModRevision}
}

func (s ownStore) get(ctx context.Context, key string, serializable bool) (int64, reading, error) {
	var opts []sdk.Option
	if serializable {
		opts = append(opts, sdk.WithSerializable())
	}
	r, err := s.Get(ctx, key, opts...)
	return r.Header.Revision, ownReading(r), err
}

func (s ownStore) del(ctx context.Context, key string) (int64, bool, error) {
	r, err := s.Delete(ctx, key)
	return r.Header.Revision, r.Deleted > 0, err
}

func (s ownStore) cas(ctx context.Context, key string, mod int64, value string) (int64, bool, reading, error) {
	r, err := s.Txn(ctx, sdk.Txn{
		If:   []sdk.Cmp{sdk.CmpMod(key, "=", mod)},
		Then: []sdk.Op{sdk.OpPut(key, []byte(value))}, Else: []sdk.Op{sdk.OpGet(key)},
	})
	if err != nil || r.Succeeded {
		return r.Header.Revision, err == nil, reading{}, err
	}
	return r.Header.Revision, false, ownReading(*r.Results[0].Get), nil
}

func (s ownStore) refused(err error) bool { return !errors.Is(err, sdk.ErrUnknownOutcome) }

func (c *cluster) sdkClient(timeout time.Duration, endpoints ...string) *sdk.Client {
	cl, err := sdk.Open(c.ctx, sdk.Config{Endpoints: endpoints, Timeout: timeout})
	if err != nil {
		c.t.Fatal(err)
	}
	c.opened(cl)
	return cl
}
