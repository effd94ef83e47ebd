package ctl

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/sdk/mustertest"
)

// The wanted texts are what etcdctl 3.7.3 prints, but that its simple form has one
// space or two, by the way it was built.
func TestAlarmsAreListedAndDisarmedAsByEtcdctl(t *testing.T) {
	cluster := mustertest.Start(t, 1)
	endpoint := cluster.Endpoints()[0]
	conn := pb.NewMaintenanceClient(cluster.Client().Conn())
	status, err := conn.Status(t.Context(), &pb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	ids := strings.NewReplacer(
		"MEMBER", fmt.Sprint(status.Header.MemberId), "CLUSTER", fmt.Sprint(status.Header.ClusterId),
		"MHEX", fmt.Sprintf("%x", status.Header.MemberId), "CHEX", fmt.Sprintf("%x", status.Header.ClusterId),
	)
	raise := func() {
		for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
			if _, err := conn.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: kind}); err != nil {
				t.Fatal(err)
			}
		}
	}
	const (
		header = `{"header":{"cluster_id":CLUSTER,"member_id":MEMBER,"revision":1,"raft_term":2}`
		alarms = `"alarms":[{"memberID":MEMBER,"alarm":1},{"memberID":MEMBER,"alarm":2}]}` + "\n"
		simple = "memberID:MEMBER alarm:NOSPACE\nmemberID:MEMBER alarm:CORRUPT\n"
		fields = "\"Revision\" : 1\n\"RaftTerm\" : 2\n\"MemberID\" : %[1]s\n\"AlarmType\" : NOSPACE\n\n\"MemberID\" : %[1]s\n\"AlarmType\" : CORRUPT\n\n"
	)
	for _, c := range []struct {
		args     string
		raised   bool
		code     int
		out, err string
	}{
		{"alarm list", false, 0, "", ""},
		{"alarm list -w json", false, 0, header + "}\n", ""},
		{"alarm list", true, 0, simple, ""},
		{"alarm list -w json", true, 0, header + "," + alarms, ""},
		{"alarm list -w json --hex", true, 0, header + "," + alarms, ""},
		{"alarm list -w fields", true, 0, "\"ClusterID\" : CLUSTER\n\"MemberID\" : MEMBER\n" + fmt.Sprintf(fields, "MEMBER"), ""},
		{"alarm list -w fields --hex", true, 0, "\"ClusterID\" : CHEX\n\"MemberID\" : MHEX\n" + fmt.Sprintf(fields, "MHEX"), ""},
		{"alarm list -w table", true, 4, "", "Error: table not supported as output format\n  etcdctl alarm list: nothing was sent; -w knows here: simple, fields, json, protobuf\n"},
		{"alarm disarm -w table", true, 4, "", "Error: table not supported as output format\n"},
		{"alarm list all", true, 128, "", "Error: alarm list command accepts no arguments\n"},
		{"alarm disarm all", true, 128, "", "Error: alarm disarm command accepts no arguments\n"},
		{"get k", true, 1, "", "Error: etcdserver: corrupt cluster\n  etcdctl get: members disagree"},
		{"endpoint health", true, 1, "", endpoint + " is unhealthy: failed to commit proposal: etcdserver: corrupt cluster\nError: unhealthy cluster\n  etcdctl endpoint health: members disagree"},
		{"alarm disarm", true, 0, simple, ""},
		{"alarm disarm", false, 0, "", ""},
		{"alarm disarm -w json", true, 0, "{" + alarms, ""},
		{"alarm list", false, 0, "", ""},
	} {
		if c.raised {
			raise()
		}
		code, out, errOut := says(t, endpoint, strings.Fields(c.args)...)
		if want := ids.Replace(c.out); code != c.code || out != want || !strings.HasPrefix(errOut, c.err) || c.err == "" && errOut != "" {
			t.Errorf("%s: exit code %d, output %q, errors %q; want %d, %q, %q", c.args, code, out, errOut, c.code, want, c.err)
		}
	}
	if _, err := conn.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		t.Fatal(err)
	}
	code, _, errOut := says(t, endpoint, "endpoint", "health")
	for _, want := range []string{"Active Alarm(s): NOSPACE", "'compaction'", "--quota-backend-bytes", "'alarm list'"} {
		if code != 1 || !strings.Contains(errOut, want) || strings.Contains(errOut, "network") {
			t.Errorf("endpoint health of a full store: exit code %d, %q; want %q in it", code, errOut, want)
		}
	}
	if code, _, errOut := says(t, endpoint, "alarm", "disarm"); code != 0 {
		t.Fatal(errOut)
	}
	if code, out, errOut := says(t, endpoint, "put", "k", "v"); code != 0 {
		t.Errorf("after all: %q, %q", out, errOut)
	}
}
