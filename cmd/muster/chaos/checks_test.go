package chaos

import (
	"strings"
	"testing"
	"time"
)

// at makes an operation that took from one millisecond to another.
func at(from, to int, o op) op {
	o.client = "c"
	o.called, o.returned = time.Duration(from)*time.Millisecond, time.Duration(to)*time.Millisecond
	return o
}

// TestTheChecksSeeWhatIsWrong gives them answers that a store must not give.
func TestTheChecksSeeWhatIsWrong(t *testing.T) {
	const k, l = registers + "0/0", registers + "1/0"
	// a at 2, b at 3, deleted at 4, c at 5 with d under another key at 6.
	events := []event{
		{rev: 2, key: k, value: "a", create: 2, version: 1},
		{rev: 3, key: k, value: "b", create: 2, version: 2},
		{rev: 4, key: k, deleted: true},
		{rev: 5, key: k, value: "c", create: 5, version: 1},
		{rev: 6, key: l, value: "d", create: 6, version: 1},
	}
	good := []op{
		at(0, 1, op{kind: opPut, key: k, value: "a", rev: 2}),
		at(2, 3, op{kind: opGet, key: k, rev: 2, found: reading{"a", 2}}),
		at(4, 5, op{kind: opCAS, key: k, value: "b", expect: 2, rev: 3, changed: true}),
		at(6, 7, op{kind: opDelete, key: k, rev: 4, changed: true}),
		at(8, 9, op{kind: opGet, key: k, rev: 4}),
		at(10, 11, op{kind: opPut, key: k, value: "c", outcome: unknown}),
		at(20, 21, op{kind: opPut, key: l, value: "d", rev: 6}),
	}
	with := func(o ...op) []op { return append(append([]op(nil), good...), o...) }
	tests := []struct {
		name      string
		ops       []op
		wrong     string // kind of check; empty for nothing
		porcupine bool   // sees it by itself
	}{
		{"nothing", good, "", false},
		{"a write of unknown outcome that was read before it ended", with(at(15, 16, op{kind: opGet, key: k, rev: 5, found: reading{"c", 5}})), "", false},
		{"an acknowledged write that isn't there", with(at(30, 31, op{kind: opPut, key: k, value: "lost", rev: 7})), "answers at a revision", false},
		{"an acknowledged write in another's place", with(at(12, 13, op{kind: opPut, key: k, value: "lost", rev: 3})), "acknowledged writes are there", false},
		{"a refused write that happened", append(good[:5:5], at(10, 11, op{kind: opPut, key: k, value: "c", outcome: refused}), good[6]), "refused writes never happen", false},
		{"a write that nobody asked for", good[:6], "writes happen once", false},
		{"a read of the past", with(at(30, 31, op{kind: opGet, key: k, rev: 2, found: reading{"a", 2}})), "order of time", true},
		{"a read of what wasn't there", with(at(30, 31, op{kind: opGet, key: k, rev: 6, found: reading{"x", 5}})), "reads of the state", true},
		{"a write older than one before it", append(good[:3:3], at(5, 6, good[6]), at(8, 9, good[3]), good[5]), "order of time", false},
		{"a cas that won over something else", with(at(12, 13, op{kind: opCAS, key: k, value: "c", expect: 3, rev: 5, changed: true})), "acknowledged writes are there", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h, wrong := newHistory(events)
			if len(wrong) > 0 {
				t.Fatal(wrong)
			}
			v := newVerdict()
			checkOps(v, h, append([]op(nil), test.ops...))
			if got := strings.Join(v.wrong, "\n"); test.wrong == "" && got != "" || !strings.Contains(got, test.wrong) {
				t.Errorf("found %q, want %q", got, test.wrong)
			}
			v = newVerdict()
			checkRegisters(v, test.ops)
			if found := len(v.wrong) > 0; found != test.porcupine {
				t.Errorf("porcupine finds %q, want something: %v", v.wrong, test.porcupine)
			}
		})
	}
}

func TestWatchersSeeWhatIsWrong(t *testing.T) {
	one := event{rev: 2, key: "a", value: "1", create: 2, version: 1}
	two := event{rev: 3, key: "a", value: "2", create: 2, version: 2}
	other := event{rev: 3, key: "b", value: "2", create: 3, version: 1}
	for name, test := range map[string]struct {
		batches [][]event
		wrong   string
	}{
		"nothing":                     {[][]event{{one}, {two}}, ""},
		"two keys in one revision":    {[][]event{{one}, {two, other}}, ""},
		"a revision left out":         {[][]event{{two}}, "when 2 was due"},
		"a revision twice":            {[][]event{{one}, {one}}, "when 3 was due"},
		"a revision in two responses": {[][]event{{one}, {two}, {other}}, "when 4 was due"},
		"a version that can't be":     {[][]event{{one}, {{rev: 3, key: "a", value: "2", create: 2, version: 3}}}, "want version 2"},
		"a delete of nothing":         {[][]event{{one}, {{rev: 3, key: "b", deleted: true}}}, "was absent"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &follower{name: "f", whole: true, last: 1, gone: func(string) {}}
			for _, b := range test.batches {
				f.take(b[len(b)-1].rev, b)
			}
			v := newVerdict()
			checkFollowers(v, []*follower{f})
			if got := strings.Join(v.wrong, "\n"); test.wrong == "" && got != "" || !strings.Contains(got, test.wrong) {
				t.Errorf("found %q, want %q", got, test.wrong)
			}
		})
	}
	t.Run("two that were told different things", func(t *testing.T) {
		a := &follower{name: "a", whole: true, last: 1, gone: func(string) {}}
		b := &follower{name: "b", last: 1, gone: func(string) {}}
		a.take(2, []event{one})
		a.take(3, []event{two})
		b.take(2, []event{one})
		b.take(3, []event{other})
		v := newVerdict()
		checkFollowers(v, []*follower{a, b})
		if got := strings.Join(v.wrong, "\n"); !strings.Contains(got, "3 differs") {
			t.Errorf("found %q", got)
		}
	})
}
