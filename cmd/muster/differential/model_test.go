package differential

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/spec"
)

// model holds etcd's answers against core/spec, by which the simulator and the
// machine's tests judge: a specification that is wrong would hide what is wrong alike.
type model struct {
	state *spec.State
	diff  string // the first difference
}

func newModel() *model { return &model{state: spec.New()} }

// check has the specification answer a request that the server has answered, too.
func (m *model) check(s *server, step Step, request, response proto.Message, refusal string) {
	switch r := request.(type) {
	case *pb.PutRequest, *pb.RangeRequest, *pb.DeleteRangeRequest, *pb.TxnRequest, *pb.CompactionRequest, *pb.LeaseRevokeRequest:
	case *pb.LeaseGrantRequest:
		request = proto.Clone(r)
		if got, ok := response.(*pb.LeaseGrantResponse); ok && r.ID == 0 {
			request.(*pb.LeaseGrantRequest).ID = cmp.Or(got.ID, -1) // refused: any that is free
		}
	default:
		return
	}
	if refusal == "InvalidArgument: etcdserver: request is too large" || strings.HasPrefix(refusal, "ResourceExhausted: grpc: ") {
		return // it knows no sizes
	}
	want, err := m.state.Apply(request)
	text := ""
	if err != nil {
		var e rpctypes.EtcdError
		if errors.As(err, &e) {
			text = fmt.Sprintf("%v: %s", e.Code(), e.Error())
		} else {
			text = err.Error()
		}
	} else {
		if h := headerOf(want); h != nil {
			h.ClusterId, h.MemberId, h.RaftTerm = 1, 1, 1
		}
		text = s.render(proto.Clone(want))
	}
	got := refusal
	if got == "" {
		got = s.render(proto.Clone(response))
	}
	if got == text || m.diff != "" {
		return
	}
	for _, d := range differences() {
		if d.excuses(step, got, text) {
			return
		}
	}
	m.diff = fmt.Sprintf("core/spec, %v\netcd %s\nspec %s\n", step, got, text)
}

// asSent is the request as whoever reads its bytes understands it; ok tells whether that can be done.
func asSent(request proto.Message, wire any) (_ proto.Message, ok bool) {
	raw, mangled := wire.(rawRequest)
	if !mangled {
		return request, true
	}
	m := request.ProtoReflect().New().Interface()
	return m, proto.Unmarshal(raw, m) == nil
}
