package differential

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// warmUp leaves a store behind in which something has happened.
func warmUp() Program {
	p := Program{Name: "warm-up"}
	for range 12 {
		p.Steps = append(p.Steps, set("a", "1"))
	}
	p.Steps = append(p.Steps, compact(&pb.CompactionRequest{Revision: now(-8), Physical: true}))
	return p
}

// set puts, get reads a key.
func set(key, value string) Step { return put(&pb.PutRequest{Key: []byte(key), Value: []byte(value)}) }
func get(key string) Step        { return rng(&pb.RangeRequest{Key: []byte(key)}) }

// scripts are the programs written by hand: what a tree won't come upon, or may
// not do because those after it would suffer. Each has servers of its own.
func scripts() []Program {
	return []Program{
		warmUp(),
		expiry(),
		ordering(),
		sizes(),
		{Name: "a lease that is there", Steps: []Step{grant(7, 60), grant(7, 90), timeToLive(7, false)}}, // a tree seldom meets one
		{Name: "who belongs to the cluster", Steps: memberSteps()},
		{Name: "a cluster that loses its quorum", Ruins: true, Steps: []Step{
			call(clusterService+"MemberAdd", &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}}),
			call(clusterService+"MemberAdd", &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:2"}}),
		}},
		{Name: "maintenance", Steps: maintenanceSteps()},
		{Name: "out of space", Steps: spaceSteps()},
		{Name: "authentication", Steps: authSteps()},
		{Name: "what nobody serves", Steps: unknownSteps()},
		{Name: "metadata", Steps: metadataSteps()},
	}
}

// expiry is what becomes of leases when their time is up.
func expiry() Program {
	return Program{Name: "expiry", Steps: []Step{
		watch(0, &pb.WatchCreateRequest{Key: everything[0], RangeEnd: everything[1], PrevKv: true}),
		grant(5, 1), // raised to 2
		put(&pb.PutRequest{Key: []byte("b"), Value: []byte("1"), Lease: 5}),
		put(&pb.PutRequest{Key: []byte("a"), Value: []byte("2"), Lease: 5}),
		put(&pb.PutRequest{Key: []byte("c"), Value: []byte("3"), Lease: 5}),
		put(&pb.PutRequest{Key: []byte("c"), Value: []byte("4")}), // detached
		timeToLive(5, true),
		{Method: pauseMethod},
		timeToLive(5, true),
		keepAlive(5),
		revoke(5),
		rng(&pb.RangeRequest{Key: everything[0], RangeEnd: everything[1]}),
	}}
}

// ordering is where etcd cuts before it sorts, and shows leases of keys_only.
func ordering() Program {
	return Program{Name: "ordering", Steps: []Step{
		set("c", "1"), set("b", "2"), grant(1, 60), put(&pb.PutRequest{Key: []byte("a"), Value: []byte("3"), Lease: 1}),
		rng(&pb.RangeRequest{Key: everything[0], RangeEnd: everything[1], Limit: 1, SortTarget: pb.RangeRequest_CREATE}),
		rng(&pb.RangeRequest{Key: everything[0], RangeEnd: everything[1], SortTarget: pb.RangeRequest_VALUE, KeysOnly: true}),
		rng(&pb.RangeRequest{Key: everything[0], RangeEnd: everything[1], SortTarget: pb.RangeRequest_MOD, KeysOnly: true}),
		call(hashMethod, &pb.HashKVRequest{Revision: -5}),
		compact(&pb.CompactionRequest{Revision: now(-1), Physical: true}),
		call(hashMethod, &pb.HashKVRequest{Revision: compacted(0)}),
		call(hashMethod, &pb.HashKVRequest{}),
		{Method: kvService + "RangeStream", Request: &pb.RangeRequest{Key: everything[0], RangeEnd: everything[1]}},
		call(kvService+"RangeStream", &pb.RangeRequest{}),
	}}
}

// sizes are requests and values about the limits.
func sizes() Program {
	const limit = 1536 << 10
	value := func(n int) Step { return put(&pb.PutRequest{Key: []byte("a"), Value: make([]byte, n)}) }
	long := func(n int) []byte { return make([]byte, n) }
	return Program{Name: "sizes", Steps: []Step{
		value(limit / 2), get("a"), value(limit - 100), get("a"), value(limit), value(limit + 1), value(2 << 20), value(2<<20 - 20), value(3 << 20),
		put(&pb.PutRequest{Value: make([]byte, limit+1)}), // which is said first: too large, or no key?
		rng(&pb.RangeRequest{Key: long(limit + 1)}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: long(limit + 1)})}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{opDelete(&pb.DeleteRangeRequest{Key: long(limit + 1)})}}),
		del(&pb.DeleteRangeRequest{Key: long(limit + 1)}),
		value(limit - 8),
	}, Ruins: true} // one has the last value, the other hasn't
}

func memberSteps() []Step {
	add := func(learner bool, urls ...string) Step {
		return call(clusterService+"MemberAdd", &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
	}
	list := call(clusterService+"MemberList", &pb.MemberListRequest{Linearizable: true})
	steps := []Step{
		list,
		add(false), add(true), add(true, ""), add(true, "nonsense"), add(true, "ftp://127.0.0.1:1"), add(true, "http://127.0.0.1"),
		add(true, "http://127.0.0.1:1/path"), add(true, "http://:1"),
		add(true, "http://127.0.0.1:1"),
		list,
		add(true, "http://127.0.0.1:2"), // one learner is allowed
		add(true, "http://127.0.0.1:1"), // and the place is taken
	}
	for _, id := range []uint64{0, 7, firstMember, firstMember + 1} {
		steps = append(steps, call(clusterService+"MemberPromote", &pb.MemberPromoteRequest{ID: id}))
	}
	return append(steps,
		call(clusterService+"MemberUpdate", &pb.MemberUpdateRequest{ID: 7, PeerURLs: []string{"http://127.0.0.1:3"}}),
		call(clusterService+"MemberUpdate", &pb.MemberUpdateRequest{ID: firstMember + 1, PeerURLs: []string{"http://127.0.0.1:3"}}),
		list,
		call(clusterService+"MemberRemove", &pb.MemberRemoveRequest{ID: 7}),
		call(clusterService+"MemberRemove", &pb.MemberRemoveRequest{ID: firstMember + 1}),
		call(clusterService+"MemberRemove", &pb.MemberRemoveRequest{ID: firstMember + 1}),
		call(clusterService+"MemberPromote", &pb.MemberPromoteRequest{ID: firstMember + 1}),
		call(clusterService+"MemberUpdate", &pb.MemberUpdateRequest{ID: firstMember + 1, PeerURLs: []string{"http://127.0.0.1:3"}}),
		list,
	)
}

func maintenanceSteps() []Step {
	return []Step{
		call(maintenanceService+"Status", &pb.StatusRequest{}),
		set("a", "1"),
		call(maintenanceService+"Status", &pb.StatusRequest{}),
		call(maintenanceService+"Hash", &pb.HashRequest{}),
		call(hashMethod, &pb.HashKVRequest{}),
		call(hashMethod, &pb.HashKVRequest{Revision: now(1)}),
		call(maintenanceService+"Defragment", &pb.DefragmentRequest{}),
		call(maintenanceService+"Snapshot", &pb.SnapshotRequest{}),
		call(maintenanceService+"MoveLeader", &pb.MoveLeaderRequest{}),
		call(maintenanceService+"MoveLeader", &pb.MoveLeaderRequest{TargetID: 7}),
		call(maintenanceService+"MoveLeader", &pb.MoveLeaderRequest{TargetID: firstMember}),
		call(maintenanceService+"Downgrade", &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6.0"}),
		call(maintenanceService+"Alarm", &pb.AlarmRequest{}),
		call(maintenanceService+"Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE}),
		call(maintenanceService+"Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: firstMember, Alarm: pb.AlarmType_NOSPACE}),
		call("/grpc.health.v1.Health/Check", &healthpb.HealthCheckRequest{}),
		call("/grpc.health.v1.Health/Check", &healthpb.HealthCheckRequest{Service: "etcdserverpb.KV"}),
		call("/grpc.health.v1.Health/Check", &healthpb.HealthCheckRequest{Service: "nobody"}),
	}
}

func alarm(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) Step {
	return call(maintenanceService+"Alarm", &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind})
}

// writes are all kinds of requests, to see which are refused.
func writes() []Step {
	return []Step{
		set("a", "2"), get("a"),
		rng(&pb.RangeRequest{Key: []byte("a"), Serializable: true}),
		del(&pb.DeleteRangeRequest{Key: []byte("z")}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{opPut(&pb.PutRequest{Key: []byte("a"), Value: []byte("3")})}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{opDelete(&pb.DeleteRangeRequest{Key: []byte("z")})}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: []byte("a")})}}),
		txn(&pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VERSION, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Version{Version: 99}}},
			Success: []*pb.RequestOp{opPut(&pb.PutRequest{Key: []byte("a"), Value: []byte("3")})},
		}),
		txn(&pb.TxnRequest{}),
		grant(77, 60), revoke(1), keepAlive(1), timeToLive(1, true), call(leaseService+"LeaseLeases", &pb.LeaseLeasesRequest{}),
		compact(&pb.CompactionRequest{Revision: now(0)}), compact(&pb.CompactionRequest{Revision: now(5)}),
		call(hashMethod, &pb.HashKVRequest{}), call(maintenanceService+"Status", &pb.StatusRequest{}),
		call(clusterService+"MemberList", &pb.MemberListRequest{}),
		watch(0, &pb.WatchCreateRequest{Key: []byte("a")}),
	}
}

// spaceSteps raise the alarm of a full database by hand.
func spaceSteps() []Step {
	steps := []Step{set("a", "1"), grant(1, 60), alarm(pb.AlarmRequest_ACTIVATE, firstMember, pb.AlarmType_NOSPACE)}
	steps = append(steps, writes()...)
	return append(steps, alarm(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE),
		alarm(pb.AlarmRequest_DEACTIVATE, firstMember, pb.AlarmType_NOSPACE),
		alarm(pb.AlarmRequest_DEACTIVATE, firstMember, pb.AlarmType_NOSPACE), set("a", "4"))
}

func authSteps() []Step {
	return []Step{
		call(authService+"AuthStatus", &pb.AuthStatusRequest{}),
		call(authService+"AuthDisable", &pb.AuthDisableRequest{}),
		call(authService+"AuthEnable", &pb.AuthEnableRequest{}),
		call(authService+"Authenticate", &pb.AuthenticateRequest{Name: "root", Password: "x"}),
		call(authService+"UserList", &pb.AuthUserListRequest{}),
		call(authService+"RoleGet", &pb.AuthRoleGetRequest{Role: "nobody"}),
		call(authService+"AuthStatus", &pb.AuthStatusRequest{}),
	}
}

func unknownSteps() []Step {
	var none proto.Message = &emptypb.Empty{}
	return []Step{
		call(kvService+"Nothing", none), call("/etcdserverpb.Nobody/Nothing", none), call("/nonsense", none), call("nonsense", none), call("/a/b/c", none),
		call("/v3lockpb.Lock/Unlock", none), call("/v3electionpb.Election/Leader", none),
		{Method: kvService + "Put", Request: &pb.PutRequest{Key: []byte("abc"), Value: []byte("abcd")}, Mangle: 103}, // it makes no sense,
	}
}

// metadataSteps are what clients say beside their requests.
func metadataSteps() []Step {
	with := func(s Step, key, value string) Step {
		s.Meta = [2]string{key, value}
		return s
	}
	var steps []Step
	for _, line := range [][2]string{
		{"hasleader", "true"},
		{"hasleader", "false"},
		{"client-api-version", "3.7.3"},
		{"client-api-version", ""},
		{"token", "nonsense"},
		{"authorization", "nonsense"},
	} {
		steps = append(steps, with(get("a"), line[0], line[1]), with(set("a", "1"), line[0], line[1]))
	}
	return steps
}
