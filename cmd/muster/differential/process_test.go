package differential

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/musterhq/muster/cmd/muster/e2e/program"
)

// patience bounds every single thing a server is asked for.
const patience = 30 * time.Second

// server is what answers requests, and what a client knows of it: one member, or a
// cluster of which each request goes to the next one.
type server struct {
	name    string
	members []*member
	next    int              // of members
	conn    *grpc.ClientConn // to the one whose turn it is

	rev, compactRev int64 // as of the last answer
	compacting      bool  // since the last compaction nothing has waited for it
	ids             map[uint64]uint64
	leases          map[int64]int // ids that the server chose, numbered
	chosen          []int64       // those of the program under way
	model           *model        // judges its answers, if there is one
	unlike          int64         // up to this revision, hashes may differ
}

// member is one process.
type member struct {
	client, peer string // host:port
	dir          string
	cmd          *exec.Cmd
	exited       chan struct{} // closed once it has ended
	conn         *grpc.ClientConn
}

// startServer starts members of a program that takes etcd's flags and waits until they serve.
func startServer(ctx context.Context, name string, command []string, home string, members int) (_ *server, err error) {
	s := &server{name: name, rev: 1, compactRev: -1, unlike: -2, ids: map[uint64]uint64{}, leases: map[int64]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	var initial []string
	for i := range members {
		m := &member{}
		if m.dir, err = os.MkdirTemp(home, name+"-"); err != nil {
			return nil, err
		}
		s.members = append(s.members, m)
		if m.client, err = freeAddr(); err != nil {
			return nil, err
		}
		if m.peer, err = freeAddr(); err != nil {
			return nil, err
		}
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, m.peer))
	}
	for i, m := range s.members {
		if err := m.start(fmt.Sprintf("m%d", i), command, strings.Join(initial, ",")); err != nil {
			return nil, err
		}
	}
	for _, m := range s.members {
		if err := m.await(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	s.conn = s.members[0].conn
	list, err := pb.NewClusterClient(s.conn).MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	if err != nil {
		return nil, err
	}
	for _, m := range list.Members {
		s.ids[m.ID] = firstMember
	}
	return s, nil
}

func (m *member) start(name string, command []string, initial string) error {
	log, err := os.Create(m.logFile())
	if err != nil {
		return err
	}
	defer log.Close()
	client, peer := "http://"+m.client, "http://"+m.peer
	args := append(command[1:len(command):len(command)],
		"--name="+name, "--data-dir="+filepath.Join(m.dir, "data"), "--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster="+initial,
		"--unsafe-no-fsync", "--log-level=warn")
	cmd := exec.Command(command[0], args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = program.WithParent()
	if err := cmd.Start(); err != nil {
		return err
	}
	m.cmd, m.exited = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(m.exited)
	}()
	m.conn, err = grpc.NewClient("passthrough:///"+m.client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(newCodec()), grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	return err
}

// await returns once the member answers linearizable reads.
func (m *member) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := m.barrier(ctx)
		if err == nil {
			return nil
		}
		m.conn.ResetConnectBackoff()
		select {
		case <-again.C:
		case <-m.exited:
			return fmt.Errorf("it ended: %v\n%s", m.cmd.ProcessState, m.logTail())
		case <-ctx.Done():
			return fmt.Errorf("it doesn't serve: %w\n%s", err, m.logTail())
		}
	}
}

// barrier returns once the member has applied what was acknowledged by any.
func (m *member) barrier(ctx context.Context) error {
	_, err := pb.NewKVClient(m.conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	return err
}

// turn has the next member answer.
func (s *server) turn(ctx context.Context) error {
	if len(s.members) == 1 {
		return nil
	}
	s.next = (s.next + 1) % len(s.members)
	s.conn = s.member().conn
	return s.member().barrier(ctx)
}

// member is the one whose turn it is.
func (s *server) member() *member { return s.members[s.next] }

// catchUp sees to it that a member whose turn it is not has applied what others have acknowledged.
func (s *server) catchUp(ctx context.Context, m *member) error {
	if m == s.member() {
		return nil
	}
	return m.barrier(ctx)
}

// firstMember is what the server's own member id is taken for; those of others count on from there.
const firstMember = 1000

// running tells whether all processes still live.
func (s *server) running() bool { return !s.endsWithin(0) }

// gone tells whether a process has ended, once it doesn't answer any more: it
// may take a moment over that.
func (s *server) gone() bool { return s.endsWithin(3 * time.Second) }

func (s *server) endsWithin(d time.Duration) bool {
	patience := time.After(d)
	for _, m := range s.members {
		select {
		case <-m.exited:
			return true
		default:
		}
		select {
		case <-m.exited:
			return true
		case <-patience:
			patience = time.After(0)
		}
	}
	return false
}

// stop ends the server and removes its data.
func (s *server) stop() (err error) {
	for _, m := range s.members {
		if m.conn != nil {
			_ = m.conn.Close() // there is nobody to tell
		}
		if m.cmd != nil {
			_ = m.cmd.Process.Kill() // it may be gone
			<-m.exited
		}
		err = errors.Join(err, os.RemoveAll(m.dir))
	}
	return err
}

func (m *member) logFile() string { return filepath.Join(m.dir, "log") }

func (m *member) logTail() string {
	b, err := os.ReadFile(m.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// logTail is what the members said last.
func (s *server) logTail() string {
	var tails []string
	for _, m := range s.members {
		tails = append(tails, m.logTail())
	}
	return strings.Join(tails, "\n")
}

// freeAddr is a loopback address that nobody listens on, below the ports that the
// system gives to outgoing connections.
func freeAddr() (string, error) {
	for {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			return "", err
		}
		defer ln.Close()
		return ln.Addr().String(), nil
	}
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
