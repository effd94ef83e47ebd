package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/core/checkpoint"
	"github.com/musterhq/muster/core/vfs"
)

// alter gives a stopped member another state: its newest checkpoint is written
// anew with one text in place of another of the same length, valid in all its checksums.
func alter(t *testing.T, m *Member, text, other string) {
	t.Helper()
	dir, err := checkpoint.OpenDir(checkpoint.Config{FS: vfs.OS(), Dir: filepath.Join(m.Dir, "checkpoints")})
	if err != nil {
		t.Fatal(err)
	}
	newest, err := dir.Newest()
	if err != nil {
		t.Fatal(err)
	}
	r, err := dir.Open(newest.Index)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	type pair struct{ key, value []byte }
	var buckets []checkpoint.Bucket
	changed := 0
	for _, name := range r.Buckets() {
		var pairs []pair
		err := r.Each(name, func(k, v []byte) error {
			changed += bytes.Count(v, []byte(text))
			pairs = append(pairs, pair{bytes.Clone(k), bytes.ReplaceAll(v, []byte(text), []byte(other))})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		buckets = append(buckets, checkpoint.Bucket{Name: name, Pairs: func(yield func(k, v []byte) bool) {
			for _, p := range pairs {
				if !yield(p.key, p.value) {
					return
				}
			}
		}})
	}
	if changed != 1 {
		t.Fatalf("%q stands %d times in the checkpoint of %s, want once", text, changed, m.Name)
	}
	var file bytes.Buffer
	if _, err := checkpoint.Write(&file, buckets); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(m.Dir, "checkpoints", fmt.Sprintf("%016x-%016x.db", newest.Index, newest.Term))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, &file); err != nil {
		t.Fatal(err)
	}
}

const (
	disputedKey            = "disputed"
	trueValue, forgedValue = "what was written", "what wasn't said"
)

func memberID(t *testing.T, c *Cluster, m *Member) string {
	t.Helper()
	return fmt.Sprintf("%x", statusOf(t, connect(t, m.Client), m).Header.MemberId)
}

// requireStopped waits for a member to find out that it has diverged. It must have logged each of the errors before, and no others.
func requireStopped(t *testing.T, m *Member, id string, before ...string) {
	t.Helper()
	m.wait(t, patience)
	log := m.Log()
	for _, msg := range before {
		line := regexp.MustCompile(`(?m)^.*"level":"error".*` + msg + `.*\n`)
		if !line.MatchString(log) {
			t.Errorf("%s has not logged that %s", m.Name, msg)
		}
		log = line.ReplaceAllString(log, "")
	}
	requireRefusal(t, result{m.Cmd.ProcessState.ExitCode(), "", log}, 1,
		m.Name, id, "diverged", "at index", "its hash is", "theirs is", "member remove "+id, "--initial-cluster-state=existing")
}

// requireRemedy carries out the commands that a member gave at its end, word for word.
func requireRemedy(t *testing.T, m *Member) {
	t.Helper()
	quoted := regexp.MustCompile("`muster ([^`]+)`").FindAllStringSubmatch(m.Log(), -1)
	if len(quoted) < 2 {
		t.Fatalf("no two commands to carry out: %s", tail(m.Log()))
	}
	for _, command := range quoted[len(quoted)-2:] {
		if r := runProgram(t, nil, "", muster, strings.Fields(command[1])...); r.code != 0 {
			t.Fatalf("%s: %s", command[0], r.stderr)
		}
	}
}

func hashes(t *testing.T, endpoints []string) map[string]bool {
	t.Helper()
	r := runProgram(t, nil, "", muster, "ctl", "--endpoints="+strings.Join(endpoints, ","), "endpoint", "hashkv", "--write-out=simple")
	if r.code != 0 {
		t.Fatalf("hashkv: %s", r.stderr)
	}
	all := map[string]bool{}
	for _, line := range strings.Split(strings.TrimSpace(r.stdout), "\n") {
		fields := strings.Split(line, ", ")
		if len(fields) < 2 {
			t.Fatalf("hashkv says %q", line)
		}
		all[fields[1]] = true
	}
	return all
}

func TestAMemberWhoseStateDiffersStopsAndSaysWhatToDo(t *testing.T) {
	// Or the replacement would have to wait until the members have been connected for five seconds.
	c := startCluster(t, 3, "--strict-reconfig-check=false")
	cl := connect(t, c.Endpoints()...)
	put(t, cl, disputedKey, trueValue)
	c.CatchUp(t)
	if all := hashes(t, c.Endpoints()); len(all) != 1 {
		t.Errorf("equal members have the hashes %v", all)
	}
	leader := c.Leader(t, cl)
	odd := c.Members[0]
	if odd == leader {
		odd = c.Members[1]
	}
	id := memberID(t, c, odd)
	odd.Stop(t)
	alter(t, odd, trueValue, forgedValue)

	// Nobody writes: the restart alone must do.
	began := time.Now()
	odd.Launch(t)
	requireStopped(t, odd, id)
	t.Logf("%v after its start the member has stopped", time.Since(began).Round(time.Millisecond))
	for _, m := range c.Members {
		if m == odd {
			continue
		}
		eventually(t, m.Name+" counts the diverged member", func() bool { return metric(t, m, "muster_server_diverged_members_total") == 1 })
		if !strings.Contains(m.Log(), `"member":"`+id) {
			t.Errorf("%s doesn't log who has diverged:\n%s", m.Name, tail(m.Log()))
		}
		one := connect(t, m.Client)
		if kv := get(t, one, disputedKey).Kvs; len(kv) != 1 || string(kv[0].Value) != trueValue {
			t.Errorf("%s has %v", m.Name, kv)
		}
		put(t, one, "goes on", m.Name)
	}
	// A supervisor that starts it again gets the same.
	odd.Launch(t)
	requireStopped(t, odd, id)

	// The remedy, as the message has it.
	requireRemedy(t, odd)
	odd.Dir += "-new"
	odd.Args = append(odd.Args, "--initial-cluster-state=existing")
	odd.Start(t)
	put(t, connect(t, odd.Client), "again", "three")
	c.CatchUp(t)
	if all := hashes(t, c.Endpoints()); len(all) != 1 {
		t.Errorf("after the remedy the members have the hashes %v", all)
	}
}

func TestNothingIsServedWhileNobodyCanTellWhoIsRightAndThenTheOddLeaderStops(t *testing.T) {
	c := startCluster(t, 3)
	put(t, connect(t, c.Endpoints()...), disputedKey, trueValue)
	c.CatchUp(t)
	odd, other, third := c.Members[0], c.Members[1], c.Members[2]
	id := memberID(t, c, odd)
	for _, m := range c.Members {
		m.Stop(t)
	}
	alter(t, odd, trueValue, forgedValue)

	// One against one, and the third is away.
	two := &Cluster{Members: []*Member{odd, other}}
	for _, m := range two.Members {
		m.Launch(t)
	}
	cl := connect(t, two.Endpoints()...)
	eventually(t, "the alarm is raised", func() bool {
		r, err := cl.AlarmList(within(t, time.Second))
		return err == nil && len(r.Alarms) == 2 && r.Alarms[0].Alarm == pb.AlarmType_CORRUPT
	})
	for _, m := range two.Members {
		one := connect(t, m.Client)
		eventually(t, m.Name+" has applied the alarm", func() bool {
			_, err := one.Get(within(t, time.Second), disputedKey)
			return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrCorrupt)
		})
		_, err := one.Get(within(t, patience), disputedKey, clientv3.WithSerializable())
		requireError(t, "serializable read from "+m.Name, err, rpctypes.ErrCorrupt)
		_, err = one.Txn(within(t, patience)).Then(clientv3.OpGet(disputedKey)).Commit()
		requireError(t, "reading txn at "+m.Name, err, rpctypes.ErrCorrupt)
		_, err = one.Put(within(t, patience), "k", "v")
		requireError(t, "put to "+m.Name, err, rpctypes.ErrCorrupt)
	}
	if all := hashes(t, two.Endpoints()); len(all) != 2 {
		t.Errorf("members that disagree have the hashes %v", all)
	}

	two.MakeLeader(t, cl, odd)
	third.Launch(t)
	requireStopped(t, odd, id, "no majority agrees")
	for _, m := range []*Member{other, third} {
		one := connect(t, m.Client)
		eventually(t, m.Name+" serves", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := one.Put(ctx, "goes on", m.Name)
			return err == nil
		})
		if kv := get(t, one, disputedKey).Kvs; len(kv) != 1 || string(kv[0].Value) != trueValue {
			t.Errorf("%s has %v", m.Name, kv)
		}
	}
}

func TestRemovingTheOddOneOfTwoMembersLetsTheOtherServe(t *testing.T) {
	c := startCluster(t, 2, "--strict-reconfig-check=false")
	put(t, connect(t, c.Endpoints()...), disputedKey, trueValue)
	c.CatchUp(t)
	odd, other := c.Members[0], c.Members[1]
	cl := connect(t, other.Client)
	id := statusOf(t, connect(t, odd.Client), odd).Header.MemberId
	odd.Stop(t)
	alter(t, odd, trueValue, forgedValue)
	odd.Launch(t)
	eventually(t, "nothing is served", func() bool {
		_, err := cl.Get(within(t, time.Second), disputedKey)
		return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrCorrupt)
	})
	must[*clientv3.MemberRemoveResponse](t)(cl.MemberRemove(within(t, patience), id))
	eventually(t, "the other serves", func() bool {
		_, err := cl.Put(within(t, time.Second), "goes on", "")
		return err == nil
	})
	if kv := get(t, cl, disputedKey).Kvs; len(kv) != 1 || string(kv[0].Value) != trueValue {
		t.Errorf("it has %v", kv)
	}
}
