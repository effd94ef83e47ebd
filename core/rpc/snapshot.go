package rpc

import (
	"context"
	"crypto/sha256"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/core/node"
)

// Hash is over everything the members hold in common; equal on all of them at
// the same applied index.
func (m *maintenanceServer) Hash(context.Context, *pb.HashRequest) (*pb.HashResponse, error) {
	v := m.node.View()
	h, err := node.HashState(v)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.HashResponse{Header: m.id.header(v.KV.Rev(), m.node.Term()), Hash: h}, nil
}

// HashKV is equal on all members at a revision, whatever each has physically
// compacted.
func (m *maintenanceServer) HashKV(_ context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	v := m.node.View().KV
	h, compactRev, rev, err := v.HashKV(r.Revision)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.HashKVResponse{
		Header: m.id.header(v.Rev(), m.node.Term()), Hash: h, CompactRevision: compactRev, HashRevision: rev,
	}, nil
}

// MoveLeader is for the leader alone, as in etcd: its clients look it up.
func (m *maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := m.node.TransferLeader(ctx, r.TargetID); err != nil {
		return nil, toStatus(err)
	}
	return &pb.MoveLeaderResponse{}, nil
}

// snapshotChunk is how much of a snapshot a message carries, as in etcd.
const snapshotChunk = 32 << 10

// Snapshot streams the state as of now: a database as etcd's, then its SHA-256
// in a message of its own.
func (m *maintenanceServer) Snapshot(_ *pb.SnapshotRequest, s grpc.ServerStreamingServer[pb.SnapshotResponse]) error {
	began, v := time.Now(), m.node.View()
	plan, err := node.PlanSnapshot(v)
	if err != nil {
		return toStatus(err)
	}
	out := &snapshotStream{stream: s, version: m.storageVersion, remaining: plan.Size() - sha256.Size, buf: make([]byte, 0, snapshotChunk)}
	m.log.Info("sending database snapshot to client", "total-bytes", out.remaining, "revision", v.KV.Rev())
	if _, err := plan.Write(out); err != nil {
		return toStatus(err)
	}
	if err := out.send(); err != nil { // the hash
		return toStatus(err)
	}
	m.log.Info("successfully sent database snapshot to client", "total-bytes", plan.Size()-sha256.Size, "took", time.Since(began).String())
	return nil
}

// snapshotStream cuts what is written into messages. The last data message is
// sent when all data are there; what follows is the hash.
type snapshotStream struct {
	stream    grpc.ServerStreamingServer[pb.SnapshotResponse]
	version   string
	remaining int64 // bytes of data not sent yet
	buf       []byte
}

func (s *snapshotStream) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		room := snapshotChunk - len(s.buf)
		if left := s.remaining - int64(len(s.buf)); left > 0 {
			room = int(min(int64(room), left))
		}
		take := min(room, len(p)-n)
		s.buf = append(s.buf, p[n:n+take]...)
		n += take
		if full := len(s.buf) == snapshotChunk || int64(len(s.buf)) == s.remaining; !full {
			continue
		}
		s.remaining -= int64(len(s.buf))
		if err := s.send(); err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func (s *snapshotStream) send() error {
	err := s.stream.Send(&pb.SnapshotResponse{RemainingBytes: uint64(s.remaining), Blob: s.buf, Version: s.version})
	s.buf = s.buf[:0]
	return err
}
