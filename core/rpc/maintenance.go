package rpc

import (
	"context"
	"fmt"
	"log/slog"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/core/machine"
)

// maintenanceServer is etcd's Maintenance service.
type maintenanceServer struct {
	pb.UnimplementedMaintenanceServer
	*member
	version        string
	storageVersion string
	log            *slog.Logger
}

func (m *maintenanceServer) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	st := m.node.Status()
	hdr := m.header()
	resp := &pb.StatusResponse{
		Header:           hdr,
		Version:          m.version,
		StorageVersion:   m.storageVersion,
		Leader:           m.node.Leader(),
		RaftIndex:        st.CommitIndex,
		RaftAppliedIndex: st.AppliedIndex,
		RaftTerm:         hdr.RaftTerm,
		DbSize:           max(st.DBSize, emptyDatabase),
		DbSizeInUse:      max(st.InUse, emptyDatabase),
		DbSizeQuota:      st.Quota,
		IsLearner:        m.node.IsLearner(),
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, "etcdserver: no leader")
	}
	for _, a := range m.alarms() {
		resp.Errors = append(resp.Errors, fmt.Sprintf("memberID:%d alarm:%s", a.MemberID, a.Alarm))
	}
	return resp, nil
}

// emptyDatabase is what a database of etcd's takes at least, a page: there are
// clients that divide by the size.
const emptyDatabase = 4096

// Alarm lists alarms from what this member has applied; raising and disarming
// goes through the log.
func (m *maintenanceServer) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if r.Action == pb.AlarmRequest_GET {
		resp := &pb.AlarmResponse{Header: m.header()}
		for _, a := range m.alarms() {
			if r.Alarm == pb.AlarmType_NONE || r.Alarm == a.Alarm {
				resp.Alarms = append(resp.Alarms, a)
			}
		}
		return resp, nil
	}
	resp := new(pb.AlarmResponse)
	hdr, err := m.proposeInto(ctx, machine.Alarm, r, resp)
	if err != nil {
		return nil, err
	}
	resp.Header = hdr
	return resp, nil
}

// Defragment has nothing to do: the state is rewritten whole and packed at each
// checkpoint. It succeeds, so that the cron jobs of etcd's operators go on working.
func (m *maintenanceServer) Defragment(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	m.log.Info("defragmentation asked for: nothing to do, the state is never fragmented")
	return &pb.DefragmentResponse{}, nil // without a header, as etcd
}

func (m *maintenanceServer) Downgrade(context.Context, *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	return nil, unsupported("Downgrade")
}

// alarms are those in force, as this member has applied them.
func (m *maintenanceServer) alarms() []*pb.AlarmMember {
	var all []*pb.AlarmMember
	for _, a := range m.node.View().Alarms {
		all = append(all, &pb.AlarmMember{MemberID: a.Member, Alarm: a.Type})
	}
	return all
}
