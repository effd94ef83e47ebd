package sdk

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// scripted serves the n-th watch stream with the n-th script; each gets the create request, already answered.
func scripted(created int64, scripts ...func(*pb.WatchCreateRequest, pb.Watch_WatchServer) error) *fakeMember {
	var n atomic.Int64
	return &fakeMember{watch: func(s pb.Watch_WatchServer) error {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		if err := s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{Revision: created}, Created: true}); err != nil {
			return err
		}
		i := int(n.Add(1)) - 1
		return scripts[min(i, len(scripts)-1)](r.GetCreateRequest(), s)
	}}
}

func events(revs ...int64) *pb.WatchResponse {
	r := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: revs[len(revs)-1]}}
	for _, rev := range revs {
		r.Events = append(r.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), ModRevision: rev}})
	}
	return r
}

func revisions(b WatchBatch) (out []int64) {
	for _, e := range b.Events {
		out = append(out, e.KV.ModRevision)
	}
	return out
}

var errBroken = status.Error(codes.Unavailable, "transport is closing")

func TestWatchResumesAfterTheLastYieldedRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starts []int64
		m := scripted(4,
			func(r *pb.WatchCreateRequest, _ pb.Watch_WatchServer) error {
				starts = append(starts, r.GetStartRevision())
				return errBroken // nothing but the start: 4
			},
			func(r *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
				starts = append(starts, r.GetStartRevision())
				return errors.Join(s.Send(events(5, 6, 6)), errBroken)
			},
			func(r *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
				starts = append(starts, r.GetStartRevision())
				// A progress notice moves the start on; what was had is sent again.
				progress := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 9}}
				return errors.Join(s.Send(events(6, 7)), s.Send(progress), errBroken)
			},
			func(r *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
				starts = append(starts, r.GetStartRevision())
				return errors.Join(s.Send(events(12)), errBroken)
			},
		)
		c := openFake(t, Config{}, m)
		var got []int64
		for b, err := range c.Watch(t.Context(), "k") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, revisions(b)...)
			if slices.Contains(got, 12) {
				break
			}
		}
		if want := []int64{5, 6, 6, 7, 12}; !slices.Equal(got, want) {
			t.Errorf("got events at %v; want %v", got, want)
		}
		if want := []int64{0, 5, 7, 10}; !slices.Equal(starts, want) {
			t.Errorf("streams started at %v; want %v", starts, want)
		}
	})
}

func TestFragmentsAreYieldedAsOneBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fragment := func(last bool, revs ...int64) *pb.WatchResponse {
			r := events(revs...)
			r.Fragment = !last
			return r
		}
		m := scripted(4,
			// The first stream breaks between fragments: none of them may be yielded or skipped.
			func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
				return errors.Join(s.Send(fragment(false, 5, 5)), errBroken)
			},
			func(r *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
				if r.GetStartRevision() != 5 || !r.GetFragment() {
					return status.Errorf(codes.InvalidArgument, "resumed with %v", r)
				}
				progress := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 5}, WatchId: -1}
				return errors.Join(s.Send(fragment(false, 5, 5)), s.Send(progress), s.Send(fragment(true, 5)), errBroken)
			},
		)
		c := openFake(t, Config{}, m)
		for b, err := range c.Watch(t.Context(), "k", WithFragment()) {
			if err != nil {
				t.Fatal(err)
			}
			if got, want := revisions(b), []int64{5, 5, 5}; !slices.Equal(got, want) {
				t.Errorf("got batch %v; want %v", got, want)
			}
			break
		}
	})
}

func TestWatchEndsWithTheReasonThatIsFinal(t *testing.T) {
	cancel := func(compact int64, reason string) *pb.WatchResponse {
		return &pb.WatchResponse{Canceled: true, CompactRevision: compact, CancelReason: reason}
	}
	for _, tc := range []struct {
		name string
		end  func(s pb.Watch_WatchServer) error
		want error
	}{
		{"compacted", func(s pb.Watch_WatchServer) error {
			return s.Send(cancel(7, "etcdserver: mvcc: required revision has been compacted"))
		}, ErrCompacted},
		{"no permission", func(s pb.Watch_WatchServer) error { return s.Send(cancel(0, rpctypes.ErrGRPCPermissionDenied.Error())) }, ErrPermissionDenied},
		{"no name", func(s pb.Watch_WatchServer) error { return s.Send(cancel(0, "etcdserver: user name is empty")) }, ErrUnauthenticated},
		{"other", func(s pb.Watch_WatchServer) error { return s.Send(cancel(0, "moon phase")) }, ErrWatchCanceled},
		{"unimplemented", func(pb.Watch_WatchServer) error { return status.Error(codes.Unimplemented, "no") }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := scripted(4, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error { return tc.end(s) })
				c := openFake(t, Config{}, m)
				var errs []error
				for _, err := range c.Watch(t.Context(), "k") {
					errs = append(errs, err)
				}
				if len(errs) != 1 || errs[0] == nil || (tc.want != nil && !errors.Is(errs[0], tc.want)) {
					t.Errorf("got %v; want one error, %v", errs, tc.want)
				}
				var compacted *CompactedError
				if errors.As(errs[0], &compacted) && compacted.CompactRevision != 7 {
					t.Errorf("compact revision %d; want 7", compacted.CompactRevision)
				}
			})
		})
	}
}

func TestWatchLeavesMembersWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := &fakeMember{watch: func(pb.Watch_WatchServer) error { return rpctypes.ErrGRPCNoLeader }}
		healthy := scripted(4, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			return errors.Join(s.Send(events(5)), errBroken)
		})
		c := openFake(t, Config{}, lost, healthy)
		for b, err := range c.Watch(t.Context(), "k") {
			if err != nil || b.Events[0].KV.ModRevision != 5 {
				t.Errorf("got %+v, %v", b, err)
			}
			break
		}
	})
}

func TestSilentWatchIsAskedAndThenMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		stuck := scripted(4, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			for {
				r, err := s.Recv()
				if err != nil {
					return err
				}
				if r.GetProgressRequest() != nil {
					if asked.Add(1) == 1 {
						err = s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 8}, WatchId: -1})
					}
				}
				if err != nil {
					return err
				}
			}
		})
		var start int64
		other := scripted(9, func(r *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			start = r.GetStartRevision()
			return errors.Join(s.Send(events(9)), errBroken)
		})
		c := openFake(t, Config{}, stuck, other)
		begun := time.Now()
		for b, err := range c.Watch(t.Context(), "k") {
			if err != nil || b.Progress {
				t.Fatalf("got %+v, %v; want only the event", b, err)
			}
			break
		}
		if took := time.Since(begun); asked.Load() != 2 || took < 2*quiet+patience || took > 2*quiet+patience+time.Second {
			t.Errorf("asked %d times, moved after %v; want 2 and %v", asked.Load(), took, 2*quiet+patience)
		}
		if start != 9 {
			t.Errorf("resumed at %d; want 9, after the progress it had", start)
		}
	})
}

func TestSlowConsumerIsNotTakenForASilentMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := scripted(4, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			if err := errors.Join(s.Send(events(5)), s.Send(events(6))); err != nil {
				return err
			}
			<-s.Context().Done()
			return nil
		})
		c := openFake(t, Config{}, m)
		for b, err := range c.Watch(t.Context(), "k") {
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * (quiet + patience)) // virtual: the consumer is busy
			if b.Events[0].KV.ModRevision == 6 {
				break
			}
		}
		if n := m.calls.Load(); n != 1 {
			t.Errorf("%d streams; want 1", n)
		}
	})
}

func TestWatchEndsWithItsContextsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := scripted(4, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			<-s.Context().Done()
			return nil
		})
		c := openFake(t, Config{}, m)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(cause) })
		var errs []error
		for _, err := range c.Watch(ctx, "k") {
			errs = append(errs, err)
		}
		if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) || !errors.Is(errs[0], cause) {
			t.Errorf("got %v; want one error, canceled because of the cause", errs)
		}
	})
}

func TestCreatedAndProgressAreYieldedOnlyOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := scripted(4, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			return errors.Join(s.Send(&pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 5}}), s.Send(events(6)), errBroken)
		})
		c := openFake(t, Config{}, m)
		for _, tc := range []struct {
			opts []Option
			want string
		}{
			{nil, "[6]"},
			{[]Option{WithCreatedNotify()}, "created 4 [6]"},
			{[]Option{WithProgressNotify()}, "progress 5 [6]"},
		} {
			got := ""
			for b := range only(t, c.Watch(t.Context(), "k", tc.opts...)) {
				switch {
				case b.Created:
					got += fmt.Sprintf("created %d ", b.Header.Revision)
				case b.Progress:
					got += fmt.Sprintf("progress %d ", b.Header.Revision)
				default:
					got += fmt.Sprint(revisions(b))
				}
				if strings.HasSuffix(got, "]") {
					break
				}
			}
			if got != tc.want {
				t.Errorf("%d options: got %q; want %q", len(tc.opts), got, tc.want)
			}
		}
	})
}

func only(t *testing.T, s iter.Seq2[WatchBatch, error]) iter.Seq[WatchBatch] {
	return func(yield func(WatchBatch) bool) {
		for b, err := range s {
			if err != nil {
				t.Fatal(err)
			}
			if !yield(b) {
				return
			}
		}
	}
}

// mute is a connection over which, once asked, nothing comes any more though it stays open.
type mute struct {
	net.Conn
	on     *atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (c *mute) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.on.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *mute) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestWatchLeavesADeadConnectionWithinThirteenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			<-s.Context().Done()
			return nil
		}
		dead, other := scripted(4, wait), scripted(9, func(_ *pb.WatchCreateRequest, s pb.Watch_WatchServer) error {
			return errors.Join(s.Send(events(9)), errBroken)
		})
		for _, m := range []*fakeMember{dead, other} {
			m.start()
			defer m.stop()
		}
		var silent atomic.Bool
		c, err := Open(t.Context(), Config{
			Endpoints: []string{"dead:1"},
			Dial: func(ctx context.Context, addr string) (net.Conn, error) {
				if addr != "dead:1" {
					return other.dial(ctx)
				}
				if silent.Load() {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				conn, err := dead.dial(ctx)
				return &mute{Conn: conn, on: &silent, closed: make(chan struct{})}, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var begun time.Time
		for b, err := range c.Watch(t.Context(), "k", WithCreatedNotify()) {
			if err != nil {
				t.Fatal(err)
			}
			if b.Created {
				if err := c.SetEndpoints("dead:1", "other:1"); err != nil {
					t.Fatal(err)
				}
				silent.Store(true)
				begun = time.Now()
				continue
			}
			break
		}
		if took := time.Since(begun); took > 14*time.Second {
			t.Errorf("moved after %v; want gRPC's ping to find out within 13s", took)
		}
	})
}
