package machine_test

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
)

// rig drives one machine, one command an entry.
type rig struct {
	t     testing.TB
	m     *machine.Machine
	index uint64
	term  uint64
}

func newRig(t testing.TB, cfg machine.Config) *rig {
	t.Helper()
	m, err := machine.New(cfg, membership.Member{ID: 1, PeerURLs: []string{"http://a"}})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t: t, m: m, term: 1}
}

// apply runs one command in an entry of its own.
func (r *rig) apply(kind machine.Kind, body []byte) machine.Result {
	c := machine.Command{Kind: kind, ID: r.index + 100, Member: 1, Body: body}
	r.index++
	res := r.m.Apply(r.index, r.term, c.AppendTo(nil), true)
	r.m.EndEntry(r.index, r.term)
	return res
}

// do runs a request and decodes its reply into resp.
func (r *rig) do(kind machine.Kind, req, resp proto.Message) error {
	r.t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		r.t.Fatal(err)
	}
	res := r.apply(kind, body)
	if res.Err != nil {
		return res.Err
	}
	if err := proto.Unmarshal(res.Body, resp); err != nil {
		r.t.Fatalf("%v: unreadable reply %x: %v", kind, res.Body, err)
	}
	return nil
}

func (r *rig) put(key, value string, leaseID int64) error {
	return r.do(machine.Put, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: leaseID}, &pb.PutResponse{})
}

func TestPutIsReadFromTheNextView(t *testing.T) {
	r := newRig(t, machine.Config{})
	if err := r.put("k", "v", 0); err != nil {
		t.Fatal(err)
	}
	v := r.m.Publish()
	rec, ok := v.KV.Get([]byte("k"))
	if !ok || string(rec.Value()) != "v" || v.KV.Rev() != 2 || v.Index != 1 {
		t.Fatalf("record %q, revision %d, index %d", rec, v.KV.Rev(), v.Index)
	}
}
