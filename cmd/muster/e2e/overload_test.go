package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/cmd/muster/bench/h2load"
	resources "github.com/musterhq/muster/cmd/muster/bench/process"
	"github.com/musterhq/muster/cmd/muster/e2e/program"
	"github.com/musterhq/muster/sdk"
)

var overloadFor = flag.Duration("overload", 0, "how long to overload; 0: a few seconds, with a smaller crowd")

// crowd is what comes at a member, or at three: ten times as many writes as they
// take on, each begun again as soon as it is answered.
type crowd struct {
	accepted int           // --max-pending-requests
	duration time.Duration // of the overload
	ttl      time.Duration // of the leases to be kept alive
	flags    []string
}

func overload() crowd {
	if *overloadFor > 0 {
		return crowd{accepted: 2000, duration: *overloadFor, ttl: 6 * time.Second}
	}
	// On a machine with other things to do a heartbeat may be seconds late.
	return crowd{
		accepted: 200, duration: time.Second, ttl: 30 * time.Second,
		flags: []string{"--heartbeat-interval=100", "--election-timeout=3000"},
	}
}

func TestOverloadOfOneMemberCostsNeitherAcknowledgedWritesNorLeases(t *testing.T) {
	overloaded(t, 1, overload())
}

func TestOverloadOfThreeMembersCostsNeitherAcknowledgedWritesNorLeases(t *testing.T) {
	overloaded(t, 3, overload())
}

func overloaded(t *testing.T, members int, crowd crowd) {
	clients := 10 * crowd.accepted * members
	c := startCluster(t, members, append(crowd.flags, fmt.Sprint("--max-pending-requests=", crowd.accepted))...)
	admin := connect(t, c.Endpoints()...)
	leader := c.Leader(t, admin)
	term := statusOf(t, admin, leader).RaftTerm
	reader := startSlowWatcher(t, leader)
	bearable := flood(t, c, "f", crowd.accepted/4*members, max(crowd.duration/10, time.Second))
	tenants := startTenants(t, c, crowd.ttl)

	report := flood(t, c, "f", clients, crowd.duration)
	began := time.Now()
	pending, slow := metric(t, leader, "etcd_debugging_mvcc_pending_events_total"), metric(t, leader, "etcd_debugging_mvcc_slow_watcher_total")
	eventually(t, "a write is acknowledged", func() bool {
		_, err := admin.Put(within(t, time.Second), "afterwards", "")
		return err == nil
	})
	recovered := time.Since(began)
	tenants.stop()

	const refusal, late = "ResourceExhausted: etcdserver: too many requests", "Unavailable: etcdserver: request timed out"
	t.Logf("bearable: %.0f writes/s; %d clients in %v: %.0f/s acknowledged, %.0f/s asked for, failures %v", bearable.perSecond(bearable.Done),
		clients, crowd.duration, report.perSecond(report.Done), report.perSecond(report.Begun), report.Errors)
	t.Logf("%v; a write is acknowledged %v after the end", tenants, recovered.Round(time.Millisecond))
	if report.Errors[refusal] == 0 {
		t.Error("nothing was refused: that was no overload")
	}
	for what, n := range report.Errors {
		// What was let in may take too long, if there is little processor time to be had.
		if what != refusal && what != late {
			t.Errorf("%d of the crowd's writes ended with %q", n, what)
		}
	}
	st := statusOf(t, admin, leader)
	if st.RaftTerm != term || st.Leader != st.Header.MemberId {
		t.Errorf("the term went from %d to %d, %x leads: leadership was lost", term, st.RaftTerm, st.Leader)
	}
	tenants.verify(t, admin)

	// Each acknowledged write of the crowd raised its key's version by one.
	var versions int64
	for _, kv := range get(t, admin, "f", clientv3.WithPrefix()).Kvs {
		versions += kv.Version
	}
	if done, begun := int64(bearable.Done+report.Done), int64(bearable.Begun+report.Begun); versions < done || versions > begun {
		t.Errorf("%d of the crowd's writes are there, %d were acknowledged and %d begun", versions, done, begun)
	}

	// What a watcher that doesn't read may hold: its budget.
	const budget, smallest = 4 << 20, floodValue + 16 // bytes, of an event
	t.Logf("the watcher that doesn't read: %.0f of %d events wait in memory, that is %.1f MiB", pending, versions, pending*smallest/(1<<20))
	if pending*smallest > budget {
		t.Errorf("%v events pending; want at most %d", pending, budget/smallest)
	}
	if enough := versions*smallest > 2*budget; enough && slow != 1 {
		t.Errorf("%v slow watchers after %d events; want 1, which reads history later", slow, versions)
	}
	reader.catchUp(t, versions)

	for _, m := range c.Members {
		const fixed = 512 << 20
		mem, err := resources.MemoryOf(m.Cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: at most %d MiB resident, with %d MiB stored", m.Name, mem.Peak>>20, st.DbSizeInUse>>20)
		if limit := 2*st.DbSizeInUse + fixed; mem.Peak > limit {
			t.Errorf("%s took %d MiB; want at most twice what is stored and %d MiB, %d MiB", m.Name, mem.Peak>>20, fixed>>20, limit>>20)
		}
	}
}

const floodValue = 256

// floodEnv makes the test's program a crowd: a process of its own, so that the
// tenants' measurements are not those of a busy client.
const floodEnv = "MUSTER_E2E_FLOOD"

type floodSpec struct {
	Addrs    []string
	Prefix   string
	Clients  int
	Duration time.Duration
}

// floodReport is what it prints.
type floodReport struct {
	Begun, Done uint64
	Errors      map[string]uint64
	Elapsed     time.Duration
}

func (r *floodReport) perSecond(n uint64) float64 { return float64(n) / r.Elapsed.Seconds() }

// flood puts to keys that begin with prefix, on all members, as fast as answers come.
func flood(t *testing.T, c *Cluster, prefix string, clients int, d time.Duration) (r floodReport) {
	t.Helper()
	spec, err := json.Marshal(floodSpec{c.Endpoints(), prefix, clients, d})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, program.NewOutput(), "", []string{floodEnv + "=" + string(spec)}, self)
	if state := p.wait(t, d+2*time.Minute); !state.Success() {
		t.Fatalf("the crowd: %v: %s", state, tail(p.Log()))
	}
	if err := json.Unmarshal([]byte(p.Log()), &r); err != nil {
		t.Fatalf("the crowd said %q: %v", tail(p.Log()), err)
	}
	return r
}

func floodWorker(text string) int {
	const (
		keys   = 1000
		digits = 2 // tag and length; then the prefix
	)
	var spec floodSpec
	err := json.Unmarshal([]byte(text), &spec)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	message, err := proto.Marshal(&pb.PutRequest{Key: []byte(spec.Prefix + "0000000"), Value: make([]byte, floodValue)})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	report, err := h2load.Run(context.Background(), h2load.Config{
		Addrs: spec.Addrs, Conns: min(60, spec.Clients), Clients: spec.Clients, Method: pb.KV_Put_FullMethodName,
		Duration: spec.Duration, Timeout: 2 * time.Minute,
		Next: func(conn int) func(int, []byte) []byte {
			rng := rand.New(rand.NewPCG(1, uint64(conn)))
			return func(_ int, dst []byte) []byte {
				at := len(dst) + digits + len(spec.Prefix)
				dst = append(dst, message...)
				copy(dst[at:], fmt.Sprintf("%07d", rng.IntN(keys)))
				return dst
			}
		},
	})
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(floodReport{report.Begun, report.Done, report.Errors, report.Elapsed})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// tenants are those who are there all along: some write and note what was
// acknowledged, others keep leases alive.
type tenants struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup

	sessions []*sdk.Session
	created  []int64 // revisions of their keys

	mu struct {
		sync.Mutex
		acked             []string
		answers, refusals []time.Duration
		unknown           int
		renewals          []time.Duration
		lost              []error
	}
}

const leaseholders, writers = 5, 8

func startTenants(t *testing.T, c *Cluster, ttl time.Duration) *tenants {
	t.Helper()
	n := &tenants{}
	cl, err := sdk.Open(t.Context(), sdk.Config{Endpoints: c.Endpoints(), Timeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n.cancel = cancel
	t.Cleanup(func() {
		n.stop()
		cl.Close()
	})
	for i := range leaseholders {
		s, err := sdk.NewSession(t.Context(), cl, sdk.WithTTL(ttl))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
		r, err := cl.Put(t.Context(), fmt.Sprint("tenant/", i), nil, sdk.WithLease(s.Lease()))
		if err != nil {
			t.Fatal(err)
		}
		n.sessions, n.created = append(n.sessions, s), append(n.created, r.Header.Revision)
		// The session renews by itself; this only measures.
		n.wg.Go(func() { n.renew(ctx, cl, s.Lease()) })
	}
	for i := range writers {
		n.wg.Go(func() { n.write(ctx, cl, i) })
	}
	return n
}

func (n *tenants) stop() {
	n.cancel()
	n.wg.Wait()
}

func (n *tenants) renew(ctx context.Context, cl *sdk.Client, id int64) {
	for pace(ctx, 200*time.Millisecond) {
		began := time.Now()
		_, err := cl.KeepAliveOnce(ctx, id)
		n.mu.Lock()
		if err == nil {
			n.mu.renewals = append(n.mu.renewals, time.Since(began))
		} else if ctx.Err() == nil {
			n.mu.lost = append(n.mu.lost, err)
		}
		n.mu.Unlock()
	}
}

func (n *tenants) write(ctx context.Context, cl *sdk.Client, writer int) {
	for i := 0; pace(ctx, 20*time.Millisecond); i++ {
		key := fmt.Sprintf("acked/%d/%06d", writer, i)
		began := time.Now()
		_, err := cl.Put(context.WithoutCancel(ctx), key, []byte(key))
		took := time.Since(began)
		n.mu.Lock()
		switch {
		case err == nil:
			n.mu.acked, n.mu.answers = append(n.mu.acked, key), append(n.mu.answers, took)
		case errors.Is(err, sdk.ErrTooManyRequests):
			n.mu.refusals = append(n.mu.refusals, took)
		default:
			n.mu.unknown++
		}
		n.mu.Unlock()
	}
}

func pace(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func (n *tenants) String() string {
	return fmt.Sprintf("writers: acknowledged %s, refused %s, %d unknown; renewals: %s",
		quantiles(n.mu.answers), quantiles(n.mu.refusals), n.mu.unknown, quantiles(n.mu.renewals))
}

func quantiles(d []time.Duration) string {
	if len(d) == 0 {
		return "0"
	}
	s := slices.Sorted(slices.Values(d))
	return fmt.Sprintf("%d (median %v, p99 %v)", len(s), s[len(s)/2].Round(10*time.Microsecond), s[len(s)*99/100].Round(10*time.Microsecond))
}

// verify reads what was acknowledged, and looks for the leases.
func (n *tenants) verify(t *testing.T, cl *clientv3.Client) {
	t.Helper()
	there := map[string]bool{}
	for _, kv := range get(t, cl, "acked/", clientv3.WithPrefix()).Kvs {
		there[string(kv.Key)] = string(kv.Value) == string(kv.Key)
	}
	for _, key := range n.mu.acked {
		if !there[key] {
			t.Errorf("%s was acknowledged and is lost", key)
		}
	}
	if len(n.mu.renewals) < leaseholders {
		t.Errorf("%d renewals were answered", len(n.mu.renewals))
	}
	if len(n.mu.lost) > 0 {
		t.Errorf("%d renewals failed, the first: %v", len(n.mu.lost), n.mu.lost[0])
	}
	for i, s := range n.sessions {
		if s.Err() != nil {
			t.Errorf("lease %d is lost: %v", i, s.Err())
		}
		if kv := get(t, cl, fmt.Sprint("tenant/", i)).Kvs; len(kv) != 1 || kv[0].CreateRevision != n.created[i] {
			t.Errorf("the key of lease %d is %v, want it as created at %d", i, kv, n.created[i])
		}
	}
}

// slowWatcher asks for all the crowd writes and doesn't read.
type slowWatcher struct{ stream pb.Watch_WatchClient }

func startSlowWatcher(t *testing.T, m *Member) *slowWatcher {
	t.Helper()
	conn, err := grpc.NewClient(m.Client, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := pb.NewWatchClient(conn).Watch(watching(t))
	if err != nil {
		t.Fatal(err)
	}
	create := &pb.WatchCreateRequest{Key: []byte("f"), RangeEnd: []byte("g")}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	if r, err := stream.Recv(); err != nil || !r.Created {
		t.Fatalf("%v, %v; want the watcher created", r, err)
	}
	return &slowWatcher{stream}
}

// catchUp reads at last: nothing was lost.
func (w *slowWatcher) catchUp(t *testing.T, events int64) {
	t.Helper()
	var told, last int64
	for told < events {
		r, err := w.stream.Recv()
		if err != nil || r.Canceled {
			t.Fatalf("after %d of %d events: %v, %v", told, events, err, r)
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision < last {
				t.Fatalf("revision %d after %d", e.Kv.ModRevision, last)
			}
			last = e.Kv.ModRevision
		}
		told += int64(len(r.Events))
	}
	if told != events {
		t.Errorf("%d events of %d writes", told, events)
	}
}

// metric reads one number off a member.
func metric(t *testing.T, m *Member, name string) float64 {
	t.Helper()
	r, err := http.Get("http://" + m.Client + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(body), "\n"+name+" ")
	v, err := strconv.ParseFloat(firstLine(after), 64)
	if err != nil {
		t.Fatalf("%s has no %s: %v", m.Name, name, err)
	}
	return v
}
