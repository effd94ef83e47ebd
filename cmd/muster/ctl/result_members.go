package ctl

import (
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// changedMembers is what the answers to membership changes have in common.
type changedMembers interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
	GetMembers() []*pb.Member
}

// memberAdded is followed, in the simple form, by the environment to start the new member with.
type memberAdded struct {
	*pb.MemberAddResponse
	name, peerURLs string
}

func (r memberAdded) simple(t *text) {
	as := " "
	if r.GetMember().GetIsLearner() {
		as = " as learner "
	}
	t.printf("Member %16x added%sto cluster %16x\n", r.GetMember().GetID(), as, r.GetHeader().GetClusterId())
	var cluster []string
	for _, m := range r.GetMembers() {
		for _, u := range m.GetPeerURLs() {
			name := m.GetName()
			if m.GetID() == r.GetMember().GetID() {
				name = r.name
			}
			cluster = append(cluster, name+"="+u)
		}
	}
	t.printf("\nETCD_NAME=%q\nETCD_INITIAL_CLUSTER=%q\n", r.name, strings.Join(cluster, ","))
	t.printf("ETCD_INITIAL_ADVERTISE_PEER_URLS=%q\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n", r.peerURLs)
}

func (r memberAdded) fields(t *text) {
	listOf(r.MemberAddResponse).fields(t)
}

func (r memberAdded) json(hex bool) any {
	if !hex {
		return r.MemberAddResponse
	}
	return struct {
		Header  any `json:"header"`
		Member  any `json:"member"`
		Members any `json:"members"`
	}{hexHeader(r.GetHeader()), hexMember(r.GetMember()), hexMembers(r.GetMembers())}
}
func (r memberAdded) message() proto.Message { return r.MemberAddResponse }

// memberChanged tells of a member that was removed, updated or promoted.
type memberChanged struct {
	changedMembers
	id   uint64
	done string
}

func (r memberChanged) simple(t *text) {
	t.printf("Member %16x %s cluster %16x\n", r.id, r.done, r.GetHeader().GetClusterId())
}
func (r memberChanged) fields(t *text) { listOf(r.changedMembers).fields(t) }
func (r memberChanged) json(hex bool) any {
	if !hex {
		return r.changedMembers
	}
	return listOf(r.changedMembers).json(true)
}
func (r memberChanged) message() proto.Message { return r.changedMembers }

func listOf(r changedMembers) membersResult {
	return membersResult{&pb.MemberListResponse{Header: r.GetHeader(), Members: r.GetMembers()}}
}

// moved tells where leadership went.
type moved struct{ from, to uint64 }

func (r moved) simple(t *text) { t.printf("Leadership transferred from %x to %x\n", r.from, r.to) }
func (r moved) fields(t *text) { t.printf("\"From\" : %d\n\"To\" : %d\n", r.from, r.to) }
func (r moved) json(hex bool) any {
	if hex {
		return map[string]string{"from": fmt.Sprintf("%x", r.from), "to": fmt.Sprintf("%x", r.to)}
	}
	return map[string]uint64{"from": r.from, "to": r.to}
}

type endpointHash struct {
	Endpoint string
	HashKV   *pb.HashKVResponse
}

type hashResult []endpointHash

func (r hashResult) simple(t *text) { t.rows(r) }

func (r hashResult) fields(t *text) {
	for _, e := range r {
		t.header(e.HashKV.GetHeader())
		t.printf("\"Endpoint\" : %q\n\"Hash\" : %d\n\"HashRevision\" : %d\n\n", e.Endpoint, e.HashKV.GetHash(), e.HashKV.GetHashRevision())
	}
}
func (r hashResult) json(bool) any { return r }

func (r hashResult) table() (header []string, rows [][]string) {
	for _, e := range r {
		rows = append(rows, []string{e.Endpoint, fmt.Sprint(e.HashKV.GetHash()), fmt.Sprint(e.HashKV.GetHashRevision())})
	}
	return []string{"endpoint", "hash", "hash_revision"}, rows
}
