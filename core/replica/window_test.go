package replica

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// entries makes entries from..to of a term, of that many bytes each.
func entries(from, to, term uint64, size int) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := from; i <= to; i++ {
		index := i
		out = append(out, &raftpb.Entry{Index: &index, Term: &term, Data: make([]byte, size)})
	}
	return out
}

func window(start Position, ents []*raftpb.Entry, keep int) *Window {
	return newWindow(&Config{Start: start, Entries: ents, KeepBytes: keep})
}

// shape is a window's indices and terms.
func shape(w *Window) string {
	s := fmt.Sprintf("%d/%d:", w.first.Index, w.first.Term)
	for _, e := range w.ents {
		s += fmt.Sprintf(" %d/%d", e.GetIndex(), e.GetTerm())
	}
	return s
}

func TestTheWindowAnswersOnlyForWhatItHolds(t *testing.T) {
	w := window(Position{10, 2}, entries(11, 14, 3, 5), 0)
	for _, c := range []struct {
		lo, hi, most uint64
		want         int
		err          error
	}{
		{11, 15, 1000, 4, nil},
		{12, 14, 1000, 2, nil},
		{11, 15, 1, 1, nil}, // at least one, however large
		{11, 15, 2 * (entryOverhead + 5), 2, nil},
		{13, 13, 1000, 0, nil},
		{10, 12, 1000, 0, raft.ErrCompacted},
		{12, 16, 1000, 0, raft.ErrUnavailable},
	} {
		got, err := w.Entries(c.lo, c.hi, c.most)
		if len(got) != c.want || !errors.Is(err, c.err) {
			t.Errorf("entries %d to %d of %d bytes: %d, %v; want %d, %v", c.lo, c.hi, c.most, len(got), err, c.want, c.err)
		}
	}
	for index, want := range map[uint64]error{9: raft.ErrCompacted, 10: nil, 11: nil, 14: nil, 15: raft.ErrUnavailable} {
		if _, err := w.Term(index); !errors.Is(err, want) {
			t.Errorf("term of %d: %v, want %v", index, err, want)
		}
	}
	if term, _ := w.Term(10); term != 2 {
		t.Errorf("term before the first entry is %d, want 2", term)
	}
}

func TestTheWindowTakesOverWhatWasWritten(t *testing.T) {
	for _, c := range []struct {
		add  []*raftpb.Entry
		want string
	}{
		{nil, "10/2: 11/3 12/3 13/3"},
		{entries(14, 15, 3, 1), "10/2: 11/3 12/3 13/3 14/3 15/3"},
		{entries(12, 12, 4, 1), "10/2: 11/3 12/4"},
		{entries(11, 15, 4, 1), "10/2: 11/4 12/4 13/4 14/4 15/4"},
		{entries(8, 12, 4, 1), "10/2: 11/4 12/4"}, // the first ones are behind a checkpoint
		{entries(8, 10, 4, 1), "10/2: 11/3 12/3 13/3"},
	} {
		w := window(Position{10, 2}, entries(11, 13, 3, 1), 0)
		w.append(c.add)
		if got := shape(w); got != c.want || w.bytes != len(w.ents) {
			t.Errorf("after %d entries: %s, %d bytes; want %s", len(c.add), got, w.bytes, c.want)
		}
	}
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "do not follow") {
			t.Errorf("a gap was taken: %v", r)
		}
	}()
	window(Position{10, 2}, entries(11, 13, 3, 1), 0).append(entries(15, 16, 3, 1))
}

func TestEntriesHandedOutStayAsTheyWere(t *testing.T) {
	w := window(Position{10, 2}, entries(11, 14, 3, 1), 0)
	got, err := w.Entries(11, 15, 1000)
	if err != nil {
		t.Fatal(err)
	}
	w.append(entries(13, 18, 4, 1)) // another leader's
	w.append(entries(12, 12, 5, 1))
	w.trim(12)
	for i, e := range got {
		if e.GetIndex() != uint64(11+i) || e.GetTerm() != 3 {
			t.Errorf("entry %d became %d/%d", 11+i, e.GetIndex(), e.GetTerm())
		}
	}
}

func TestTrimmingKeepsATailWhatIsNotAppliedAndWhatIsPinned(t *testing.T) {
	for _, c := range []struct {
		keep    int
		applied uint64
		pin     uint64
		most    int
		first   uint64
	}{
		{1000, 30, 0, 0, 10}, // little enough
		{100, 30, 0, 0, 20},  // ten of them are left
		{100, 15, 0, 0, 15},  // the rest is not applied
		{100, 30, 12, 1 << 20, 12},
		{100, 30, 12, 150, 20}, // pinned, but too much
		{160, 30, 0, 0, 10},    // a quarter over is let go
	} {
		w := window(Position{10, 1}, entries(11, 30, 1, 10), c.keep)
		if c.pin != 0 {
			w.pins[3], w.most = c.pin, c.most
		}
		w.trim(c.applied)
		if w.first.Index != c.first || w.last() != 30 || w.bytes != 10*len(w.ents) {
			t.Errorf("keep %d, applied %d, pinned %d: begins after %d, %d bytes; want %d", c.keep, c.applied, c.pin, w.first.Index, w.bytes, c.first)
		}
		if term, err := w.Term(w.first.Index); err != nil || term != 1 {
			t.Errorf("its beginning has term %d, %v", term, err)
		}
	}
}
