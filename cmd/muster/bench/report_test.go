package bench

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/cmd/muster/bench/histogram"
)

func stopAfter(cancel context.CancelFunc) *time.Timer {
	return time.AfterFunc(200*time.Millisecond, cancel)
}

func TestPutsEncodeAsPutRequests(t *testing.T) {
	p := puts{keyspace: keyspace{size: 8, keys: 1000, sequential: true}, valueSize: 300}
	next := p.requests(1)(0)
	var b []byte
	for i := range 1001 {
		b = next(0, b[:0])
		var r pb.PutRequest
		if err := proto.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		want := []string{"00000000", "00000001"}
		if i < 2 && string(r.Key) != want[i] || i == 1000 && string(r.Key) != want[0] || len(r.Value) != 300 {
			t.Errorf("put %d: key %q, value of %d bytes", i, r.Key, len(r.Value))
		}
	}
}

func TestRandomKeysRepeatWithTheirSeed(t *testing.T) {
	p := puts{keyspace: keyspace{size: 8, keys: 1000}}
	first, again, other := p.requests(7)(3), p.requests(7)(3), p.requests(7)(4)
	same := 0
	for range 50 {
		a, b, c := string(first(0, nil)), string(again(0, nil)), string(other(0, nil))
		if a != b {
			t.Fatal("seed 7: two runs differ")
		}
		if a == c {
			same++
		}
	}
	if same > 10 {
		t.Errorf("connections choose the same keys: %d of 50", same)
	}
}

func TestRangesEncodeAsRangeRequests(t *testing.T) {
	for _, c := range []struct {
		r    *ranges
		args []string
		want *pb.RangeRequest
	}{
		{&ranges{consistency: "l"}, []string{"a"}, &pb.RangeRequest{Key: []byte("a")}},
		{&ranges{consistency: "s", limit: 5}, []string{"a", "b"}, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), Serializable: true, Limit: 5}},
		{&ranges{consistency: "l", prefix: true}, []string{"a\xff"}, &pb.RangeRequest{Key: []byte("a\xff"), RangeEnd: []byte("b")}},
		{&ranges{consistency: "l", fromKey: true, keysOnly: true}, []string{""}, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, KeysOnly: true}},
		{&ranges{consistency: "l", countOnly: true}, nil, &pb.RangeRequest{Key: []byte("0000"), CountOnly: true}},
	} {
		c.r.keyspace.size, c.r.keyspace.keys = 4, 1
		if err := c.r.resolve(c.args); err != nil {
			t.Fatal(err)
		}
		next, err := c.r.requests(1)
		if err != nil {
			t.Fatal(err)
		}
		var got pb.RangeRequest
		if err := proto.Unmarshal(next(0)(0, nil), &got); err != nil || !proto.Equal(&got, c.want) {
			t.Errorf("%v: %v (%v), want %v", c.args, &got, err, c.want)
		}
	}
}

func TestDeliveriesAreCountedAndTimed(t *testing.T) {
	f := &fanout{woken: make(chan struct{}, 1)}
	f.wanted.Store(2)
	var h histogram.Histogram
	event := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: []byte{0, 0, 0, 0, 0, 0, 0, 100, 'x'}, ModRevision: 7}}
	for _, r := range []*pb.WatchResponse{
		{Header: &pb.ResponseHeader{Revision: 3}, WatchId: 2, Created: true},
		{Header: &pb.ResponseHeader{Revision: 7}, WatchId: 2, Events: []*mvccpb.Event{event, event}},
	} {
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.receive(b, &h, 130); err != nil {
			t.Error(err)
		}
	}
	if f.created.Load() != 1 || f.delivered.Load() != 2 || h.Count() != 2 || h.Max() != 30 || len(f.woken) != 1 {
		t.Errorf("created %d, delivered %d, %d timed, at most %d", f.created.Load(), f.delivered.Load(), h.Count(), h.Max())
	}
	canceled, err := proto.Marshal(&pb.WatchResponse{Canceled: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.receive(canceled, &h, 0); err == nil {
		t.Error("a canceled watch is no error")
	}
}

func FuzzReceiveTakesAnyBytes(f *testing.F) {
	f.Add([]byte{0x5a, 2, 0x12, 0}, []byte{0x18, 1})
	f.Fuzz(func(_ *testing.T, a, b []byte) {
		fan := &fanout{woken: make(chan struct{}, 1)}
		var h histogram.Histogram
		_ = fan.receive(a, &h, 0)
		_ = stillAlive(b)
	})
}

func TestALeaseWithoutTTLIsGone(t *testing.T) {
	for ttl, alive := range map[int64]bool{60: true, 0: false} {
		b, err := proto.Marshal(&pb.LeaseKeepAliveResponse{Header: &pb.ResponseHeader{Revision: 9}, ID: 5, TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		if got := stillAlive(b) == nil; got != alive {
			t.Errorf("TTL %d: alive %v", ttl, got)
		}
	}
}

func TestFindingsAreMediansHeldToTheirTargets(t *testing.T) {
	f := findings{}
	put := metric{name: "put", what: "server CPU a put", unit: "µs", target: 0.55}
	for i, v := range []float64{50, 90, 60} {
		f.add(put, kindEtcd, v)
		f.add(put, kindMuster, []float64{20, 21, 99}[i])
	}
	f.add(metric{name: "put", what: generatorCPU, unit: "µs"}, kindEtcd, 6)
	f.add(metric{name: "put", what: generatorCPU, unit: "µs"}, kindMuster, 15)
	memory := metric{name: "keys", what: "memory", unit: "MiB", target: 0.8}
	f.add(memory, kindEtcd, 100)
	f.add(memory, kindMuster, 81)
	f.add(metric{name: "unfinished"}, kindEtcd, 1)
	rows := f.rows()
	if len(rows) != 3 || rows[0].Etcd != 60 || rows[0].Muster != 21 || rows[0].Ratio != 0.35 || rows[0].Verdict != "ok" || rows[2].Verdict != "MISSED" {
		t.Errorf("rows %+v", rows)
	}
	s := shares(rows)
	if len(s) != 1 || s[0].Etcd != 0.1 || s[0].ClearlyCheaper {
		t.Errorf("shares %+v: 15 of 21 µs isn't clearly cheaper", s)
	}
	for _, format := range []string{"simple", "markdown", "json"} {
		var b strings.Builder
		if err := f.write(&b, format, []string{"here"}); err != nil || !strings.Contains(b.String(), "MISSED") || !strings.Contains(b.String(), "here") {
			t.Errorf("%s: %v\n%s", format, err, b.String())
		}
	}
}

func TestMetricsAreReadAndInterpolated(t *testing.T) {
	const text = `# HELP h help
h_bucket{le="0.001"} 50
h_bucket{le="0.002"} 90
h_bucket{le="0.004"} 100
h_bucket{le="+Inf"} 100
h_sum 1.5
h_count 100
other 1e3
unwanted 2
`
	s, err := parseMetrics(strings.NewReader(text), []string{"h", "other"})
	if err != nil {
		t.Fatal(err)
	}
	if s["other"] != 1000 || s["h_count"] != 100 || s["unwanted"] != 0 {
		t.Errorf("read %v", s)
	}
	h := s.bucketsOf("h")
	for q, want := range map[float64]float64{0.5: 0.001, 0.25: 0.0005, 0.7: 0.0015, 0.99: 0.0038, 1: 0.004} {
		if got := h.quantile(q); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if d := cumulative(nil).add(h, h); d.count() != 0 || d.quantile(0.99) != 0 {
		t.Errorf("nothing between two equal scrapes, got %v", d)
	}
}

func TestSyncsBesideCheckpointsAreTold(t *testing.T) {
	at := func(ms int, syncs, slow, finished, took float64, resident int64) observation {
		return observation{
			at: time.Duration(ms) * time.Millisecond, resident: resident, live: 10 << 20, checkpoints: finished, checkpointsTook: took,
			syncs: cumulative{{0.001, syncs - slow}, {0.032, syncs}, {math.Inf(1), syncs}},
		}
	}
	seen := observations{
		at(250, 100, 0, 0, 0, 100<<20),
		at(500, 200, 0, 0, 0, 100<<20),
		at(750, 300, 50, 0, 0, 280<<20), // a checkpoint of 0.4 s ended at about 900 ms
		at(1000, 400, 100, 1, 0.4, 276<<20),
		at(1250, 500, 100, 1, 0.4, 200<<20),
	}
	r := seen.report(&result{})
	// The earliest it can have begun is 350 ms: three windows.
	if r.Checkpoints != 1 || r.Beside.Count != 300 || r.Otherwise.Count != 100 || r.Otherwise.P99 > 1 || r.Beside.P99 < 10 || r.SyncsOK {
		t.Errorf("report %+v", r)
	}
	if r.MemoryOK || r.Worst != 4<<20 || r.WorstAt != 0.75 || r.Peak != 280<<20 {
		t.Errorf("280 MiB with 10 live is 4 over the limit: %+v", r)
	}
}
