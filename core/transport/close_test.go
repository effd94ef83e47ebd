package transport

import (
	"net"
	"testing"
	"time"
)

func TestClosingDoesNotWaitForAPeerThatDoesNotGreetBack(t *testing.T) {
	mute := listen(t, "127.0.0.1:0")
	defer mute.Close()
	tr := Open(Config{Self: 1, ClusterID: 7, Handler: newInbox()})
	tr.SetPeers(map[uint64][]string{2: {urlOf(mute)}})
	conn, err := mute.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	closesSoon(t, tr)
}

func TestClosingDoesNotWaitForAPeerThatTakesNoBytes(t *testing.T) {
	deaf := listen(t, "127.0.0.1:0")
	defer deaf.Close()
	tr := Open(Config{Self: 1, ClusterID: 7, Handler: newInbox(), QueueBytes: 1 << 20})
	tr.SetPeers(map[uint64][]string{2: {urlOf(deaf)}})
	conn := greeted(t, deaf)
	defer conn.Close()
	sendUntilUp(t, tr, 2, "x")
	for refused, frame := 0, make([]byte, 256<<10); refused < 50; { // the sockets are full, and then the queue
		if tr.Send(2, frame) {
			refused = 0
			continue
		}
		refused++
		time.Sleep(time.Millisecond) //nolint:forbidigo // lets the stream take what it can
	}
	closesSoon(t, tr)
}

// closesSoon fails if closing waits as long as a peer is given to answer, or to take what is sent.
func closesSoon(t *testing.T, tr *Transport) {
	t.Helper()
	start := time.Now()
	tr.Close()
	if took := time.Since(start); took > dialTimeout/2 {
		t.Errorf("closing took %v", took)
	}
}

// greeted accepts a stream, answers its hello, and reads no more.
func greeted(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readHello(conn); err != nil {
		t.Fatal(err)
	}
	if err := writeStatus(conn, statusOK, ""); err != nil {
		t.Fatal(err)
	}
	return conn
}
