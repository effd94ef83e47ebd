package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inbox is a Handler that hands everything to the test.
type inbox struct {
	frames   chan []byte
	lost     chan uint64
	snapshot func(header []byte, body io.Reader) error
	expelled chan uint64
	members  sync.Map // id -> Standing
	strict   bool     // otherwise everybody belongs
}

func newInbox() *inbox {
	return &inbox{frames: make(chan []byte, 1024), lost: make(chan uint64, 1024), expelled: make(chan uint64, 1024)}
}

func (i *inbox) Receive(_ uint64, f []byte) { i.frames <- f }
func (i *inbox) Unreachable(id uint64) {
	select {
	case i.lost <- id:
	default:
	}
}

func (i *inbox) Standing(id uint64) Standing {
	if !i.strict {
		return Belongs
	}
	if s, ok := i.members.Load(id); ok {
		return s.(Standing)
	}
	return Stranger
}
func (i *inbox) Expelled(by uint64)    { i.expelled <- by }
func (i *inbox) Info() ([]byte, error) { return []byte("who is who"), nil }

func (i *inbox) ReceiveSnapshot(_ context.Context, _ uint64, h []byte, body io.Reader) error {
	return i.snapshot(h, body)
}

func (i *inbox) want(t *testing.T, want string) {
	t.Helper()
	select {
	case f := <-i.frames:
		if string(f) != want {
			t.Fatalf("got frame %q, want %q", f, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no frame arrived, want %q", want)
	}
}

func (i *inbox) wantExpelled(t *testing.T, by uint64) {
	t.Helper()
	select {
	case got := <-i.expelled:
		if got != by {
			t.Errorf("expelled by %x, want %x", got, by)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the removed member was never told")
	}
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func open(t *testing.T, self, cluster uint64, h Handler, l net.Listener) *Transport {
	t.Helper()
	tr := Open(Config{Listeners: []net.Listener{l}, Self: self, ClusterID: cluster, Handler: h})
	t.Cleanup(tr.Close)
	return tr
}

func urlOf(l net.Listener) string { return "http://" + l.Addr().String() }

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that in 10 s")
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls
	}
}

// sendUntilUp retries while the stream is still being dialled.
func sendUntilUp(t *testing.T, tr *Transport, to uint64, f string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !tr.Send(to, []byte(f)) {
		if time.Now().After(deadline) {
			t.Fatalf("peer %x never came up", to)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // polls for the stream
	}
}

func TestFramesArriveInOrderAndAgainAfterTheOtherSideRestarts(t *testing.T) {
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	a := open(t, 1, 7, newInbox(), la)
	hb := newInbox()
	b := open(t, 2, 7, hb, lb)
	a.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	sendUntilUp(t, a, 2, "f0")
	for i := 1; i < 100; i++ {
		if !a.Send(2, fmt.Appendf(nil, "f%d", i)) {
			t.Fatal("send refused while connected")
		}
	}
	for i := range 100 {
		hb.want(t, fmt.Sprintf("f%d", i))
	}
	b.Close()
	lb = listen(t, lb.Addr().String())
	hb = newInbox()
	open(t, 2, 7, hb, lb)
	deadline := time.Now().Add(10 * time.Second)
	for { // what is sent before the break is noticed is lost, as the contract says
		a.Send(2, []byte("back"))
		select {
		case f := <-hb.frames:
			if string(f) != "back" {
				t.Fatalf("got %q", f)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the stream did not come back")
		}
	}
}

// It has come up, or can be reached again: to wait on would cost what is said meanwhile.
func TestAPeerThatIsHeardIsDialledAtOnce(t *testing.T) {
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	var away atomic.Bool
	away.Store(true)
	a := Open(Config{Listeners: []net.Listener{la}, Self: 1, ClusterID: 7, Handler: newInbox(), retry: time.Hour, Dial: func(ctx context.Context, url string) (net.Conn, error) {
		if away.Load() {
			return nil, errors.New("nobody there")
		}
		return DialURL(ctx, url)
	}})
	t.Cleanup(a.Close)
	ha := a.cfg.Handler.(*inbox)
	a.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	<-ha.lost // and now it waits
	away.Store(false)
	hb := newInbox()
	b := open(t, 2, 7, hb, lb)
	b.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	sendUntilUp(t, a, 2, "there you are")
	hb.want(t, "there you are")
}

func TestForeignClusterWrongReceiverAndNonMemberAreRefusedByName(t *testing.T) {
	lb := listen(t, "127.0.0.1:0")
	hb := newInbox()
	hb.strict = true
	hb.members.Store(uint64(1), Belongs)
	open(t, 2, 7, hb, lb)
	la := listen(t, "127.0.0.1:0")
	a := open(t, 1, 7, newInbox(), la)
	for _, c := range []struct {
		h    hello
		want string
	}{
		{hello{streamConn, 8, 1, 2, nil}, "cluster id mismatch"},
		{hello{streamConn, 7, 1, 3, nil}, "this is member 2, not 3"},
		{hello{streamConn, 7, 5, 2, nil}, "member 5 does not belong to this cluster"},
		{hello{9, 7, 1, 2, nil}, "unknown connection kind"},
	} {
		_, err := a.dialOne(t.Context(), urlOf(lb), c.h)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("hello %+v: got %v, want refusal with %q", c.h, err, c.want)
		}
	}
}

func TestGarbageOnThePeerPortIsDroppedAndOthersGoOn(t *testing.T) {
	lb := listen(t, "127.0.0.1:0")
	hb := newInbox()
	open(t, 2, 7, hb, lb)
	for _, junk := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + strings.Repeat("x", 100), magic + "\x63" + strings.Repeat("\x00", 60), strings.Repeat("\xff", 4096)} {
		c, err := net.Dial("tcp", lb.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(junk))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if b, err := io.ReadAll(c); len(b) > 0 && err == nil && status(b[0]) == statusOK {
			t.Errorf("junk %.20q was accepted", junk)
		}
		c.Close()
	}
	la := listen(t, "127.0.0.1:0")
	a := open(t, 1, 7, newInbox(), la)
	a.SetPeers(map[uint64][]string{2: {urlOf(lb)}})
	sendUntilUp(t, a, 2, "still here")
	hb.want(t, "still here")
}

func TestBytesThatGoOneWayAreThoseThatComeTheOther(t *testing.T) {
	lb := listen(t, "127.0.0.1:0")
	hb := newInbox()
	hb.snapshot = func(_ []byte, body io.Reader) error { _, err := io.Copy(io.Discard, body); return err }
	received, sent, lost := make(chan int, 1000), make(chan int, 1000), make(chan uint64, 1000)
	b := Open(Config{Listeners: []net.Listener{lb}, Self: 2, ClusterID: 7, Handler: hb, Metrics: Metrics{Received: func(from uint64, n int) { received <- n * int(from) }}})
	t.Cleanup(b.Close)
	a := Open(Config{Self: 1, ClusterID: 7, Handler: newInbox(), Metrics: Metrics{
		Sent: func(to uint64, n int) { sent <- n * int(to-1) }, Lost: func(to uint64) { lost <- to },
	}})
	t.Cleanup(a.Close)
	a.SetPeers(map[uint64][]string{2: {urlOf(lb)}})
	sendUntilUp(t, a, 2, "one")
	hb.want(t, "one")
	err := a.SendSnapshot(t.Context(), 2, []byte("header"), func(w io.Writer) error { _, err := w.Write(make([]byte, 700_000)); return err })
	if err != nil {
		t.Fatal(err)
	}
	want := frameHeader + len("one") + frameHeader + len("header") + 700_000 + 3*frameHeader + frameHeader
	for what, counted := range map[string]chan int{"sent": sent, "received": received} {
		for got := 0; got < want; {
			if got += <-counted; got > want {
				t.Fatalf("%s %d bytes, want %d", what, got, want)
			}
		}
	}
	for len(lost) > 0 {
		<-lost // while the stream was being dialled
	}
	if a.Send(3, []byte("x")) || <-lost != 3 {
		t.Error("a message for nobody was not counted as lost")
	}
}

func TestSnapshotArrivesWholeOrNotAtAll(t *testing.T) {
	lb := listen(t, "127.0.0.1:0")
	hb := newInbox()
	open(t, 2, 7, hb, lb)
	a := open(t, 1, 7, newInbox(), listen(t, "127.0.0.1:0"))
	a.SetPeers(map[uint64][]string{2: {urlOf(lb)}})
	want := bytes.Repeat([]byte("checkpoint "), 100_000)

	var got []byte
	hb.snapshot = func(h []byte, body io.Reader) error {
		if string(h) != "header" {
			return fmt.Errorf("header %q", h)
		}
		b, err := io.ReadAll(body)
		got = b
		return err
	}
	err := a.SendSnapshot(t.Context(), 2, []byte("header"), func(w io.Writer) error { _, err := w.Write(want); return err })
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("err %v, got %d bytes, want %d", err, len(got), len(want))
	}

	cut := errors.New("view went away")
	readErr := make(chan error, 1)
	hb.snapshot = func(_ []byte, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		readErr <- err
		return err
	}
	err = a.SendSnapshot(t.Context(), 2, []byte("header"), func(w io.Writer) error { _, _ = w.Write(want); return cut })
	if !errors.Is(err, cut) {
		t.Fatalf("got %v, want the sender's own error", err)
	}
	if err := <-readErr; err == nil {
		t.Fatal("the receiver took half a checkpoint for a whole one")
	}

	hb.snapshot = func(_ []byte, body io.Reader) error {
		_, _ = io.Copy(io.Discard, body)
		return errors.New("disk full")
	}
	err = a.SendSnapshot(t.Context(), 2, nil, func(w io.Writer) error { _, err := w.Write(want); return err })
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("got %v, want the receiver's reason", err)
	}
}

func TestSendNeverBlocksAndItsQueueIsBounded(t *testing.T) {
	l := listen(t, "127.0.0.1:0") // accepts the hello, then never reads
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := readHello(c); err == nil {
			_ = writeStatus(c, statusOK, "")
		}
		<-t.Context().Done()
	}()
	t.Cleanup(func() { l.Close() })
	a := Open(Config{Self: 1, ClusterID: 7, Handler: newInbox(), QueueBytes: 1 << 20})
	t.Cleanup(a.Close)
	a.SetPeers(map[uint64][]string{2: {urlOf(l)}})
	sendUntilUp(t, a, 2, "x")
	frame := make([]byte, 256<<10)
	for i := range 10_000 {
		if !a.Send(2, frame) {
			if i < 3 { // the first frame may still be queued
				t.Fatalf("queue refused frame %d, before its bound", i)
			}
			return
		}
	}
	t.Fatal("10,000 frames of 256 KiB went into a queue of 1 MiB")
}

func TestARemovedPeerGetsWhatIsQueuedAndIsToldOnItsNextDial(t *testing.T) {
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	ha, hb := newInbox(), newInbox()
	ha.strict = true
	ha.members.Store(uint64(2), Belongs)
	a, b := open(t, 1, 7, ha, la), open(t, 2, 7, hb, lb)
	a.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	b.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	sendUntilUp(t, b, 1, "hello")
	ha.want(t, "hello")
	sendUntilUp(t, a, 2, "first")
	for i := range 100 {
		if !a.Send(2, fmt.Appendf(nil, "f%d", i)) {
			t.Fatal("send refused while connected")
		}
	}
	ha.members.Store(uint64(2), Removed)
	a.SetPeers(map[uint64][]string{1: {urlOf(la)}})
	hb.want(t, "first")
	for i := range 100 {
		hb.want(t, fmt.Sprintf("f%d", i))
	}
	hb.wantExpelled(t, 1)
	if a.Send(2, []byte("x")) {
		t.Error("a frame for a removed peer was taken")
	}
}

// remover removes a member at the moment at which it is let in.
type remover struct {
	*inbox
	once   sync.Once
	remove func()
}

func (r *remover) Standing(id uint64) Standing {
	before := r.inbox.Standing(id)
	r.once.Do(r.remove)
	return before
}

func TestAPeerThatIsRemovedWhileItConnectsIsToldSo(t *testing.T) {
	la, lb := listen(t, "127.0.0.1:0"), listen(t, "127.0.0.1:0")
	ha, hb := newInbox(), &remover{inbox: newInbox()}
	hb.strict = true
	hb.members.Store(uint64(1), Belongs)
	removed := make(chan *Transport, 1)
	hb.remove = func() {
		hb.members.Store(uint64(1), Removed)
		(<-removed).SetPeers(map[uint64][]string{2: {urlOf(lb)}})
	}
	removed <- open(t, 2, 7, hb, lb)
	a := open(t, 1, 7, ha, la)
	a.SetPeers(map[uint64][]string{1: {urlOf(la)}, 2: {urlOf(lb)}})
	ha.wantExpelled(t, 2)
}

func TestAnyoneMayAskWhoBelongsToTheCluster(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	open(t, 2, 7, newInbox(), l)
	got, err := Ask(t.Context(), urlOf(l), nil)
	if err != nil || string(got) != "who is who" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestWhoAsksAMemberThatIsBeingStartedIsTurnedAwayAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stop := TurnAway([]net.Listener{l})
	if b, err := Ask(t.Context(), "http://"+l.Addr().String(), nil); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %q, %v, want a closed connection", b, err)
	}
	stop()
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.Close()
		}
		accepted <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := <-accepted; err != nil {
		t.Fatalf("the listener is of no use afterwards: %v", err)
	}
}
