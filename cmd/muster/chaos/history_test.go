package chaos

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"strings"
)

// digest stands for a value: itself, or what it hashes to.
func digest(value []byte) string {
	if len(value) <= 64 {
		return string(value)
	}
	sum := sha256.Sum256(value)
	return fmt.Sprintf("#%d:%s", len(value), hex.EncodeToString(sum[:8]))
}

// event is one change as a watcher was told of it.
type event struct {
	rev             int64
	key, value      string
	deleted         bool
	create, version int64
}

func (e event) String() string {
	if e.deleted {
		return fmt.Sprintf("-%s@%d", e.key, e.rev)
	}
	return fmt.Sprintf("+%s=%s@%d (version %d, created %d)", e.key, e.value, e.rev, e.version, e.create)
}

// sum is what a revision's events are compared by.
func sum(before uint64, e event) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %v", before, e)
	return h.Sum64()
}

// version is a key from a revision on.
type version struct {
	reading
	rev             int64
	create, version int64 // 0: absent
}

// history is every revision there was, as one watcher was told of it.
type history struct {
	last   int64
	events []event
	first  []int // events[first[r-2]:first[r-1]] are those of revision r
	keys   map[string][]version
}

// newHistory replays the events. What they say of themselves must be right.
func newHistory(events []event) (*history, []string) {
	h := &history{last: 1, events: events, keys: map[string][]version{}}
	var wrong []string
	for i, e := range events {
		if e.rev != h.last {
			h.first = append(h.first, i)
			h.last = e.rev
		}
		before := h.at(e.key, e.rev)
		after := version{rev: e.rev}
		if !e.deleted {
			after = version{reading{e.value, e.rev}, e.rev, e.create, e.version}
			want := version{reading{e.value, e.rev}, e.rev, before.create, before.version + 1}
			if before.version == 0 {
				want.create = e.rev
			}
			if after != want {
				wrong = append(wrong, fmt.Sprintf("%v follows %+v: want version %d, created %d", e, before, want.version, want.create))
			}
		} else if before.version == 0 {
			wrong = append(wrong, fmt.Sprintf("%v: the key was absent", e))
		}
		h.keys[e.key] = append(h.keys[e.key], after)
	}
	h.first = append(h.first, len(events))
	return h, wrong
}

// of returns a revision's events.
func (h *history) of(rev int64) []event {
	if rev < 2 || rev > h.last {
		return nil
	}
	return h.events[h.first[rev-2]:h.first[rev-1]]
}

// at is the state of a key at a revision.
func (h *history) at(key string, rev int64) version {
	versions := h.keys[key]
	i := sort.Search(len(versions), func(i int) bool { return versions[i].rev > rev })
	if i == 0 {
		return version{}
	}
	return versions[i-1]
}

// holds tells whether a put of the value under the key happened at the revision.
func (h *history) holds(rev int64, key, value string) bool {
	return slices.ContainsFunc(h.of(rev), func(e event) bool { return !e.deleted && e.key == key && e.value == value })
}

// verdict collects what is wrong, the first few of each kind.
type verdict struct {
	wrong  []string
	counts map[string]int
	checks map[string]int
}

func newVerdict() *verdict { return &verdict{counts: map[string]int{}, checks: map[string]int{}} }

// checked counts a check of a kind and, unless it is ok, notes what is wrong.
func (v *verdict) checked(kind string, ok bool, format string, args ...any) {
	v.checks[kind]++
	if ok {
		return
	}
	if v.counts[kind]++; v.counts[kind] <= 5 {
		v.wrong = append(v.wrong, kind+": "+fmt.Sprintf(format, args...))
	}
}

func (v *verdict) String() string {
	var parts []string
	for _, kind := range sortedKeys(v.checks) {
		parts = append(parts, fmt.Sprintf("%d %s", v.checks[kind], kind))
	}
	return strings.Join(parts, ", ")
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
