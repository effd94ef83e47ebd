package sdk

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// KV is one version of a key. Revisions count from 1; Version counts from 1 since the key was last created; Lease is 0
// for none.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision int64
	ModRevision    int64
	Version        int64
	Lease          int64
}

// Header tells who answered and at which revision its store was.
type Header struct {
	ClusterID, MemberID uint64
	Revision            int64
	RaftTerm            uint64
}

// PutResult answers a put. Prev is nil unless WithPrevKV was given and the key existed.
type PutResult struct {
	Header Header
	Prev   *KV
}

// GetResult answers a get. Count is the number of keys in the range whatever the limit; More tells that the limit cut.
type GetResult struct {
	Header Header
	KVs    []KV
	Count  int64
	More   bool
}

// First returns the first key, if there is any.
func (r GetResult) First() (KV, bool) {
	if len(r.KVs) == 0 {
		return KV{}, false
	}
	return r.KVs[0], true
}

// DeleteResult answers a delete. Prev is filled only WithPrevKV.
type DeleteResult struct {
	Header  Header
	Deleted int64
	Prev    []KV
}

// TxnResult answers a transaction. Results has one entry for each Op of the branch that ran.
type TxnResult struct {
	Header    Header
	Succeeded bool
	Results   []OpResult
}

// OpResult holds exactly one non-nil result, that of the Op at the same place.
type OpResult struct {
	Put    *PutResult
	Get    *GetResult
	Delete *DeleteResult
	Txn    *TxnResult
}

func kvFrom(kv *mvccpb.KeyValue) KV {
	return KV{
		Key: string(kv.GetKey()), Value: kv.GetValue(), CreateRevision: kv.GetCreateRevision(),
		ModRevision: kv.GetModRevision(), Version: kv.GetVersion(), Lease: kv.GetLease(),
	}
}

func kvPointer(kv *mvccpb.KeyValue) *KV {
	if kv == nil {
		return nil
	}
	out := kvFrom(kv)
	return &out
}

func kvsFrom(kvs []*mvccpb.KeyValue) []KV {
	if len(kvs) == 0 {
		return nil
	}
	out := make([]KV, len(kvs))
	for i, kv := range kvs {
		out[i] = kvFrom(kv)
	}
	return out
}

func headerFrom(h *pb.ResponseHeader) Header {
	return Header{ClusterID: h.GetClusterId(), MemberID: h.GetMemberId(), Revision: h.GetRevision(), RaftTerm: h.GetRaftTerm()}
}

func putResult(r *pb.PutResponse) PutResult {
	return PutResult{Header: headerFrom(r.GetHeader()), Prev: kvPointer(r.GetPrevKv())}
}

func getResult(r *pb.RangeResponse) GetResult {
	return GetResult{Header: headerFrom(r.GetHeader()), KVs: kvsFrom(r.GetKvs()), Count: r.GetCount(), More: r.GetMore()}
}

func deleteResult(r *pb.DeleteRangeResponse) DeleteResult {
	return DeleteResult{Header: headerFrom(r.GetHeader()), Deleted: r.GetDeleted(), Prev: kvsFrom(r.GetPrevKvs())}
}

func txnResult(r *pb.TxnResponse) TxnResult {
	out := TxnResult{Header: headerFrom(r.GetHeader()), Succeeded: r.GetSucceeded(), Results: make([]OpResult, 0, len(r.GetResponses()))}
	for _, op := range r.GetResponses() {
		out.Results = append(out.Results, opResult(op, out.Header))
	}
	return out
}

// opResult gives every part the transaction's full header: members fill only the revision in the inner ones.
func opResult(op *pb.ResponseOp, h Header) OpResult {
	switch v := op.GetResponse().(type) {
	case *pb.ResponseOp_ResponsePut:
		r := putResult(v.ResponsePut)
		r.Header = h
		return OpResult{Put: &r}
	case *pb.ResponseOp_ResponseRange:
		r := getResult(v.ResponseRange)
		r.Header = h
		return OpResult{Get: &r}
	case *pb.ResponseOp_ResponseDeleteRange:
		r := deleteResult(v.ResponseDeleteRange)
		r.Header = h
		return OpResult{Delete: &r}
	case *pb.ResponseOp_ResponseTxn:
		r := txnResult(v.ResponseTxn)
		r.Header = h
		return OpResult{Txn: &r}
	}
	return OpResult{}
}
