package machine_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/membership"
	"github.com/musterhq/muster/core/spec"
)

// buckets is a checkpoint in memory.
type buckets map[string][][2][]byte

func (b buckets) Each(name string, fn func(k, v []byte) error) error {
	for _, p := range b[name] {
		if err := fn(p[0], p[1]); err != nil {
			return err
		}
	}
	return nil
}

func dump(t testing.TB, v *machine.View) buckets {
	t.Helper()
	list, err := v.Buckets()
	if err != nil {
		t.Fatal(err)
	}
	out := make(buckets)
	for i, b := range list {
		if i > 0 && b.Name <= list[i-1].Name {
			t.Fatalf("bucket %q after %q", b.Name, list[i-1].Name)
		}
		for k, v := range b.Pairs {
			if n := len(out[b.Name]); n > 0 && bytes.Compare(out[b.Name][n-1][0], k) >= 0 {
				t.Fatalf("bucket %q: key %x after %x", b.Name, k, out[b.Name][n-1][0])
			}
			out[b.Name] = append(out[b.Name], [2][]byte{bytes.Clone(k), bytes.Clone(v)})
		}
	}
	return out
}

func founders() []membership.Member {
	return []membership.Member{{ID: 1, PeerURLs: []string{"http://a"}}, {ID: 2, PeerURLs: []string{"http://b"}}}
}

// History of one run in comparable form.
type run struct {
	results []string
	events  []string
	final   buckets
	hash    uint64
	used    int64
}

// execute applies commands in entries, disturbed by rng in all the ways that
// must not matter. A nil rng is the plain way.
func execute(t *testing.T, commands [][]byte, rng *rand.Rand) run {
	t.Helper()
	cfg := machine.Config{Settings: machine.Settings{Quota: 20_000}}
	m, err := machine.New(cfg, founders()...)
	if err != nil {
		t.Fatal(err)
	}
	chance := func(n int) bool { return rng != nil && rng.IntN(n) == 0 }
	var out run
	index := uint64(0)
	var held []*machine.View // keeps copy-on-write busy
	for len(commands) > 0 {
		batch := 1
		if rng != nil {
			batch = rng.IntN(6) // 0: raft's empty entry
		}
		batch = min(batch, len(commands))
		index++
		for _, c := range commands[:batch] {
			want := !chance(3)
			res := m.Apply(index, 5, c, want)
			text := fmt.Sprintf("id %d rev %d err %v", res.ID, res.Rev, res.Err)
			if want {
				text += fmt.Sprintf(" body %x", res.Body)
			}
			out.results = append(out.results, text)
		}
		commands = commands[batch:]
		m.EndEntry(index, 5)
		for _, e := range m.TakeEvents() {
			out.events = append(out.events, fmt.Sprintf("%d %v %x %x", e.Rev, e.Delete, e.KV, e.Prev))
		}
		if chance(2) {
			m.Background(1 + rng.IntN(20))
		}
		if chance(3) {
			held = append(held, m.Publish())
			if len(held) > 3 {
				held = held[1:]
			}
		}
		if chance(40) {
			if m, err = machine.Restore(cfg, dump(t, m.Publish())); err != nil {
				t.Fatal(err)
			}
		}
	}
	for m.Background(1000) {
	}
	v := m.Publish()
	out.final, out.hash, out.used = dump(t, v), v.Hash, v.Used
	// Where the entries ended is all that may differ.
	out.final["meta"] = slices.DeleteFunc(out.final["meta"], func(p [2][]byte) bool { return string(p[0]) == "consistent_index" })
	return out
}

func TestBatchingPublishingAndCheckpointsChangeNothing(t *testing.T) {
	seeds := uint64(25)
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 9))
		s := spec.New() // only to know about where the revision is
		g := &gen{rng: rng, rev: s.Rev}
		var commands [][]byte
		for id := range 800 {
			kind, req := g.request()
			body, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Apply(req); err == nil && g.one(3) {
				body = append([]byte(nil), body...)
			}
			switch rng.IntN(40) {
			case 0:
				kind, body = machine.LeaseExpire, machine.EncodeLeaseExpire(5-uint64(rng.IntN(2)), []int64{1, 9, 3})
			case 1:
				kind, body = machine.Alarm, marshal(t, &pb.AlarmRequest{Action: pb.AlarmRequest_AlarmAction(rng.IntN(3)), MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
			case 2:
				kind, body = machine.SetSettings, machine.Settings{Quota: int64(1000 + rng.IntN(40_000))}.Encode()
			case 3:
				kind, body = machine.MemberAttributes, machine.EncodeMemberAttributes(uint64(1+rng.IntN(3)), fmt.Sprint("n", id), []string{"http://c"})
			case 4:
				kind, body = machine.LeaseCheckpoint, machine.EncodeLeaseCheckpoint(int64(rng.IntN(5)), int64(rng.IntN(5)))
			case 5:
				kind, body = machine.ClusterVersion, machine.EncodeClusterVersion("3.7.0")
			case 6:
				kind, body = machine.Put, append(body, 0xff) // malformed
			case 7:
				kind, body = machine.Put, marshal(t, &pb.PutRequest{Key: g.key(), Value: make([]byte, rng.IntN(2000))})
			case 8:
				kind, body = machine.Compact, marshal(t, &pb.CompactionRequest{Revision: s.Rev() * 2 / 3})
			}
			c := machine.Command{Kind: kind, ID: uint64(id), Member: 1, Time: int64(id), Body: body}
			commands = append(commands, c.AppendTo(nil))
		}
		plain := execute(t, commands, nil)
		for variant := range uint64(3) {
			other := execute(t, commands, rand.New(rand.NewPCG(seed, 100+variant)))
			for i, want := range plain.results {
				got := other.results[i]
				if len(got) < len(want) { // no reply was wanted
					want = want[:len(got)]
				}
				if got != want {
					t.Fatalf("seed %d variant %d: command %d\ngot  %s\nwant %s", seed, variant, i, got, want)
				}
			}
			if !slices.Equal(other.events, plain.events) {
				t.Fatalf("seed %d variant %d: other events", seed, variant)
			}
			if other.hash != plain.hash || other.used != plain.used {
				t.Fatalf("seed %d variant %d: hash %x used %d, want %x and %d", seed, variant, other.hash, other.used, plain.hash, plain.used)
			}
			for name, want := range plain.final {
				if fmt.Sprintf("%x", other.final[name]) != fmt.Sprintf("%x", want) {
					t.Fatalf("seed %d variant %d: bucket %q differs:\ngot  %q\nwant %q", seed, variant, name, other.final[name], want)
				}
			}
		}
	}
}

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
