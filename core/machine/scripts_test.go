package machine_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/lease"
	"github.com/musterhq/muster/core/machine"
)

// The scripts drive one machine. A command is a kind with a request in protobuf
// text form, of which each line becomes one command; the output is the response
// with the revision of its header, or the refusal.
func TestMachineScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		var r *rig
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "new":
				var s machine.Settings
				if d.HasArg("quota") {
					d.ScanArgs(t, "quota", &s.Quota)
				}
				r = newRig(t, machine.Config{Settings: s})
				return ""
			case "term":
				var term int
				d.ScanArgs(t, "is", &term)
				r.term = uint64(term)
				return ""
			case "expire":
				var term, id int64
				d.ScanArgs(t, "term", &term)
				d.ScanArgs(t, "id", &id)
				return outcome(r.apply(machine.LeaseExpire, machine.EncodeLeaseExpire(uint64(term), []int64{id})), nil)
			case "settings":
				var s machine.Settings
				d.ScanArgs(t, "quota", &s.Quota)
				return outcome(r.apply(machine.SetSettings, s.Encode()), nil)
			case "restart":
				m, err := machine.Restore(machine.Config{}, dump(t, r.m.Publish()))
				if err != nil {
					t.Fatal(err)
				}
				r.m = m
				return ""
			case "effects":
				var b strings.Builder
				for _, e := range r.m.LeaseEffects() {
					fmt.Fprintf(&b, "%+v\n", e)
				}
				return b.String()
			case "events":
				var b strings.Builder
				for _, e := range r.m.TakeEvents() {
					what := "put"
					if e.Delete {
						what = "delete"
					}
					fmt.Fprintf(&b, "%d %s %s\n", e.Rev, what, e.KV.Key())
				}
				return b.String()
			case "leases":
				var b strings.Builder
				v := r.m.Publish()
				v.Leases.Each(func(l lease.Lease) bool {
					fmt.Fprintf(&b, "%d ttl %d remaining %d keys %q\n", l.ID, l.TTL, l.Remaining, v.Leases.Keys(l.ID))
					return true
				})
				return b.String()
			case "alarms":
				return fmt.Sprintln(r.m.Publish().Alarms)
			}
			kinds := map[string]struct {
				kind      machine.Kind
				req, resp proto.Message
			}{
				"put":     {machine.Put, &pb.PutRequest{}, &pb.PutResponse{}},
				"delete":  {machine.DeleteRange, &pb.DeleteRangeRequest{}, &pb.DeleteRangeResponse{}},
				"txn":     {machine.Txn, &pb.TxnRequest{}, &pb.TxnResponse{}},
				"compact": {machine.Compact, &pb.CompactionRequest{}, &pb.CompactionResponse{}},
				"grant":   {machine.LeaseGrant, &pb.LeaseGrantRequest{}, &pb.LeaseGrantResponse{}},
				"revoke":  {machine.LeaseRevoke, &pb.LeaseRevokeRequest{}, &pb.LeaseRevokeResponse{}},
				"alarm":   {machine.Alarm, &pb.AlarmRequest{}, &pb.AlarmResponse{}},
			}
			k, ok := kinds[d.Cmd]
			if !ok {
				t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			}
			var out strings.Builder
			inputs := strings.Split(strings.TrimSpace(d.Input), "\n")
			if d.Cmd == "txn" {
				inputs = []string{d.Input}
			}
			for _, in := range inputs {
				req := proto.Clone(k.req)
				if err := prototext.Unmarshal([]byte(in), req); err != nil {
					t.Fatalf("%s: %v", d.Pos, err)
				}
				fmt.Fprintln(&out, outcome(r.apply(k.kind, marshal(t, req)), proto.Clone(k.resp)))
			}
			return out.String()
		})
	})
}

// outcome shows a result; prototext varies its spacing on purpose.
func outcome(res machine.Result, resp proto.Message) string {
	if res.Err != nil {
		return fmt.Sprintf("refused: %v", res.Err)
	}
	text := fmt.Sprintf("rev %d", res.Rev)
	if resp == nil {
		return text
	}
	if err := proto.Unmarshal(res.Body, resp); err != nil {
		return err.Error()
	}
	return strings.Join(append([]string{text}, strings.Fields(prototext.MarshalOptions{}.Format(resp))...), " ")
}
