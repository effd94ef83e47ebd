package rpc

import (
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/tap"
)

func TestWritesAreRefusedAtTheDoorWhileThereIsNoRoom(t *testing.T) {
	m, err := newMetrics(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	methods := map[string]*method{}
	for _, row := range methodTable() {
		r := m.resolve(row)
		methods[r.full] = r
	}
	free := 2
	a := newAdmission(func() (int, int) { return free, 10 }, methods)
	try := func(method string) error {
		_, err := a.tap(t.Context(), &tap.Info{FullMethodName: method})
		return err
	}
	for range 2 {
		if err := try(pb.KV_Put_FullMethodName); err != nil {
			t.Fatalf("there is room: %v", err)
		}
	}
	// Two are on their way in, and have not taken their room yet.
	for _, method := range []string{pb.KV_Put_FullMethodName, pb.KV_Txn_FullMethodName, pb.KV_DeleteRange_FullMethodName} {
		if err := try(method); !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
			t.Errorf("%s: %v; want too many requests", method, err)
		}
	}
	for _, method := range []string{
		pb.Lease_LeaseKeepAlive_FullMethodName, pb.Lease_LeaseRevoke_FullMethodName, pb.KV_Range_FullMethodName,
		pb.Watch_Watch_FullMethodName, pb.Maintenance_Status_FullMethodName, pb.KV_Compact_FullMethodName,
	} {
		if err := try(method); err != nil {
			t.Errorf("%s: %v; want it let in", method, err)
		}
	}
	// One has begun and taken its room, the other one's client has gone.
	a.begin(pb.KV_Put_FullMethodName)
	if free = 1; try(pb.KV_Put_FullMethodName) == nil {
		t.Error("one is still on its way, and has the last room")
	}
	if a.settle(); try(pb.KV_Put_FullMethodName) == nil {
		t.Error("settled while the member was busy")
	}
	free = 9
	if a.settle(); a.coming() != 0 {
		t.Errorf("%d are still coming after a quiet time", a.coming())
	}
}

func TestSlowRequestsAreLoggedUpToABudget(t *testing.T) {
	var b logBudget
	now := time.Unix(1000, 0)
	n := 0
	for i := range 1000 {
		if b.spend(now.Add(time.Duration(i) * time.Millisecond)) {
			n++
		}
	}
	if n != slowLogged || !b.spend(now.Add(time.Second)) {
		t.Errorf("%d lines in a second, want %d, and more in the next", n, slowLogged)
	}
}
