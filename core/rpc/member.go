package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
)

// member is what the services share: the node they speak for, and who it is.
type member struct {
	node Node
	id   identity
}

// proposeMessage proposes a request that was decoded as a message tree. It is
// encoded anew rather than passed on as received, so that what was checked is
// what is executed, however oddly the client encoded it.
func (m *member) proposeMessage(ctx context.Context, kind machine.Kind, r proto.Message) (any, error) {
	body, err := proto.Marshal(r)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return m.propose(ctx, kind, body)
}

func (m *member) propose(ctx context.Context, kind machine.Kind, body []byte) (any, error) {
	if int64(len(body)) > m.node.View().Settings.MaxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	res, err := m.node.Propose(ctx, kind, body, "", 0)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, toStatus(err)
	}
	return m.id.splice(res.Rev, m.node.Term(), res.Body), nil
}

// proposeInto proposes r and decodes what applying it gave into resp, for the
// replies that go through generated code.
func (m *member) proposeInto(ctx context.Context, kind machine.Kind, r, resp proto.Message) (*pb.ResponseHeader, error) {
	body, err := proto.Marshal(r)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	res, err := m.node.Propose(ctx, kind, body, "", 0)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, toStatus(err)
	}
	if err := proto.Unmarshal(res.Body, resp); err != nil {
		return nil, status.Errorf(codes.Internal, "muster: reply to %v is unreadable: %v", kind, err)
	}
	return m.id.header(res.Rev, m.node.Term()), nil
}

// header is that of a reply about now.
func (m *member) header() *pb.ResponseHeader {
	return m.id.header(m.node.View().KV.Rev(), m.node.Term())
}
