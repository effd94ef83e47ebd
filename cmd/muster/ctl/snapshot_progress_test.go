package ctl

import (
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestASnapshotThatTakesLongTellsHowFarItIs(t *testing.T) {
	for _, c := range []struct {
		name       string
		begin, end string
		want       string
	}{
		{"in a log", "", "\n", "Saving s.db: 20 MB of 40 MB\nSaving s.db: 40 MB of 40 MB\n"},
		{"at a terminal", "\r\x1b[K", "", "\r\x1b[KSaving s.db: 20 MB of 40 MB\r\x1b[KSaving s.db: 40 MB of 40 MB\r\x1b[K"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			var now time.Time
			p := newTransfer(&out, "s.db")
			p.now, p.told, p.begin, p.end = func() time.Time { return now }, now, c.begin, c.end
			left := uint64(40_000_000)
			recv := p.of(func() (*pb.SnapshotResponse, error) {
				now = now.Add(p.every / 2)
				left -= 10_000_000
				return &pb.SnapshotResponse{Blob: make([]byte, 10_000_000), RemainingBytes: left}, nil
			})
			for range 4 {
				if _, err := recv(); err != nil {
					t.Fatal(err)
				}
			}
			p.done()
			if out.String() != c.want {
				t.Errorf("told %q, want %q", out.String(), c.want)
			}
		})
	}
}

func TestASnapshotThatIsQuickTellsNothing(t *testing.T) {
	var out strings.Builder
	p := newTransfer(&out, "s.db")
	if _, err := p.of(func() (*pb.SnapshotResponse, error) { return &pb.SnapshotResponse{Blob: []byte("all")}, nil })(); err != nil {
		t.Fatal(err)
	}
	if p.done(); out.Len() != 0 {
		t.Errorf("told %q", out.String())
	}
}
