package differential

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// patience bounds every single thing a server is asked for.
const patience = 30 * time.Second

// server is one running member and what a client knows of it.
type server struct {
	name         string
	client, peer string // host:port
	dir          string
	cmd          *exec.Cmd
	exited       chan struct{}
	conn         *grpc.ClientConn

	rev, compactRev int64 // as of the last answer
	compacting      bool  // since the last compaction nothing has waited for it
	members         map[uint64]uint64
	leases          map[int64]int // ids that the server chose, numbered
	chosen          []int64       // those of the program under way
	model           *model        // judges its answers, if there is one
	unlike          int64         // up to this revision, hashes may differ
}

// startServer starts a program that takes etcd's flags and waits until it serves.
func startServer(ctx context.Context, name string, command []string, home string) (_ *server, err error) {
	dir, err := os.MkdirTemp(home, name+"-")
	if err != nil {
		return nil, err
	}
	s := &server{name: name, dir: dir, exited: make(chan struct{}), members: map[uint64]uint64{}, leases: map[int64]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.client, err = freeAddr(); err != nil {
		return nil, err
	}
	if s.peer, err = freeAddr(); err != nil {
		return nil, err
	}
	log, err := os.Create(s.logFile())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	client, peer := "http://"+s.client, "http://"+s.peer
	args := append(command[1:len(command):len(command)],
		"--name=one", "--data-dir="+filepath.Join(dir, "data"),
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=one="+peer,
		"--unsafe-no-fsync", "--log-level=warn")
	s.cmd = exec.Command(command[0], args...)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = program.WithParent()
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // how it ended is in ProcessState
		close(s.exited)
	}()
	s.conn, err = grpc.NewClient("passthrough:///"+s.client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec()), grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		return nil, err
	}
	return s, s.await(ctx)
}

// await returns once the server answers linearizable reads.
func (s *server) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := pb.NewKVClient(s.conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")})
		if err == nil {
			break
		}
		s.conn.ResetConnectBackoff()
		select {
		case <-again.C:
		case <-s.exited:
			return fmt.Errorf("%s ended: %v\n%s", s.name, s.cmd.ProcessState, s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("%s doesn't serve: %w\n%s", s.name, err, s.logTail())
		}
	}
	list, err := pb.NewClusterClient(s.conn).MemberList(ctx, &pb.MemberListRequest{})
	if err != nil {
		return err
	}
	s.members[list.Members[0].ID] = firstMember
	s.rev, s.compactRev = 1, -1
	return nil
}

// firstMember is what the server's own member id is taken for; those of others count on from there.
const firstMember = 1000

// running tells whether the process still lives.
func (s *server) running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// gone tells whether the process has ended, once it doesn't answer any more: it
// may take a moment over that.
func (s *server) gone() bool {
	select {
	case <-s.exited:
		return true
	case <-time.After(3 * time.Second):
		return false
	}
}

// stop ends the server and removes its data.
func (s *server) stop() error {
	if s.conn != nil {
		_ = s.conn.Close() // there is nobody to tell
	}
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // it may be gone
		<-s.exited
	}
	return os.RemoveAll(s.dir)
}

func (s *server) logFile() string { return filepath.Join(s.dir, "log") }

// logTail is what the server said last.
func (s *server) logTail() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// freeAddr is a loopback address that nobody listens on.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// scratch is a folder for the servers' data, in memory where there is such a place.
func scratch(t *testing.T) string {
	t.Helper()
	if dir, err := os.MkdirTemp("/dev/shm", "muster-differential-"); err == nil { //nolint:usetesting // TempDir can't say where
		t.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return t.TempDir()
}
