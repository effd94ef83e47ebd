package node

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/mvcc"
	"github.com/musterhq/muster/core/vfs"
)

// snapshotOf writes a member's view as a file.
func snapshotOf(t *testing.T, m *member) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteSnapshot(&b, m.View()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snap.db")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// prepare makes founding members' configurations, without opening them.
func prepare(t *testing.T, names ...string) []*member {
	t.Helper()
	initial := map[string][]string{}
	var ms []*member
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		m := &member{addr: l.Addr().String(), cfg: Config{
			Name: name, Dir: filepath.Join(t.TempDir(), "data"), InitialCluster: initial, Token: "restored",
			PeerListeners: []net.Listener{l}, Tick: 20 * time.Millisecond, Logger: testLogger(),
			ClientURLs: []string{"http://127.0.0.1:0"}, SegmentBytes: 1 << 20, HealthInterval: time.Millisecond,
		}}
		initial[name] = []string{m.url()}
		ms = append(ms, m)
	}
	return ms
}

func TestClusterRestoredFromASnapshotBeginsAtAHigherRevisionWithItsHistoryCompacted(t *testing.T) {
	t.Parallel()
	old := newCluster(t, 1)[0]
	for _, v := range []string{"1", "2", "3"} {
		if err := old.put(t, "k", v); err != nil {
			t.Fatal(err)
		}
	}
	body, err := proto.Marshal(&pb.LeaseGrantRequest{ID: 9, TTL: 600})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Propose(soon(t), machine.LeaseGrant, body, "", 0); err != nil {
		t.Fatal(err)
	}
	file := snapshotOf(t, old)
	before := old.View()
	st, err := ReadSnapshotStatus(vfs.OS(), file)
	if err != nil || st.Revision != before.KV.Rev() || st.TotalKey != 1 || st.Version != "3.7.0" {
		t.Fatalf("status %+v, %v", st, err)
	}

	ms := prepare(t, "a", "b", "c")
	for _, m := range ms {
		rev, err := RestoreSnapshot(t.Context(), m.cfg, file, RestoreOptions{BumpRevision: 1000, MarkCompacted: true})
		if err != nil || rev != before.KV.Rev()+1000 {
			t.Fatalf("restored at %d, %v", rev, err)
		}
		if _, err := RestoreSnapshot(t.Context(), m.cfg, file, RestoreOptions{}); !errors.Is(err, ErrDirInUse) {
			t.Fatalf("restoring twice: %v, want ErrDirInUse", err)
		}
	}
	for _, m := range ms {
		m.open(t)
	}
	for _, m := range ms {
		m.ready(t)
		if m.get(t, "k") != "3" {
			t.Errorf("%s has k=%q", m.cfg.Name, m.get(t, "k"))
		}
		if _, ok := m.View().Leases.Lookup(9); !ok {
			t.Errorf("%s lost the lease", m.cfg.Name)
		}
		if m.ClusterID() == old.ClusterID() || len(m.Members()) != 3 {
			t.Errorf("%s is of cluster %x with %d members", m.cfg.Name, m.ClusterID(), len(m.Members()))
		}
	}
	if _, err := ms[0].View().KV.Range(mvcc.RangeOptions{Key: []byte("k"), Rev: before.KV.Rev()}); !errors.Is(err, mvcc.ErrCompacted) {
		t.Errorf("reading at a revision of the old cluster: %v, want ErrCompacted", err)
	}
	if err := ms[1].put(t, "k", "4"); err != nil {
		t.Fatal(err)
	}
	if r, _ := ms[1].View().KV.Get([]byte("k")); r.ModRevision() != before.KV.Rev()+1001 {
		t.Errorf("next write has revision %d, want %d", r.ModRevision(), before.KV.Rev()+1001)
	}
	ms[2].stop(t)
	ms[2].restart(t)
	ms[2].ready(t)
}

func TestMembersRestoredFromDifferentDataDontFormACluster(t *testing.T) {
	t.Parallel()
	old := newCluster(t, 1)[0]
	first := snapshotOf(t, old)
	if err := old.put(t, "k", "v"); err != nil {
		t.Fatal(err)
	}
	second := snapshotOf(t, old)
	ms := prepare(t, "a", "b")
	ids := map[uint64]bool{}
	for i, file := range []string{first, second} {
		if _, err := RestoreSnapshot(t.Context(), ms[i].cfg, file, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		ms[i].open(t)
		ids[ms[i].ClusterID()] = true
	}
	if len(ids) != 2 {
		t.Fatal("both have the same cluster id")
	}
}

func TestDamagedSnapshotIsRefusedUnlessItsHashIsSkipped(t *testing.T) {
	t.Parallel()
	file := snapshotOf(t, newCluster(t, 1)[0])
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	restore := func(content []byte, o RestoreOptions) error {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := prepare(t, "a")[0].cfg
		_, err := RestoreSnapshot(t.Context(), cfg, file, o)
		return err
	}
	plain := b[:len(b)-32]
	if err := restore(plain, RestoreOptions{}); !errors.Is(err, ErrNoDigest) {
		t.Errorf("without a hash: %v, want ErrNoDigest", err)
	}
	if err := restore(plain, RestoreOptions{SkipHashCheck: true}); err != nil {
		t.Errorf("without a hash, skipped: %v", err)
	}
	if st, err := ReadSnapshotStatus(vfs.OS(), file); err != nil || st.Verified || st.TotalSize != int64(len(plain)) {
		t.Errorf("status without a hash: %+v, %v; want it not verified", st, err)
	}
	for _, cut := range []int{1, 16, 31} {
		if err := restore(b[:len(b)-cut], RestoreOptions{}); !errors.Is(err, ErrCutShort) {
			t.Errorf("%d bytes short: %v, want ErrCutShort", cut, err)
		}
		if st, err := ReadSnapshotStatus(vfs.OS(), file); !errors.Is(err, ErrCutShort) {
			t.Errorf("status, %d bytes short: %+v, %v; want ErrCutShort", cut, st, err)
		}
		if err := restore(b[:len(b)-cut], RestoreOptions{SkipHashCheck: true}); err != nil {
			t.Errorf("%d bytes short, skipped: %v", cut, err)
		}
	}
	if err := restore(append(bytes.Clone(b), 0), RestoreOptions{}); !errors.Is(err, ErrCutShort) {
		t.Errorf("a byte too long: %v, want ErrCutShort", err)
	}
	if err := restore(b, RestoreOptions{}); err != nil {
		t.Errorf("whole: %v", err)
	}
	if st, err := ReadSnapshotStatus(vfs.OS(), file); err != nil || !st.Verified || st.TotalSize != int64(len(plain)) {
		t.Errorf("status of the whole: %+v, %v; want it verified", st, err)
	}
	wrong := bytes.Clone(b)
	wrong[len(wrong)-1]++
	if err := restore(wrong, RestoreOptions{}); !errors.Is(err, checkpoint.ErrCorrupt) {
		t.Errorf("with a wrong hash: %v, want ErrCorrupt", err)
	}
	if err := restore(wrong, RestoreOptions{SkipHashCheck: true}); err != nil {
		t.Errorf("with a wrong hash, skipped: %v", err)
	}
	for _, o := range []RestoreOptions{{BumpRevision: 1}, {MarkCompacted: true}} {
		if err := restore(b, o); !errors.Is(err, ErrBadBump) {
			t.Errorf("%+v: %v, want ErrBadBump", o, err)
		}
	}
}
