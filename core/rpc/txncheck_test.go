package rpc

import (
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

func opGet(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func opDel(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

func opTxn(then, otherwise []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: then, Failure: otherwise}}}
}

func ops(o ...*pb.RequestOp) []*pb.RequestOp { return o }

func TestTxnsThatWriteAKeyTwiceAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		ops  []*pb.RequestOp
		want error
	}{
		{"two keys", ops(opPut("a"), opPut("b")), nil},
		{"put twice", ops(opPut("a"), opPut("a")), rpctypes.ErrGRPCDuplicateKey},
		{"put and read", ops(opPut("a"), opGet("a"), opGet("a")), nil},
		{"put and deleted", ops(opPut("a"), opDel("a", "")), rpctypes.ErrGRPCDuplicateKey},
		{"put inside a deleted range", ops(opDel("a", "c"), opPut("b")), rpctypes.ErrGRPCDuplicateKey},
		{"put at the end of a deleted range", ops(opDel("a", "c"), opPut("c")), nil},
		{"put after the start of an open deletion", ops(opDel("a", "\x00"), opPut("zz")), rpctypes.ErrGRPCDuplicateKey},
		{"put beside an empty deletion", ops(opDel("b", "a"), opPut("b")), nil},
		{"overlapping deletions", ops(opDel("a", "c"), opDel("b", "d")), nil},
		{"put in both branches", ops(opTxn(ops(opPut("a")), ops(opPut("a")))), nil},
		{"put in a branch and beside it", ops(opTxn(ops(opPut("a")), nil), opPut("a")), rpctypes.ErrGRPCDuplicateKey},
		{"put in the other branch and beside it", ops(opPut("a"), opTxn(nil, ops(opPut("a")))), rpctypes.ErrGRPCDuplicateKey},
		{"put in two nested txns", ops(opTxn(ops(opPut("a")), nil), opTxn(nil, ops(opPut("a")))), rpctypes.ErrGRPCDuplicateKey},
		{"put in a txn, deleted beside it", ops(opTxn(ops(opPut("a")), nil), opDel("a", "")), rpctypes.ErrGRPCDuplicateKey},
		{"deleted in a txn, put in the next", ops(opTxn(ops(opDel("a", "b")), nil), opTxn(ops(opPut("a")), nil)), rpctypes.ErrGRPCDuplicateKey},
		{"deleted deep, put outside", ops(opTxn(ops(opTxn(nil, ops(opDel("a", "z")))), nil), opPut("k")), rpctypes.ErrGRPCDuplicateKey},
		{"put in one branch, deleted in the other", ops(opTxn(ops(opPut("a")), ops(opDel("a", "")))), nil},
	} {
		for _, r := range []*pb.TxnRequest{{Success: c.ops}, {Failure: c.ops}} {
			if err := checkTxn(r, 128); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		}
	}
}

func TestNestedTxnsHaveWhatTheirParentLeft(t *testing.T) {
	inner := func(n int) []*pb.RequestOp {
		var o []*pb.RequestOp
		for i := range n {
			o = append(o, opPut(fmt.Sprint(i)))
		}
		return o
	}
	if err := checkTxn(&pb.TxnRequest{Success: ops(opGet("x"), opTxn(inner(2), nil))}, 4); err != nil {
		t.Errorf("two and two of four: %v", err)
	}
	if err := checkTxn(&pb.TxnRequest{Success: ops(opGet("x"), opTxn(inner(3), nil))}, 4); !errors.Is(err, rpctypes.ErrGRPCTooManyOps) {
		t.Errorf("two and three of four: %v", err)
	}
	if err := checkTxn(&pb.TxnRequest{Compare: []*pb.Compare{{}}}, 4); !errors.Is(err, rpctypes.ErrGRPCEmptyKey) {
		t.Errorf("a comparison without a key: %v", err)
	}
}

// A request of the largest size allowed must not take long to look at.
func TestCheckingTheWorstTxnIsQuick(t *testing.T) {
	var width func(depth, budget int) []*pb.RequestOp
	count := 0
	width = func(depth, budget int) []*pb.RequestOp {
		var o []*pb.RequestOp
		for range budget / (depth + 1) {
			count++
			if depth == 0 {
				o = append(o, opPut(fmt.Sprintf("%08d", count)), opDel(fmt.Sprintf("x%08d", count), "y"))
			} else {
				o = append(o, opTxn(width(depth-1, budget-budget/(depth+1)), nil))
			}
		}
		return o
	}
	r := &pb.TxnRequest{Success: width(2, 126)}
	start := time.Now()
	if err := checkTxn(r, 128); err != nil && !errors.Is(err, rpctypes.ErrGRPCTooManyOps) {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("%d nested operations took %v", count, took)
	}
}
