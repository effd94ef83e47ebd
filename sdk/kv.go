package sdk

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (r *request) put() *pb.PutRequest {
	return &pb.PutRequest{
		Key: r.key, Value: r.value, Lease: r.lease, PrevKv: r.prevKV,
		IgnoreValue: r.ignoreValue, IgnoreLease: r.ignoreLease,
	}
}

func (r *request) get() *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: r.key, RangeEnd: r.end, Revision: r.rev, Limit: r.limit, Serializable: r.serializable,
		KeysOnly: r.keysOnly, CountOnly: r.countOnly,
		SortTarget: pb.RangeRequest_SortTarget(r.sortTarget), SortOrder: pb.RangeRequest_SortOrder(r.sortOrder),
		MinModRevision: r.minMod, MaxModRevision: r.maxMod, MinCreateRevision: r.minCreate, MaxCreateRevision: r.maxCreate,
	}
}

func (r *request) delete() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: r.key, RangeEnd: r.end, PrevKv: r.prevKV}
}

// Put sets key to value. It is repeated only if it certainly wasn't executed.
func (c *Client) Put(ctx context.Context, key string, value []byte, opts ...Option) (PutResult, error) {
	r, err := newRequest(onPut, key, value, opts)
	if err != nil {
		return PutResult{}, err
	}
	resp, err := pb.NewKVClient(c.conn).Put(ctx, r.put())
	if err != nil {
		return PutResult{}, err
	}
	return putResult(resp), nil
}

// Get reads a key or a range: the latest revision, agreed by the quorum, unless options say otherwise.
func (c *Client) Get(ctx context.Context, key string, opts ...Option) (GetResult, error) {
	r, err := newRequest(onGet, key, nil, opts)
	if err != nil {
		return GetResult{}, err
	}
	if r.requireLeader {
		ctx = withRequireLeader(ctx)
	}
	resp, err := pb.NewKVClient(c.conn).Range(ctx, r.get())
	if err != nil {
		return GetResult{}, err
	}
	return getResult(resp), nil
}

// Delete removes a key or a range.
func (c *Client) Delete(ctx context.Context, key string, opts ...Option) (DeleteResult, error) {
	r, err := newRequest(onDelete, key, nil, opts)
	if err != nil {
		return DeleteResult{}, err
	}
	resp, err := pb.NewKVClient(c.conn).DeleteRange(ctx, r.delete())
	if err != nil {
		return DeleteResult{}, err
	}
	return deleteResult(resp), nil
}

// Compact drops the history before rev.
func (c *Client) Compact(ctx context.Context, rev int64, opts ...Option) error {
	r, err := newRequest(onCompact, "", nil, opts)
	if err != nil {
		return err
	}
	_, err = pb.NewKVClient(c.conn).Compact(ctx, &pb.CompactionRequest{Revision: rev, Physical: r.physical})
	return err
}
