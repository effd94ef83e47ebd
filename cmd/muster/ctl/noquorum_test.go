package ctl

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterhq/muster/sdk/mustertest"
)

func TestWithoutAQuorumTheHintSaysSoAndWhatToDo(t *testing.T) {
	cluster := mustertest.Start(t, 2)
	endpoint, conn := cluster.Endpoints()[0], cluster.Client()
	cluster.Kill(1)
	maintenance, err := conn.ConnTo(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var self uint64
	deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for {
		st, err := pb.NewMaintenanceClient(maintenance).Status(t.Context(), &pb.StatusRequest{})
		if err == nil && st.Leader == 0 {
			self = st.Header.MemberId
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("one of two members still knows a leader: %v, %v", st, err)
		}
	}
	var asked sync.WaitGroup
	defer asked.Wait()
	for _, args := range []string{"put k v", "get k", "member list", "member remove " + strconv.FormatUint(self, 16), "lease list", "txn"} {
		asked.Go(func() {
			in := strings.NewReader("\n\n\n")
			out, errOut := newScreen(), newScreen()
			code := execute(t.Context(), append([]string{"--endpoints", endpoint, "--command-timeout", "1s"}, strings.Fields(args)...), in, out, errOut)
			said := errOut.String()
			if code == 0 || strings.Contains(said, "no member answered") || strings.Contains(said, "https against http") {
				t.Errorf("%s: exit code %d, %q: a member did answer", args, code, said)
			}
			for _, want := range []string{"no leader", "more than half", "'endpoint status --cluster'"} {
				if !strings.Contains(said, want) {
					t.Errorf("%s: %q does not say %q", args, said, want)
				}
			}
		})
	}
	// What is advised works: a member's own list needs no quorum.
	for args, want := range map[string]string{
		"endpoint status --cluster": endpoint, "endpoint hashkv --cluster": endpoint, "member list --consistency s": endpoint, "endpoint health": "",
	} {
		asked.Go(func() {
			out, errOut := newScreen(), newScreen()
			code := execute(t.Context(), append([]string{"--endpoints", endpoint, "--command-timeout", "1s"}, strings.Fields(args)...), strings.NewReader(""), out, errOut)
			if !strings.Contains(out.String(), strings.TrimPrefix(want, "http://")) {
				t.Errorf("%s: exit code %d, %q, %q; want %q in it", args, code, out, errOut, want)
			}
			if args == "endpoint health" && !strings.Contains(errOut.String(), "more than half") {
				t.Errorf("%s: %q does not say what a cluster needs", args, errOut)
			}
		})
	}
}
