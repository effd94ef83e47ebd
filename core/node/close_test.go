package node

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/replica"
)

// A compaction's physical work may be that of millions of versions, and a next
// start begins without any of them.
func TestClosingDoesNotWaitForWhatACompactionLeftToDo(t *testing.T) {
	m := newCluster(t, 1)[0]
	txn := &pb.TxnRequest{}
	for i := range 128 {
		put := &pb.PutRequest{Key: []byte{byte(i)}, Value: make([]byte, 16)}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	body, err := proto.Marshal(txn)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 * backgroundStep / 128 {
		if _, err := m.Propose(t.Context(), machine.Txn, body, "", 0); err != nil {
			t.Fatal(err)
		}
	}
	m.shutdown(ErrStopped)
	m.wg.Wait()

	v := m.View()
	compact, err := proto.Marshal(&pb.CompactionRequest{Revision: v.KV.Rev()})
	if err != nil {
		t.Fatal(err)
	}
	command := (&machine.Command{Kind: machine.Compact, Body: compact}).AppendTo(nil)
	if res := m.applier.Machine.Apply(v.Index+1, v.Term, command, false); res.Err != nil {
		t.Fatal(res.Err)
	}
	m.applier.Machine.EndEntry(v.Index+1, v.Term)
	m.apply = newQueue[*replica.ApplyTask]()
	m.apply.push(&replica.ApplyTask{})
	m.apply.close()
	m.runApply()
	if !m.Background(1) {
		t.Error("all of it was done first")
	}
}
