package sdk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func answering(rev int64) *fakeMember {
	return &fakeMember{
		get: func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
			return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rev}}, nil
		},
		put: func(context.Context, *pb.PutRequest) (*pb.PutResponse, error) {
			return &pb.PutResponse{Header: &pb.ResponseHeader{Revision: rev}}, nil
		},
	}
}

func refusing(err error) *fakeMember {
	return &fakeMember{
		get: func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) { return nil, err },
		put: func(context.Context, *pb.PutRequest) (*pb.PutResponse, error) { return nil, err },
	}
}

func TestUnreachableMemberIsPassedOverForWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, alive := answering(1), answering(2)
		c := openFake(t, Config{}, dead, alive)
		dead.stop()
		synctest.Wait() // the client notices: what is sent before has an unknown outcome
		for range 3 {
			r, err := c.Put(t.Context(), "k", nil)
			if err != nil || r.Header.Revision != 2 {
				t.Fatalf("put: got revision %d, error %v; want 2 from the second member", r.Header.Revision, err)
			}
		}
	})
}

func TestMemberWithoutLeaderIsLeftEvenByWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost, healthy := refusing(rpctypes.ErrGRPCNoLeader), answering(2)
		c := openFake(t, Config{}, lost, healthy)
		for range 5 {
			if _, err := c.Put(t.Context(), "k", nil); err != nil {
				t.Fatal(err)
			}
		}
		if n := lost.calls.Load(); n != 1 {
			t.Errorf("member without leader was asked %d times; want once, then the other", n)
		}
	})
}

func TestLearnersAreLeftForAVoterAndTheirRefusalIsTheAnswerWhereThereIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		learner := rpctypes.ErrGRPCNotSupportedForLearner
		c := openFake(t, Config{}, refusing(learner), answering(2))
		for range 3 {
			if _, err := c.Put(t.Context(), "k", nil); err != nil {
				t.Fatal(err)
			}
		}
		c = openFake(t, Config{}, refusing(learner), refusing(learner))
		began := time.Now()
		_, put := c.Put(t.Context(), "k", nil)
		_, get := c.Get(t.Context(), "k")
		for _, err := range []error{put, get} {
			if status.Convert(err).Message() != rpctypes.ErrorDesc(learner) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("two learners: %v, want their refusal", err)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("two learners: answered after %v; they don't become voters by waiting", took)
		}
	})
}

func TestWriteWithLostAnswerIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answer := range []error{
			rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCStopped,
			status.Error(codes.Unavailable, "transport is closing"), status.Error(codes.Internal, "stream reset"),
		} {
			breaking, other := refusing(answer), answering(2)
			c := openFake(t, Config{}, breaking, other)
			_, err := c.Put(t.Context(), "k", nil)
			if !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("put answered by %v: got error %v; want ErrUnknownOutcome", answer, err)
			}
			if got, want := status.Code(err), status.Code(answer); got != want {
				t.Errorf("put answered by %v: status %v; want %v", answer, got, want)
			}
			if n := other.calls.Load(); n != 0 {
				t.Errorf("put answered by %v: repeated elsewhere %d times", answer, n)
			}
		}
	})
}

func TestWriteCutOffByTheConnectionHasUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := answering(1)
		m.put = func(ctx context.Context, _ *pb.PutRequest) (*pb.PutResponse, error) {
			go m.stop()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c := openFake(t, Config{}, m)
		if _, err := c.Put(t.Context(), "k", nil); !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("got error %v; want ErrUnknownOutcome", err)
		}
	})
}

func TestReadIsRepeatedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answer := range []error{rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCStopped} {
			c := openFake(t, Config{}, refusing(answer), answering(2))
			r, err := c.Get(t.Context(), "k")
			if err != nil || r.Header.Revision != 2 {
				t.Errorf("get after %v: got revision %d, error %v; want 2", answer, r.Header.Revision, err)
			}
		}
	})
}

func TestACallThatRunsOutOfTimeKeepsWhatAMemberSaidBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		m := &fakeMember{get: func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
			if asked.Add(1) == 1 {
				return nil, rpctypes.ErrGRPCNoLeader
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		c := openFake(t, Config{Timeout: 2 * time.Second}, m)
		_, err := c.Get(t.Context(), "k")
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v; want ErrUnavailable, the deadline's and ErrNoLeader", err)
		}
		if n := asked.Load(); n < 2 {
			t.Errorf("asked %d times: the test misses its point", n)
		}
	})
}

func TestSilentMemberGetsHalfOfAReadsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := &fakeMember{get: func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		c := openFake(t, Config{Timeout: 4 * time.Second}, hung, answering(2))
		start := time.Now()
		if _, err := c.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 2*time.Second || took > 2500*time.Millisecond {
			t.Errorf("read took %v; want half of 4s", took)
		}
		start = time.Now()
		if _, err := c.Get(t.Context(), "k"); err != nil || time.Since(start) > 100*time.Millisecond {
			t.Errorf("next read took %v, error %v; want the working member at once", time.Since(start), err)
		}
	})
}

func TestCallWithoutMembersFailsAtItsDeadlineAndTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := answering(1)
		c := openFake(t, Config{Timeout: 2 * time.Second}, dead)
		dead.stop()
		synctest.Wait() // the client notices: what is sent before has an unknown outcome
		start := time.Now()
		_, err := c.Put(t.Context(), "k", nil)
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got error %v; want ErrUnavailable and the deadline's, not ErrUnknownOutcome", err)
		}
		if !strings.Contains(err.Error(), "connection refused by test") {
			t.Errorf("error %q doesn't tell why the connection failed", err)
		}
		if took := time.Since(start); took < 2*time.Second || took > 2100*time.Millisecond {
			t.Errorf("gave up after %v; want the default deadline of 2s", took)
		}
	})
}

func TestRestartedMemberIsFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := answering(1)
		c := openFake(t, Config{}, m)
		if _, err := c.Get(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		m.stop()
		synctest.Wait() // the client notices: what is sent before has an unknown outcome
		time.AfterFunc(time.Second, m.start)
		if _, err := c.Put(t.Context(), "k", nil); err != nil {
			t.Errorf("put while the member restarted: %v; want it to wait, as nothing was sent", err)
		}
	})
}

func TestRefusalsComeBackAsTheyAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for answer, want := range map[error]error{
			rpctypes.ErrGRPCCompacted:              ErrCompacted,
			rpctypes.ErrGRPCFutureRev:              ErrFutureRevision,
			rpctypes.ErrGRPCPermissionDenied:       ErrPermissionDenied,
			rpctypes.ErrGRPCNoSpace:                ErrNoSpace,
			rpctypes.ErrGRPCRequestTooManyRequests: ErrTooManyRequests,
			rpctypes.ErrGRPCKeyNotFound:            ErrKeyNotFound,
		} {
			c := openFake(t, Config{}, refusing(answer), answering(2))
			_, err := c.Put(t.Context(), "k", nil)
			if !errors.Is(err, want) || !errors.Is(err, answer) || errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("answer %v: got error %v; want %v", answer, err, want)
			}
			if s, ok := status.FromError(err); !ok || s.Message() != status.Convert(answer).Message() {
				t.Errorf("answer %v: status %v; want it unchanged", answer, s)
			}
		}
	})
}

func TestLeaderIsRequiredOfAllButSerializableReadsAndPinnedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var required atomic.Bool
		m := &fakeMember{get: func(ctx context.Context, _ *pb.RangeRequest) (*pb.RangeResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			required.Store(slices.Equal(md.Get("hasleader"), []string{"true"}))
			return &pb.RangeResponse{}, nil
		}}
		c := openFake(t, Config{}, m)
		for _, tc := range []struct {
			opts []Option
			want bool
		}{{nil, true}, {[]Option{WithSerializable()}, false}, {[]Option{WithSerializable(), WithRequireLeader()}, true}} {
			if _, err := c.Get(t.Context(), "k", tc.opts...); err != nil || required.Load() != tc.want {
				t.Errorf("get with %d options: leader required %v, error %v; want %v", len(tc.opts), required.Load(), err, tc.want)
			}
		}
		cc, err := c.ConnTo("m0:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pb.NewKVClient(cc).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); err != nil || required.Load() {
			t.Errorf("pinned get: leader required %v, error %v; want no", required.Load(), err)
		}
	})
}

func TestPinnedConnectionDoesNotFailOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead, alive := answering(1), answering(2)
		for _, m := range []*fakeMember{dead, alive} {
			m.status = func() (*pb.StatusResponse, error) { return &pb.StatusResponse{Version: "v"}, nil }
		}
		c := openFake(t, Config{}, dead, alive)
		dead.stop()
		synctest.Wait() // the client notices: what is sent before has an unknown outcome
		if _, err := c.Status(t.Context(), "m0:1"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("status of a dead member: %v; want ErrUnavailable", err)
		}
		if st, err := c.Status(t.Context(), "m1:1"); err != nil || st.Version != "v" {
			t.Errorf("status of a live member: %+v, %v", st, err)
		}
	})
}

func TestSetEndpointsMovesCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openFake(t, Config{}, answering(1), answering(2))
		for _, want := range []int64{2, 1} {
			if err := c.SetEndpoints("m" + string(rune('0'+want-1)) + ":1"); err != nil {
				t.Fatal(err)
			}
			if r, err := c.Get(t.Context(), "k"); err != nil || r.Header.Revision != want {
				t.Errorf("got revision %d, error %v; want member %d's", r.Header.Revision, err, want)
			}
		}
		if err := c.SetEndpoints(); !errors.Is(err, ErrNoEndpoints) {
			t.Errorf("no endpoints: %v", err)
		}
	})
}

func TestClosedClientRefusesCallsAndWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openFake(t, Config{}, answering(1))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		if _, err := c.Get(t.Context(), "k"); !errors.Is(err, ErrClosed) {
			t.Errorf("get: %v; want ErrClosed", err)
		}
		for _, err := range c.Watch(t.Context(), "k") {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("watch: %v; want ErrClosed", err)
			}
		}
	})
}

func TestOpenWithDialTimeoutFailsWithoutMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{Endpoints: []string{"gone:1"}, DialTimeout: time.Second}
		cfg.Dial = (&fakeMember{}).dialAny
		if _, err := Open(t.Context(), cfg); !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v; want ErrUnavailable", err)
		}
	})
}

func TestTokenIsFetchedOnceAndAgainWhenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logins atomic.Int64
		valid := "t1"
		m := &fakeMember{}
		m.login = func(r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
			if r.GetName() != "root" || r.GetPassword() != "pw" {
				return nil, rpctypes.ErrGRPCAuthFailed
			}
			logins.Add(1)
			return &pb.AuthenticateResponse{Token: valid}, nil
		}
		m.put = func(ctx context.Context, _ *pb.PutRequest) (*pb.PutResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			if !slices.Equal(md.Get("token"), []string{valid}) {
				return nil, rpctypes.ErrGRPCInvalidAuthToken
			}
			return &pb.PutResponse{}, nil
		}
		c := openFake(t, Config{Username: "root", Password: "pw"}, m)
		for range 3 {
			if _, err := c.Put(t.Context(), "k", nil); err != nil {
				t.Fatal(err)
			}
		}
		valid = "t2"
		if _, err := c.Put(t.Context(), "k", nil); err != nil {
			t.Errorf("put after the token was invalidated: %v", err)
		}
		if n := logins.Load(); n != 2 {
			t.Errorf("logged in %d times; want 2", n)
		}
		wrong := openFake(t, Config{Username: "root", Password: "wrong"}, m)
		if _, err := wrong.Put(t.Context(), "k", nil); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("wrong password: %v; want ErrUnauthenticated", err)
		}
		anonymous := openFake(t, Config{}, m)
		if _, err := anonymous.Put(t.Context(), "k", nil); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("no name: %v; want ErrUnauthenticated", err)
		}
	})
}

func TestClusterWithoutAuthenticationServesNamedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := answering(1)
		m.login = func(*pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
			return nil, rpctypes.ErrGRPCAuthNotEnabled
		}
		c := openFake(t, Config{Username: "root", Password: "pw"}, m)
		if _, err := c.Put(t.Context(), "k", nil); err != nil {
			t.Error(err)
		}
	})
}
