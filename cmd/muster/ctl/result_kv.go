package ctl

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// header writes a response header as fields. Only answers about keys carry a revision.
func (t *text) header(h *pb.ResponseHeader) {
	if t.hex {
		t.printf("\"ClusterID\" : %x\n\"MemberID\" : %x\n", h.GetClusterId(), h.GetMemberId())
	} else {
		t.printf("\"ClusterID\" : %d\n\"MemberID\" : %d\n", h.GetClusterId(), h.GetMemberId())
	}
	if h.GetRevision() > 0 {
		t.printf("\"Revision\" : %d\n", h.GetRevision())
	}
	t.printf("\"RaftTerm\" : %d\n", h.GetRaftTerm())
}

// kvFields writes a key as fields, each name after the prefix.
func (t *text) kvFields(prefix string, kv *mvccpb.KeyValue) {
	t.printf("\"%sKey\" : %q\n", prefix, kv.GetKey())
	t.printf("\"%sCreateRevision\" : %d\n", prefix, kv.GetCreateRevision())
	t.printf("\"%sModRevision\" : %d\n", prefix, kv.GetModRevision())
	t.printf("\"%sVersion\" : %d\n", prefix, kv.GetVersion())
	t.printf("\"%sValue\" : %q\n", prefix, kv.GetValue())
	t.idField(prefix+"Lease", kv.GetLease())
}

// idField writes a lease id: all 16 digits in hexadecimal.
func (t *text) idField(name string, id int64) {
	if t.hex {
		t.printf("%q : %016x\n", name, id)
	} else {
		t.printf("%q : %d\n", name, id)
	}
}

// kv writes a key and its value, a line each.
func (t *text) kv(kv *mvccpb.KeyValue) {
	t.printf("%s\n%s\n", t.bytes(kv.GetKey()), t.bytes(kv.GetValue()))
}

func (t *text) bytes(b []byte) string {
	if !t.hex {
		return string(b)
	}
	var s strings.Builder
	for _, c := range b {
		fmt.Fprintf(&s, `\x%02x`, c)
	}
	return s.String()
}

type putResult struct{ *pb.PutResponse }

func (r putResult) simple(t *text) {
	t.printf("OK\n")
	if r.GetPrevKv() != nil {
		t.kv(r.GetPrevKv())
	}
}

func (r putResult) fields(t *text) {
	t.header(r.GetHeader())
	if r.GetPrevKv() != nil {
		t.kvFields("Prev", r.GetPrevKv())
	}
}
func (r putResult) json(bool) any          { return r.PutResponse }
func (r putResult) message() proto.Message { return r.PutResponse }

type getResult struct {
	*pb.RangeResponse
	valueOnly bool
}

func (r getResult) simple(t *text) {
	for _, kv := range r.GetKvs() {
		if r.valueOnly {
			t.printf("%s\n", t.bytes(kv.GetValue()))
		} else {
			t.kv(kv)
		}
	}
}

func (r getResult) fields(t *text) {
	t.header(r.GetHeader())
	for _, kv := range r.GetKvs() {
		t.kvFields("", kv)
	}
	t.printf("\"More\" : %t\n\"Count\" : %d\n", r.GetMore(), r.GetCount())
}
func (r getResult) json(bool) any          { return r.RangeResponse }
func (r getResult) message() proto.Message { return r.RangeResponse }

type delResult struct{ *pb.DeleteRangeResponse }

func (r delResult) simple(t *text) {
	t.printf("%d\n", r.GetDeleted())
	for _, kv := range r.GetPrevKvs() {
		t.kv(kv)
	}
}

func (r delResult) fields(t *text) {
	t.header(r.GetHeader())
	t.printf("\"Deleted\" : %d\n", r.GetDeleted())
	for _, kv := range r.GetPrevKvs() {
		t.kvFields("Prev", kv)
	}
}
func (r delResult) json(bool) any          { return r.DeleteRangeResponse }
func (r delResult) message() proto.Message { return r.DeleteRangeResponse }

type txnResult struct{ *pb.TxnResponse }

// results are those of the branch that ran, each as if it were a command's.
func (r txnResult) results() []result {
	var out []result
	for _, op := range r.GetResponses() {
		switch op := op.GetResponse().(type) {
		case *pb.ResponseOp_ResponseRange:
			out = append(out, getResult{RangeResponse: op.ResponseRange})
		case *pb.ResponseOp_ResponsePut:
			out = append(out, putResult{op.ResponsePut})
		case *pb.ResponseOp_ResponseDeleteRange:
			out = append(out, delResult{op.ResponseDeleteRange})
		}
	}
	return out
}

func (r txnResult) simple(t *text) {
	if r.GetSucceeded() {
		t.printf("SUCCESS\n")
	} else {
		t.printf("FAILURE\n")
	}
	for _, res := range r.results() {
		t.printf("\n")
		res.simple(t)
	}
}

func (r txnResult) fields(t *text) {
	t.header(r.GetHeader())
	t.printf("\"Succeeded\" : %t\n", r.GetSucceeded())
	for _, res := range r.results() {
		res.fields(t)
	}
}

func (r txnResult) json(bool) any {
	type member struct {
		Range       *pb.RangeResponse       `json:"response_range,omitempty"`
		Put         *pb.PutResponse         `json:"response_put,omitempty"`
		DeleteRange *pb.DeleteRangeResponse `json:"response_delete_range,omitempty"`
	}
	type response struct{ Response member }
	out := struct {
		Header    *pb.ResponseHeader `json:"header,omitempty"`
		Succeeded bool               `json:"succeeded,omitempty"`
		Responses []response         `json:"responses,omitempty"`
	}{Header: r.GetHeader(), Succeeded: r.GetSucceeded()}
	for _, op := range r.GetResponses() {
		out.Responses = append(out.Responses, response{member{op.GetResponseRange(), op.GetResponsePut(), op.GetResponseDeleteRange()}})
	}
	return out
}
func (r txnResult) message() proto.Message { return r.TxnResponse }

type watchResult struct{ *pb.WatchResponse }

func (r watchResult) simple(t *text) {
	for _, e := range r.GetEvents() {
		t.printf("%s\n", e.GetType())
		if e.GetPrevKv() != nil {
			t.kv(e.GetPrevKv())
		}
		t.kv(e.GetKv())
	}
}

func (r watchResult) fields(t *text) {
	t.header(r.GetHeader())
	for _, e := range r.GetEvents() {
		t.printf("\"Type\" : %s\n", e.GetType())
		if e.GetPrevKv() != nil {
			t.kvFields("Prev", e.GetPrevKv())
		}
		t.kvFields("", e.GetKv())
	}
}

func (r watchResult) json(bool) any {
	return struct {
		Header          *pb.ResponseHeader
		Events          []*mvccpb.Event
		CompactRevision int64
		Canceled        bool
		Created         bool
		CancelReason    string
	}{r.GetHeader(), r.GetEvents(), r.GetCompactRevision(), r.GetCanceled(), r.GetCreated(), r.GetCancelReason()}
}
func (r watchResult) message() proto.Message { return r.WatchResponse }
