package ctl

import (
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// etcd's client flattens the header of lease answers into them; the json forms here follow it.

type grantResult struct{ *pb.LeaseGrantResponse }

func (r grantResult) simple(t *text) {
	t.printf("lease %016x granted with TTL(%ds)\n", r.GetID(), r.GetTTL())
}

func (r grantResult) fields(t *text) {
	t.header(r.GetHeader())
	t.idField("ID", r.GetID())
	t.printf("\"TTL\" : %d\n", r.GetTTL())
}

func (r grantResult) json(bool) any {
	return struct {
		*pb.ResponseHeader
		ID    int64
		TTL   int64
		Error string
	}{r.GetHeader(), r.GetID(), r.GetTTL(), r.GetError()}
}
func (r grantResult) message() proto.Message { return r.LeaseGrantResponse }

type revokeResult struct {
	*pb.LeaseRevokeResponse
	id int64
}

func (r revokeResult) simple(t *text)         { t.printf("lease %016x revoked\n", r.id) }
func (r revokeResult) fields(t *text)         { t.header(r.GetHeader()) }
func (r revokeResult) json(bool) any          { return r.LeaseRevokeResponse }
func (r revokeResult) message() proto.Message { return r.LeaseRevokeResponse }

type keepAliveResult struct{ *pb.LeaseKeepAliveResponse }

func (r keepAliveResult) simple(t *text) {
	t.printf("lease %016x keepalived with TTL(%d)\n", r.GetID(), r.GetTTL())
}

func (r keepAliveResult) fields(t *text) {
	t.header(r.GetHeader())
	t.idField("ID", r.GetID())
	t.printf("\"TTL\" : %d\n", r.GetTTL())
}

func (r keepAliveResult) json(bool) any {
	return struct {
		*pb.ResponseHeader
		ID  int64
		TTL int64
	}{r.GetHeader(), r.GetID(), r.GetTTL()}
}
func (r keepAliveResult) message() proto.Message { return r.LeaseKeepAliveResponse }

type timeToLiveResult struct {
	*pb.LeaseTimeToLiveResponse
	keys bool
}

func (r timeToLiveResult) simple(t *text) {
	if r.GetGrantedTTL() == 0 && r.GetTTL() == -1 {
		t.printf("lease %016x already expired\n", r.GetID())
		return
	}
	t.printf("lease %016x granted with TTL(%ds), remaining(%ds)", r.GetID(), r.GetGrantedTTL(), r.GetTTL())
	if r.keys {
		keys := make([]string, 0, len(r.GetKeys()))
		for _, k := range r.GetKeys() {
			keys = append(keys, string(k))
		}
		t.printf(", attached keys([%s])", strings.Join(keys, " "))
	}
	t.printf("\n")
}

func (r timeToLiveResult) fields(t *text) {
	t.header(r.GetHeader())
	t.idField("ID", r.GetID())
	t.printf("\"TTL\" : %d\n\"GrantedTTL\" : %d\n", r.GetTTL(), r.GetGrantedTTL())
	for _, k := range r.GetKeys() {
		t.printf("\"Key\" : %q\n", k)
	}
}

func (r timeToLiveResult) json(bool) any {
	return struct {
		*pb.ResponseHeader
		ID         int64    `json:"id"`
		TTL        int64    `json:"ttl"`
		GrantedTTL int64    `json:"granted-ttl"`
		Keys       [][]byte `json:"keys"`
	}{r.GetHeader(), r.GetID(), r.GetTTL(), r.GetGrantedTTL(), r.GetKeys()}
}
func (r timeToLiveResult) message() proto.Message { return r.LeaseTimeToLiveResponse }

type leasesResult struct{ *pb.LeaseLeasesResponse }

func (r leasesResult) simple(t *text) {
	t.printf("found %d leases\n", len(r.GetLeases()))
	for _, l := range r.GetLeases() {
		t.printf("%016x\n", l.GetID())
	}
}

func (r leasesResult) fields(t *text) {
	t.header(r.GetHeader())
	for _, l := range r.GetLeases() {
		t.idField("ID", l.GetID())
	}
}

func (r leasesResult) json(bool) any {
	type lease struct {
		ID int64 `json:"id"`
	}
	leases := make([]lease, 0, len(r.GetLeases()))
	for _, l := range r.GetLeases() {
		leases = append(leases, lease{l.GetID()})
	}
	return struct {
		*pb.ResponseHeader
		Leases []lease `json:"leases"`
	}{r.GetHeader(), leases}
}
func (r leasesResult) message() proto.Message { return r.LeaseLeasesResponse }
