package catalog

import (
	"context"
	"iter"

	"github.com/musterhq/muster/discovery"
	"github.com/musterhq/muster/sdk"
)

// Source is what the catalog needs of the store. Open makes one of a client; tests script their own.
type Source interface {
	// List calls fn for every key under /muster/v1/, in key order, all as of one revision, which it returns. After an
	// error fn may have been called for a part.
	List(ctx context.Context, fn func(sdk.KV)) (int64, error)
	// Watch yields what happens under /muster/v1/ from revision rev on, in order, resuming by itself after a loss of
	// connection. It ends with an error, sdk.ErrCompacted if the history from rev on is gone.
	Watch(ctx context.Context, rev int64) iter.Seq2[sdk.WatchBatch, error]
	// Revision asks a quorum for the store's present revision: a sign of life.
	Revision(ctx context.Context) (int64, error)
}

type clientSource struct{ client *sdk.Client }

// page is how many keys are asked for at once: small enough for any message limit, large enough that a hundred
// thousand instances take a hundred calls.
const page = 2000

func (s clientSource) List(ctx context.Context, fn func(sdk.KV)) (int64, error) {
	start, end := discovery.Prefix, discovery.Prefix[:len(discovery.Prefix)-1]+"0" // '0' follows '/'
	var rev int64
	for {
		opts := []sdk.Option{sdk.WithRange(end), sdk.WithLimit(page)}
		if rev != 0 {
			opts = append(opts, sdk.WithRev(rev))
		}
		r, err := s.client.Get(ctx, start, opts...)
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = r.Header.Revision
		}
		for _, kv := range r.KVs {
			fn(kv)
		}
		if !r.More || len(r.KVs) == 0 {
			return rev, nil
		}
		start = r.KVs[len(r.KVs)-1].Key + "\x00"
	}
}

func (s clientSource) Watch(ctx context.Context, rev int64) iter.Seq2[sdk.WatchBatch, error] {
	return s.client.Watch(ctx, discovery.Prefix, sdk.WithPrefix(), sdk.WithRev(rev), sdk.WithProgressNotify(), sdk.WithRequireLeader())
}

func (s clientSource) Revision(ctx context.Context) (int64, error) {
	r, err := s.client.Get(ctx, discovery.Prefix, sdk.WithKeysOnly())
	return r.Header.Revision, err
}
