package transport

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture hands the accepted connections to the test too.
type capture struct {
	net.Listener
	conns chan *net.TCPConn
}

func (c capture) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.conns <- conn.(*net.TCPConn)
	}
	return conn, err
}

// deafen makes the kernel drop whatever comes in on a connection, as if the
// network did: nothing is acknowledged any more.
func deafen(t *testing.T, conn *net.TCPConn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

func TestAConnectionThatIsCutSilentlyIsGivenUpAndDialledAnew(t *testing.T) {
	la, lb := listen(t, "127.0.0.1:0"), capture{listen(t, "127.0.0.1:0"), make(chan *net.TCPConn, 8)}
	ha, hb := newInbox(), newInbox()
	a := open(t, 1, 7, ha, la)
	open(t, 2, 7, hb, lb)
	a.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	sendUntilUp(t, a, 2, "before")
	hb.want(t, "before")
	deafen(t, <-lb.conns)
	// TCP by itself would try on for a quarter of an hour, at longer and longer
	// intervals: after a partition it needs as long again to notice its end.
	deadline := time.After(silenceTime + 20*time.Second)
	beat := time.NewTicker(50 * time.Millisecond)
	defer beat.Stop()
	for {
		select {
		case <-beat.C:
			a.Send(2, []byte("after"))
		case f := <-hb.frames:
			if string(f) != "after" {
				t.Fatalf("got frame %q", f)
			}
			return
		case <-deadline:
			t.Fatal("the connection isn't given up")
		}
	}
}
