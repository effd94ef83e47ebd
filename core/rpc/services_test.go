package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/node"
)

var largeMessages = grpc.MaxCallRecvMsgSize(math.MaxInt32)

func TestEveryRegisteredMethodIsInTheAccessTable(t *testing.T) {
	_, s := serve(t, newFakeNode(t, machine.Config{}), nil)
	rows := map[string]methodRow{}
	for _, r := range methodTable() {
		full := "/" + r.service + "/" + r.name
		if _, dup := rows[full]; dup {
			t.Errorf("%s is in the table twice", full)
		}
		if r.access == accessNone {
			t.Errorf("%s has no access class", full)
		}
		rows[full] = r
	}
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			r, ok := rows[full]
			if !ok {
				t.Errorf("%s is served but not in the table", full)
				continue
			}
			want := map[[2]bool]shape{{false, false}: unary, {true, false}: clientStream, {false, true}: serverStream, {true, true}: bidiStream}
			if w := want[[2]bool{m.IsClientStream, m.IsServerStream}]; r.shape != w {
				t.Errorf("%s is %s in the table and %s in truth", full, r.shape, w)
			}
		}
	}
	for _, desc := range []grpc.ServiceDesc{pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc} {
		served := s.grpc.GetServiceInfo()[desc.ServiceName].Methods
		if want := len(desc.Methods) + len(desc.Streams); len(served) != want {
			t.Errorf("%s: %d methods served, etcd has %d", desc.ServiceName, len(served), want)
		}
	}
}

func TestAServiceOutsideTheTableIsRefused(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	_, err := NewServer(Config{Node: n, Services: []func(grpc.ServiceRegistrar){func(s grpc.ServiceRegistrar) {
		s.RegisterService(&grpc.ServiceDesc{ServiceName: "some.Service", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Backdoor"}}}, s)
	}}})
	if err == nil || !strings.Contains(err.Error(), "/some.Service/Backdoor") {
		t.Errorf("got %v, want a refusal naming it", err)
	}
}

func TestWhatIsNotThereIsRefusedByName(t *testing.T) {
	conn, _ := serve(t, newFakeNode(t, machine.Config{}), nil)
	for _, full := range []string{
		"/etcdserverpb.Maintenance/Downgrade",
	} {
		err := conn.Invoke(t.Context(), full, &pb.StatusRequest{}, &pb.StatusResponse{})
		name := full[strings.LastIndex(full, "/")+1:]
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want Unimplemented naming it", full, err)
		}
	}
	for _, m := range pb.Auth_ServiceDesc.Methods {
		err := conn.Invoke(t.Context(), "/etcdserverpb.Auth/"+m.MethodName, &pb.StatusRequest{}, &pb.StatusResponse{})
		if m.MethodName == "AuthStatus" {
			if err != nil {
				t.Errorf("AuthStatus: %v", err)
			}
		} else if !strings.Contains(fmt.Sprint(err), "authentication is not supported yet") {
			t.Errorf("%s: %v", m.MethodName, err)
		}
	}
}

func TestErrorsTravelAsEtcds(t *testing.T) {
	for _, row := range errorTable() {
		sameStatus(t, toStatus(fmt.Errorf("wrapped: %w", row.ours)), row.wire)
	}
	sameStatus(t, toStatus(errors.New("odd")), status.Error(codes.Unknown, "odd"))
	if err := toStatus(context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context became %v", err)
	}
	already := status.Error(codes.DataLoss, "x")
	sameStatus(t, toStatus(already), already)
	for ours, want := range map[error]string{
		mvcc.ErrCompacted:       "OutOfRange etcdserver: mvcc: required revision has been compacted",
		lease.ErrNotFound:       "NotFound etcdserver: requested lease not found",
		node.ErrNoLeader:        "Unavailable etcdserver: no leader",
		node.ErrTooManyRequests: "ResourceExhausted etcdserver: too many requests",
		machine.ErrNoSpace:      "ResourceExhausted etcdserver: mvcc: database space exceeded",
	} {
		if s := status.Convert(toStatus(ours)); s.Code().String()+" "+s.Message() != want {
			t.Errorf("%v travels as %v %q, want %q", ours, s.Code(), s.Message(), want)
		}
	}
}

func TestLeases(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	l, kv, ctx := pb.NewLeaseClient(conn), pb.NewKVClient(conn), t.Context()

	g, err := l.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 77, TTL: -3})
	if err != nil || g.ID != 77 || g.TTL != 2 || g.Header.Revision != 1 {
		t.Fatalf("a TTL below the minimum: %v, %v", g, err)
	}
	_, err = l.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 77, TTL: 10})
	sameStatus(t, err, rpctypes.ErrGRPCLeaseExist)
	_, err = l.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 9_000_000_001})
	sameStatus(t, err, rpctypes.ErrGRPCLeaseTTLTooLarge)
	drawn, err := l.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
	if err != nil || drawn.ID <= 0 {
		t.Fatalf("a lease without an id: %v, %v", drawn, err)
	}
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Lease: 77}); err != nil {
		t.Fatal(err)
	}

	ttl, err := l.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 77, Keys: true})
	if err != nil || ttl.TTL != 1 || ttl.GrantedTTL != 2 || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "k" || n.barriers.Load() != 1 {
		t.Errorf("time to live: %v, %v, %d barriers", ttl, err, n.barriers.Load())
	}
	ttl, err = l.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 5})
	if err != nil || ttl.TTL != -1 || ttl.ID != 5 {
		t.Errorf("time to live of an unknown lease: %v, %v", ttl, err)
	}
	all, err := l.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil || len(all.Leases) != 2 {
		t.Errorf("leases: %v, %v", all, err)
	}

	ka, err := l.LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int64]int64{77: 2, 5: 0, drawn.ID: 60} {
		if err := ka.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		r, err := ka.Recv()
		if err != nil || r.ID != id || r.TTL != want || r.Header.ClusterId != fakeCluster {
			t.Errorf("keep-alive of %d: %v, %v; want TTL %d", id, r, err, want)
		}
	}
	if err := ka.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := ka.Recv(); err == nil {
		t.Error("the stream goes on after its client has finished")
	}

	if r, err := l.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 77}); err != nil || r.Header.Revision != 3 {
		t.Errorf("revoke: %v, %v", r, err)
	}
	_, err = l.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 77})
	sameStatus(t, err, rpctypes.ErrGRPCLeaseNotFound)
}

// etcdctl divides by the size.
func TestAnEmptyStoreHasASize(t *testing.T) {
	conn, _ := serve(t, newFakeNode(t, machine.Config{}), nil)
	st, err := pb.NewMaintenanceClient(conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil || st.DbSize == 0 || st.DbSizeInUse == 0 || st.DbSizeInUse > st.DbSize {
		t.Errorf("status: %v, %v", st, err)
	}
}

func TestStatusMembersAlarmsAndHealth(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, nil)
	ctx := t.Context()
	mt := pb.NewMaintenanceClient(conn)
	st, err := mt.Status(ctx, &pb.StatusRequest{})
	if err != nil || st.Version != "3.7.3" || st.Leader != fakeID || st.RaftTerm != fakeTerm || len(st.Errors) != 0 || st.DbSizeQuota != 2<<30 || st.StorageVersion != "3.7.0" {
		t.Errorf("status: %v, %v", st, err)
	}
	members, err := pb.NewClusterClient(conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	if err != nil || len(members.Members) != 1 || members.Members[0].Name != "one" || members.Header.Revision != 0 || n.barriers.Load() != 1 {
		t.Errorf("members: %v, %v", members, err)
	}
	if _, err := mt.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: fakeID, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	alarms, err := mt.Alarm(ctx, &pb.AlarmRequest{})
	if err != nil || len(alarms.Alarms) != 1 || alarms.Alarms[0].Alarm != pb.AlarmType_NOSPACE {
		t.Errorf("alarms: %v, %v", alarms, err)
	}
	n.leader.Store(0)
	st, err = mt.Status(ctx, &pb.StatusRequest{})
	if err != nil || len(st.Errors) != 2 || st.Errors[0] != "etcdserver: no leader" || !strings.Contains(st.Errors[1], "alarm:NOSPACE") {
		t.Errorf("status without a leader: %v, %v", st, err)
	}
	if r, err := mt.Defragment(ctx, &pb.DefragmentRequest{}); err != nil || r.Header != nil {
		t.Errorf("defragment: %v, %v; etcd answers without a header", r, err)
	}
	h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
}

func TestStreamsEndWhenThereIsNoLeaderForTooLong(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, _ := serve(t, n, func(c *Config) { c.ElectionTimeout = 5 * time.Millisecond })
	insist := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	l := pb.NewLeaseClient(conn)
	strict, err := l.LeaseKeepAlive(insist)
	if err != nil {
		t.Fatal(err)
	}
	patient, err := l.LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Both streams are known to the server once they have answered.
	for _, s := range []pb.Lease_LeaseKeepAliveClient{strict, patient} {
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	n.leader.Store(0)
	_, err = strict.Recv()
	sameStatus(t, err, rpctypes.ErrGRPCNoLeader)
	if err := patient.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := patient.Recv(); err != nil {
		t.Errorf("a stream that doesn't insist on a leader ended: %v", err)
	}
}

func TestShutdownEndsStreamsAndTellsThemWhy(t *testing.T) {
	n := newFakeNode(t, machine.Config{})
	conn, s := serve(t, n, nil)
	ka, err := pb.NewLeaseClient(conn).LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ka.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := ka.Recv(); err != nil {
		t.Fatal(err)
	}
	w, err := pb.NewWatchClient(conn).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := w.Recv(); err != nil || !r.Created {
		t.Fatalf("watch: %v, %v", r, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	s.Shutdown(ctx)
	if ctx.Err() != nil {
		t.Error("shutting down took until the time-out")
	}
	_, err = ka.Recv()
	sameStatus(t, err, rpctypes.ErrGRPCStopped)
	_, err = w.Recv()
	sameStatus(t, err, rpctypes.ErrGRPCStopped)
}

func TestCallsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	conn, _ := serve(t, newFakeNode(t, machine.Config{}), func(c *Config) { c.Registerer = reg; c.LatencyHistogram = true })
	kv, ctx := pb.NewKVClient(conn), t.Context()
	versioned := metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataClientAPIVersionKey, "3.7")
	if _, err := kv.Put(versioned, &pb.PutRequest{Key: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, &pb.PutRequest{}); err == nil {
		t.Fatal("a put without a key")
	}
	if _, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP etcd_server_client_requests_total The total number of client requests per client version.
# TYPE etcd_server_client_requests_total counter
etcd_server_client_requests_total{client_api_version="3.7",type="stream"} 0
etcd_server_client_requests_total{client_api_version="3.7",type="unary"} 1
etcd_server_client_requests_total{client_api_version="unknown",type="stream"} 0
etcd_server_client_requests_total{client_api_version="unknown",type="unary"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "etcd_server_client_requests_total"); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "grpc_server_handled_total" {
			continue
		}
		for _, m := range f.Metric {
			if m.Counter.GetValue() == 0 {
				continue
			}
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			got[strings.Join(labels, ",")] = m.Counter.GetValue()
		}
	}
	for _, labels := range []string{
		"grpc_code=OK,grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary",
		"grpc_code=InvalidArgument,grpc_method=Put,grpc_service=etcdserverpb.KV,grpc_type=unary",
		"grpc_code=OK,grpc_method=Status,grpc_service=etcdserverpb.Maintenance,grpc_type=unary",
	} {
		if got[labels] != 1 {
			t.Errorf("handled{%s} = %v, want 1; all: %v", labels, got[labels], got)
		}
	}
}

func TestClientVersionsAreBounded(t *testing.T) {
	m, err := newMetrics(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 * maxClientVersions {
		m.clients.get(fmt.Sprint(i)).unary.Inc()
	}
	if n := len(*m.clients.known.Load()); n > maxClientVersions+1 {
		t.Errorf("%d versions are counted apart", n)
	}
}
