package ctl

import (
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

func TestTheHintGoesByWhatAMemberAnswered(t *testing.T) {
	for _, c := range []struct {
		args, line, hint string
		answer           error
	}{
		{"lease list", "Error: etcdserver: rpc not supported for learner\n", "a voting member's endpoint", rpctypes.ErrGRPCNotSupportedForLearner},
		{"lease grant 10", "Error: failed to grant lease (etcdserver: rpc not supported for learner)\n", "a voting member's endpoint", rpctypes.ErrGRPCNotSupportedForLearner},
		{"lease timetolive 1", "Error: context deadline exceeded\n", `answered "etcdserver: request timed out"`, rpctypes.ErrGRPCTimeout},
	} {
		addr := echo(t, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return c.answer }))
		o := once(t, "", append([]string{"--endpoints", addr, "--command-timeout", "1s"}, strings.Fields(c.args)...)...)
		if o.code == 0 || !strings.HasPrefix(o.stderr, c.line) || !strings.Contains(o.stderr, c.hint) {
			t.Errorf("%s: %+v; want %q, then %q", c.args, o, c.line, c.hint)
		}
	}
}
