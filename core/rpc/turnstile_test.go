package rpc

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// endless is a connection on which there is always something to read.
type endless struct{ net.Conn }

func (endless) Read(b []byte) (int, error) { return len(b), nil }
func (endless) Close() error               { return nil }
func (endless) RemoteAddr() net.Addr       { return &net.TCPAddr{} }

func turning(s *turnstile) *turnConn {
	return &turnConn{Conn: endless{}, turnstile: s, gone: make(chan struct{})}
}

// reads reports the bytes of a Read that has begun, -1 while it waits.
func reads(c *turnConn) func() int {
	n := make(chan int, 1)
	go func() {
		b := make([]byte, 2*turnBytes)
		got, _ := c.Read(b)
		n <- got
	}()
	return func() int {
		synctest.Wait()
		select {
		case got := <-n:
			return got
		default:
			return -1
		}
	}
}

func refuse(c *turnConn) {
	noteRefusal(peer.NewContext(context.Background(), &peer.Peer{Addr: c.RemoteAddr()}))
}

func TestRefusedConnectionsReadOneAfterAnotherAndOthersDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &turnstile{turns: make(chan struct{}, 1)}
		first, second, bystander := turning(s), turning(s), turning(s)
		refuse(first)
		refuse(second)
		if got := reads(first)(); got != turnBytes {
			t.Fatalf("the first read %d bytes, want its turn's %d", got, turnBytes)
		}
		waits := reads(second)
		if got := waits(); got != -1 {
			t.Fatalf("the second read %d bytes in the first one's turn", got)
		}
		if got := reads(bystander)(); got != 2*turnBytes {
			t.Fatalf("one that was not refused read %d bytes", got)
		}
		if got := reads(first)(); got != 2*turnBytes { // nothing of its turn was refused
			t.Fatalf("the first read %d bytes after its turn", got)
		}
		if got := waits(); got != turnBytes {
			t.Fatalf("the second read %d bytes in its turn", got)
		}
		second.Close()
	})
}

// What grpc hands to a tap must lead to the connection.
func TestACallThatIsRefusedInTheTapHasItsConnectionWait(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan bool, 1)
	s := grpc.NewServer(grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		noteRefusal(ctx)
		p, _ := peer.FromContext(ctx)
		a, ok := p.Addr.(turnAddr)
		refused <- ok && a.conn.refused
		return nil, rpctypes.ErrGRPCRequestTooManyRequests
	}))
	served := make(chan error, 1)
	go func() { served <- s.Serve(turnListener{lis, newTurnstile()}) }()
	cc, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		err := cc.Invoke(ctx, pb.KV_Put_FullMethodName, &pb.PutRequest{}, &pb.PutResponse{})
		if status.Code(err) != codes.ResourceExhausted || !<-refused {
			t.Errorf("%v; want a refusal that its connection knows of", err)
		}
	}
	cc.Close()
	s.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestATurnEndsWithItsConnectionOrItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &turnstile{turns: make(chan struct{}, 1)}
		stuck, next, closing, last := turning(s), turning(s), turning(s), turning(s)
		for _, c := range []*turnConn{stuck, next, closing, last} {
			refuse(c)
		}
		if got := reads(stuck)(); got != turnBytes {
			t.Fatalf("read %d bytes", got)
		}
		begins := reads(next)
		if got := begins(); got != -1 {
			t.Fatalf("read %d bytes in another's turn", got)
		}
		<-time.After(longestTurn)
		if got := begins(); got != turnBytes {
			t.Fatalf("read %d bytes when another's turn was over", got)
		}
		waits := reads(closing)
		if got := waits(); got != -1 {
			t.Fatalf("read %d bytes in another's turn", got)
		}
		closing.Close()
		if got := waits(); got == -1 {
			t.Fatal("a closed connection waits on")
		}
		next.Close()
		if got := reads(last)(); got != turnBytes {
			t.Fatalf("read %d bytes when the one before was closed", got)
		}
		stuck.Close() // its time was over long ago: it must not end another's turn
		if len(s.turns) != 1 {
			t.Fatalf("%d turns taken, want the last one's", len(s.turns))
		}
		last.Close()
		if len(s.turns) != 0 {
			t.Fatalf("%d turns taken when all are closed", len(s.turns))
		}
	})
}
