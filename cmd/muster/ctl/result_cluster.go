package ctl

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

type membersResult struct{ *pb.MemberListResponse }

func (r membersResult) table() (header []string, rows [][]string) {
	for _, m := range r.GetMembers() {
		status := "started"
		if m.GetName() == "" {
			status = "unstarted"
		}
		rows = append(rows, []string{
			fmt.Sprintf("%x", m.GetID()), status, m.GetName(), strings.Join(m.GetPeerURLs(), ","),
			strings.Join(m.GetClientURLs(), ","), strconv.FormatBool(m.GetIsLearner()),
		})
	}
	return []string{"ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"}, rows
}

// rows writes a table as lines.
func (t *text) rows(f tableForm) {
	_, rows := f.table()
	for _, row := range rows {
		t.printf("%s\n", strings.Join(row, ", "))
	}
}

func (r membersResult) simple(t *text) { t.rows(r) }

func (r membersResult) fields(t *text) {
	t.header(r.GetHeader())
	for _, m := range r.GetMembers() {
		if t.hex {
			t.printf("\"ID\" : %x\n", m.GetID())
		} else {
			t.printf("\"ID\" : %d\n", m.GetID())
		}
		t.printf("\"Name\" : %q\n", m.GetName())
		for _, u := range m.GetPeerURLs() {
			t.printf("\"PeerURL\" : %q\n", u)
		}
		for _, u := range m.GetClientURLs() {
			t.printf("\"ClientURL\" : %q\n", u)
		}
		t.printf("\"IsLearner\" : %t\n\n", m.GetIsLearner())
	}
}

// json has its ids in hexadecimal with --hex; only answers about members heed it.
func (r membersResult) json(hex bool) any {
	if !hex {
		return r.MemberListResponse
	}
	return struct {
		Header  any `json:"header"`
		Members any `json:"members"`
	}{hexHeader(r.GetHeader()), hexMembers(r.GetMembers())}
}
func (r membersResult) message() proto.Message { return r.MemberListResponse }

func hexHeader(h *pb.ResponseHeader) any {
	return struct {
		ClusterID string `json:"cluster_id"`
		MemberID  string `json:"member_id"`
		Revision  int64  `json:"revision,omitempty"`
		RaftTerm  uint64 `json:"raft_term,omitempty"`
	}{fmt.Sprintf("%x", h.GetClusterId()), fmt.Sprintf("%x", h.GetMemberId()), h.GetRevision(), h.GetRaftTerm()}
}

func hexMember(m *pb.Member) any {
	return struct {
		ID         string   `json:"ID"`
		Name       string   `json:"name,omitempty"`
		PeerURLs   []string `json:"peerURLs,omitempty"`
		ClientURLs []string `json:"clientURLs,omitempty"`
		IsLearner  bool     `json:"isLearner,omitempty"`
	}{fmt.Sprintf("%x", m.GetID()), m.GetName(), m.GetPeerURLs(), m.GetClientURLs(), m.GetIsLearner()}
}

func hexMembers(members []*pb.Member) []any {
	all := make([]any, 0, len(members))
	for _, m := range members {
		all = append(all, hexMember(m))
	}
	return all
}

type endpointHealth struct {
	Endpoint string   `json:"endpoint"`
	Health   bool     `json:"health"`
	Took     string   `json:"took"`
	Error    string   `json:"error,omitempty"`
	advice   []string // what to do about the error
}

// healthResult prints the healthy ones; in the simple form the command itself tells of the others, on stderr.
type healthResult []endpointHealth

func (r healthResult) simple(t *text) {
	for _, h := range r {
		if h.Error == "" {
			t.printf("%s is healthy: successfully committed proposal: took = %s\n", h.Endpoint, h.Took)
		}
	}
}

func (r healthResult) fields(t *text) {
	for _, h := range r {
		t.printf("\"Endpoint\" : %q\n\"Health\" : %t\n\"Took\" : %s\n\"Error\" : %s\n\n", h.Endpoint, h.Health, h.Took, h.Error)
	}
}
func (r healthResult) json(bool) any { return r }

func (r healthResult) table() (header []string, rows [][]string) {
	for _, h := range r {
		rows = append(rows, []string{h.Endpoint, strconv.FormatBool(h.Health), h.Took, h.Error})
	}
	return []string{"endpoint", "health", "took", "error"}, rows
}

type endpointStatus struct {
	Endpoint string
	Status   *pb.StatusResponse
}

type statusResult []endpointStatus

func (r statusResult) simple(t *text) { t.rows(r) }

func (r statusResult) fields(t *text) {
	for _, e := range r {
		s := e.Status
		t.header(s.GetHeader())
		t.printf("\"Version\" : %q\n\"StorageVersion\" : %q\n", s.GetVersion(), s.GetStorageVersion())
		t.printf("\"DBSize\" : %d\n\"DBSizeInUse\" : %d\n\"DBSizeQuota\" : %d\n", s.GetDbSize(), s.GetDbSizeInUse(), s.GetDbSizeQuota())
		t.printf("\"Leader\" : %d\n\"IsLearner\" : %t\n", s.GetLeader(), s.GetIsLearner())
		t.printf("\"RaftIndex\" : %d\n\"RaftAppliedIndex\" : %d\n", s.GetRaftIndex(), s.GetRaftAppliedIndex())
		t.printf("\"Errors\" : %v\n\"Endpoint\" : %q\n", s.GetErrors(), e.Endpoint)
		d := s.GetDowngradeInfo()
		t.printf("\"DowngradeTargetVersion\" : %q\n\"DowngradeEnabled\" : %t\n\n", d.GetTargetVersion(), d.GetEnabled())
	}
}
func (r statusResult) json(bool) any { return r }

func (r statusResult) table() (header []string, rows [][]string) {
	for _, e := range r {
		s := e.Status
		unused := int64(0)
		if s.GetDbSize() > 0 {
			unused = 100 - s.GetDbSizeInUse()*100/s.GetDbSize()
		}
		rows = append(rows, []string{
			e.Endpoint, fmt.Sprintf("%x", s.GetHeader().GetMemberId()), s.GetVersion(), s.GetStorageVersion(),
			bytesize(s.GetDbSize()), bytesize(s.GetDbSizeInUse()), fmt.Sprintf("%d%%", unused), bytesize(s.GetDbSizeQuota()),
			strconv.FormatBool(s.GetLeader() == s.GetHeader().GetMemberId()), strconv.FormatBool(s.GetIsLearner()),
			fmt.Sprint(s.GetRaftTerm()), fmt.Sprint(s.GetRaftIndex()), fmt.Sprint(s.GetRaftAppliedIndex()),
			strings.Join(s.GetErrors(), ", "),
			s.GetDowngradeInfo().GetTargetVersion(), strconv.FormatBool(s.GetDowngradeInfo().GetEnabled()),
		})
	}
	return []string{
		"endpoint", "ID", "version", "storage version", "db size", "in use", "percentage not in use", "quota", "is leader", "is learner",
		"raft term", "raft index", "raft applied index", "errors", "downgrade target version", "downgrade enabled",
	}, rows
}

// bytesize is a size for people, in powers of ten: two digits below 10, else whole.
func bytesize(n int64) string {
	if n < 10 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for size >= 1000 {
		size /= 1000
		unit++
	}
	if size = math.Floor(size*10+0.5) / 10; size < 10 {
		return fmt.Sprintf("%.1f %s", size, units[unit])
	}
	return fmt.Sprintf("%.0f %s", size, units[unit])
}
