package rpc

// access says who may call a method once authentication is on. It is declared
// for every method from the first release, so that enabling authentication
// never meets a method nobody thought about.
type access uint8

const (
	// accessNone is what a method outside the table has: it is refused.
	accessNone access = iota
	// accessPublic methods answer before anyone is known.
	accessPublic
	// accessUser methods need any authenticated user.
	accessUser
	// accessKeys methods are checked against the caller's key permissions.
	accessKeys
	// accessLease methods are checked against the keys attached to the lease.
	accessLease
	// accessAdmin methods need the root role.
	accessAdmin
	// accessCaller methods do nothing themselves: they act through the KV
	// service in their caller's name and are checked there.
	accessCaller
)

func (a access) String() string {
	return [...]string{"none", "public", "user", "keys", "lease", "admin", "caller"}[a]
}

// shape is a method's streaming form, as the metrics label names it.
type shape string

const (
	unary        shape = "unary"
	clientStream shape = "client_stream"
	serverStream shape = "server_stream"
	bidiStream   shape = "bidi_stream"
)

// methodRow is one line of the access table.
type methodRow struct {
	service, name string
	access        access
	shape         shape
	// learner tells that a learner, whose data may lag without bound, answers
	// it. Range is allowed here and narrowed to serializable ones by its handler.
	learner bool
}

// methodTable lists every method of every service this server may carry. A
// method that isn't listed is refused, whoever registered it.
func methodTable() []methodRow {
	const (
		kv          = "etcdserverpb.KV"
		watch       = "etcdserverpb.Watch"
		lease       = "etcdserverpb.Lease"
		cluster     = "etcdserverpb.Cluster"
		maintenance = "etcdserverpb.Maintenance"
		auth        = "etcdserverpb.Auth"
		health      = "grpc.health.v1.Health"
		lock        = "v3lockpb.Lock"
		election    = "v3electionpb.Election"
	)
	return []methodRow{
		{kv, "Range", accessKeys, unary, true},
		{kv, "RangeStream", accessKeys, serverStream, false},
		{kv, "Put", accessKeys, unary, false},
		{kv, "DeleteRange", accessKeys, unary, false},
		{kv, "Txn", accessKeys, unary, false},
		{kv, "Compact", accessAdmin, unary, false},

		{watch, "Watch", accessKeys, bidiStream, false},

		{lease, "LeaseGrant", accessUser, unary, false},
		{lease, "LeaseRevoke", accessLease, unary, false},
		{lease, "LeaseKeepAlive", accessLease, bidiStream, false},
		{lease, "LeaseTimeToLive", accessLease, unary, false},
		{lease, "LeaseLeases", accessUser, unary, false},

		{cluster, "MemberAdd", accessAdmin, unary, false},
		{cluster, "MemberRemove", accessAdmin, unary, false},
		{cluster, "MemberUpdate", accessAdmin, unary, false},
		{cluster, "MemberList", accessUser, unary, false},
		{cluster, "MemberPromote", accessAdmin, unary, false},

		{maintenance, "Alarm", accessAdmin, unary, false},
		{maintenance, "Status", accessUser, unary, true},
		{maintenance, "Defragment", accessAdmin, unary, false},
		{maintenance, "Hash", accessAdmin, unary, false},
		{maintenance, "HashKV", accessAdmin, unary, false},
		{maintenance, "Snapshot", accessAdmin, serverStream, true},
		{maintenance, "MoveLeader", accessAdmin, unary, false},
		{maintenance, "Downgrade", accessAdmin, unary, false},

		{auth, "AuthEnable", accessAdmin, unary, false},
		{auth, "AuthDisable", accessAdmin, unary, false},
		{auth, "AuthStatus", accessUser, unary, false},
		{auth, "Authenticate", accessPublic, unary, false},
		{auth, "UserAdd", accessAdmin, unary, false},
		{auth, "UserGet", accessAdmin, unary, false},
		{auth, "UserList", accessAdmin, unary, false},
		{auth, "UserDelete", accessAdmin, unary, false},
		{auth, "UserChangePassword", accessAdmin, unary, false},
		{auth, "UserGrantRole", accessAdmin, unary, false},
		{auth, "UserRevokeRole", accessAdmin, unary, false},
		{auth, "RoleAdd", accessAdmin, unary, false},
		{auth, "RoleGet", accessAdmin, unary, false},
		{auth, "RoleList", accessAdmin, unary, false},
		{auth, "RoleDelete", accessAdmin, unary, false},
		{auth, "RoleGrantPermission", accessAdmin, unary, false},
		{auth, "RoleRevokePermission", accessAdmin, unary, false},

		{health, "Check", accessPublic, unary, true},
		{health, "List", accessPublic, unary, true},
		{health, "Watch", accessPublic, serverStream, true},

		{lock, "Lock", accessCaller, unary, false},
		{lock, "Unlock", accessCaller, unary, false},
		{election, "Campaign", accessCaller, unary, false},
		{election, "Proclaim", accessCaller, unary, false},
		{election, "Leader", accessCaller, unary, false},
		{election, "Observe", accessCaller, serverStream, false},
		{election, "Resign", accessCaller, unary, false},
	}
}
