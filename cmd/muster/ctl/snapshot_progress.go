package ctl

import (
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// transfer tells how far a snapshot is that takes long: at a terminal on one line that is
// written over, elsewhere, as in a log, on one now and then.
type transfer struct {
	w     io.Writer
	name  string
	every time.Duration
	now   func() time.Time

	begin, end string // of a line
	told       time.Time
	shown      bool
	got        int64
}

func newTransfer(w io.Writer, name string) *transfer {
	t := &transfer{w: w, name: name, every: 10 * time.Second, now: time.Now, end: "\n"}
	if isTerminal(w) {
		t.every, t.begin, t.end = time.Second/2, "\r\x1b[K", ""
	}
	t.told = t.now()
	return t
}

// of passes a stream on and watches it.
func (t *transfer) of(recv func() (*pb.SnapshotResponse, error)) func() (*pb.SnapshotResponse, error) {
	return func() (*pb.SnapshotResponse, error) {
		resp, err := recv()
		if err != nil {
			return resp, err
		}
		t.got += int64(len(resp.GetBlob()))
		if now := t.now(); now.Sub(t.told) >= t.every {
			fmt.Fprintf(t.w, "%sSaving %s: %s of %s%s", t.begin, t.name, bytesize(t.got), bytesize(t.got+int64(resp.GetRemainingBytes())), t.end)
			t.told, t.shown = now, true
		}
		return resp, nil
	}
}

// done clears the line for what comes after.
func (t *transfer) done() {
	if t.shown {
		fmt.Fprint(t.w, t.begin)
	}
}
