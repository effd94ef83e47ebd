package node

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
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

// slowToSay takes its time to log that a checkpoint is being sent.
type slowToSay struct {
	slog.Handler
	said *atomic.Bool
}

func (h slowToSay) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "sending a checkpoint to") {
		<-time.After(200 * time.Millisecond)
		h.said.Store(true)
	}
	return nil
}
func (h slowToSay) Enabled(context.Context, slog.Level) bool { return true }

func TestClosingWaitsForACheckpointThatTheLoopBeganToSendAtThatMoment(t *testing.T) {
	var said atomic.Bool
	m := newClusterOn(t, 1, func(c *Config) { c.Logger = slog.New(slowToSay{slog.DiscardHandler, &said}) })[0]
	n := m.Node
	begun := make(chan struct{})
	n.inbox.post(event{call: func(*Stepper) {
		close(begun)
		<-n.ctx.Done()                      // closing has begun,
		<-time.After(50 * time.Millisecond) // and waits for this loop
		snap, err := n.describe()
		if err != nil {
			t.Error(err)
			return
		}
		n.sendSnapshot(&raftpb.Message{To: new(uint64), Snapshot: snap})
	}})
	<-begun // a loop that finds closing begun carries out nothing more
	m.stop(t)
	if !said.Load() {
		t.Error("closed while it was still being sent")
	}
}
