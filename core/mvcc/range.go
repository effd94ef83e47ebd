package mvcc

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// SortTarget and SortOrder have the values of etcd's RangeRequest, so that a request's field converts.
type (
	SortTarget int32
	SortOrder  int32
)

const (
	SortKey SortTarget = iota
	SortVersion
	SortCreate
	SortMod
	SortValue
)

const (
	OrderNone SortOrder = iota
	OrderAscend
	OrderDescend
)

// RangeOptions says what to read. Key and End are etcd's pair: no End means Key alone, "\x00" everything from Key on.
// The filters (0 = none) and the sort come before the limit, as in etcd; Count ignores filters and limit.
type RangeOptions struct {
	Key, End             []byte
	Rev                  int64 // <= 0: the current one
	Limit                int64 // <= 0: none
	CountOnly            bool
	KeysOnly             bool // heeded by whoever encodes the reply: Records are stored bytes
	MinMod, MaxMod       int64
	MinCreate, MaxCreate int64
	SortBy               SortTarget
	Order                SortOrder // OrderNone with a SortBy other than SortKey sorts ascending
}

// RangeResult is the answer. Rev is the current revision, not the one asked for. More says that keys beyond the limit
// passed the filters.
type RangeResult struct {
	KVs   []Record
	Count int64
	More  bool
	Rev   int64
}

// keyOrder reports that results in key order need no sorting.
func (o *RangeOptions) keyOrder() bool {
	return o.SortBy == SortKey && o.Order != OrderDescend
}

func (o *RangeOptions) filtered() bool {
	return o.MinMod != 0 || o.MaxMod != 0 || o.MinCreate != 0 || o.MaxCreate != 0
}

func (o *RangeOptions) keeps(r Record) bool {
	create, mod, _, _ := r.revisions()
	return !(o.MaxMod != 0 && mod > o.MaxMod || o.MinMod != 0 && mod < o.MinMod ||
		o.MaxCreate != 0 && create > o.MaxCreate || o.MinCreate != 0 && create < o.MinCreate)
}

func (o *RangeOptions) check() error {
	if o.SortBy < SortKey || o.SortBy > SortValue {
		return fmt.Errorf("%w: sort target %d", ErrUnsupported, o.SortBy)
	}
	if o.Order < OrderNone || o.Order > OrderDescend {
		return fmt.Errorf("%w: sort order %d", ErrUnsupported, o.Order)
	}
	return nil
}

// snapshot is one state to read: what View and Tx have in common.
type snapshot struct {
	h          *history
	root       *node
	rev        int64
	compactRev int64
}

// resolve turns the revision asked for into the one to read at.
func (s *snapshot) resolve(rev int64) (int64, error) {
	switch {
	case rev > s.rev:
		return 0, fmt.Errorf("%w: %d, now at %d", ErrFutureRev, rev, s.rev)
	case rev <= 0:
		return s.rev, nil
	case rev < s.compactRev:
		return 0, fmt.Errorf("%w: %d, compacted at %d", ErrCompacted, rev, s.compactRev)
	}
	return rev, nil
}

// get is the newest version of key, if it exists now.
func (s *snapshot) get(key []byte) (Record, bool) {
	ref, ok := lookup(s.h, s.root, key)
	if !ok || ref&tombItem != 0 {
		return nil, false
	}
	return s.h.newest(ref).record(), true
}

// version is what an index item's key was at revision rev, if it existed.
func (s *snapshot) version(ref uint64, rev int64) (Record, bool) {
	if rev >= s.rev {
		if ref&tombItem != 0 {
			return nil, false
		}
		return s.h.newest(ref).record(), true
	}
	_, e, ok := s.h.at(ref, rev)
	if !ok || e.tombstone() {
		return nil, false
	}
	return e.record(), true
}

func openEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// scan visits the index items of a range with an end, tombstones too, in key order.
func (s *snapshot) scan(key, end []byte, yield func(ref uint64) bool) {
	if openEnd(end) {
		end = nil
	} else if bytes.Compare(key, end) >= 0 {
		return
	}
	var it iterator
	it.seek(s.h, s.root, key)
	if end == nil {
		for ref, ok := it.next(); ok && yield(ref); ref, ok = it.next() {
		}
		return
	}
	// Where the range ends is looked up once: no key is compared on the way.
	var stop iterator
	stop.seek(s.h, s.root, end)
	leaf, pos := stop.path[stop.depth].nd, stop.path[stop.depth].i
	for {
		at := &it.path[it.depth]
		for at.i == int(at.nd.n) {
			if at.nd == leaf || !it.nextLeaf() {
				return
			}
		}
		if at.nd == leaf && at.i >= pos {
			return
		}
		ref, _ := it.next()
		if !yield(ref) {
			return
		}
	}
}

// ranks returns how many live keys come before the range and up to its end.
func (s *snapshot) ranks(key, end []byte) (from, to int64) {
	from = rank(s.h, s.root, key)
	if openEnd(end) {
		return from, int64(s.root.live())
	}
	if bytes.Compare(key, end) >= 0 {
		return from, from
	}
	return from, rank(s.h, s.root, end)
}

// Range reads a range; see RangeOptions. At the current revision the count costs O(log n) and a page in key order,
// either way, what it returns; older revisions, filters and other sorts look at every key of the range.
func (s *snapshot) Range(o RangeOptions) (RangeResult, error) {
	rev, err := s.resolve(o.Rev)
	if err != nil {
		return RangeResult{}, err
	}
	if err := o.check(); err != nil {
		return RangeResult{}, err
	}
	res := RangeResult{Rev: s.rev}
	switch {
	case len(o.End) == 0:
		s.point(&o, rev, &res)
	case rev == s.rev:
		s.current(&o, &res)
	default:
		s.past(&o, rev, &res)
	}
	return res, nil
}

func (s *snapshot) point(o *RangeOptions, rev int64, res *RangeResult) {
	ref, ok := lookup(s.h, s.root, o.Key)
	if !ok {
		return
	}
	r, ok := s.version(ref, rev)
	if !ok {
		return
	}
	res.Count = 1
	if !o.CountOnly && o.keeps(r) {
		res.KVs = []Record{r}
	}
}

// current reads a range at the current revision.
func (s *snapshot) current(o *RangeOptions, res *RangeResult) {
	from, to := s.ranks(o.Key, o.End)
	res.Count = to - from
	if o.CountOnly || res.Count == 0 {
		return
	}
	if o.filtered() || o.SortBy != SortKey {
		s.collect(o, s.rev, res)
		return
	}
	n := res.Count
	if o.Limit > 0 && o.Limit < n {
		n, res.More = o.Limit, true
	}
	var it iterator
	if o.Order == OrderDescend {
		it.seekRank(s.root, uint64(to-n))
	} else {
		it.seekRank(s.root, uint64(from))
	}
	res.KVs = make([]Record, 0, n)
	for int64(len(res.KVs)) < n {
		ref, ok := it.next()
		if !ok {
			panic("mvcc: the index holds fewer live keys than it counts")
		}
		if ref&tombItem == 0 {
			res.KVs = append(res.KVs, s.h.newest(ref).record())
		}
	}
	if o.Order == OrderDescend {
		slices.Reverse(res.KVs)
	}
}

// past reads a range at an older revision, where only a walk can tell the count.
func (s *snapshot) past(o *RangeOptions, rev int64, res *RangeResult) {
	if o.CountOnly {
		s.scan(o.Key, o.End, func(ref uint64) bool {
			if _, ok := s.version(ref, rev); ok {
				res.Count++
			}
			return true
		})
		return
	}
	s.collect(o, rev, res)
}

// collect walks the range, filters, sorts and cuts, in this order.
func (s *snapshot) collect(o *RangeOptions, rev int64, res *RangeResult) {
	inOrder, past, filtered := o.keyOrder(), rev < s.rev, o.filtered()
	var count int64
	s.scan(o.Key, o.End, func(ref uint64) bool {
		r, ok := s.version(ref, rev)
		if !ok {
			return true
		}
		count++
		if filtered && !o.keeps(r) {
			return true
		}
		if inOrder && o.Limit > 0 && int64(len(res.KVs)) == o.Limit {
			res.More = true
			return past // the present's count is known, the past's is not
		}
		res.KVs = append(res.KVs, r)
		return true
	})
	if past {
		res.Count = count
	}
	if !inOrder {
		sortRecords(res.KVs, o.SortBy, o.Order == OrderDescend)
		if o.Limit > 0 && int64(len(res.KVs)) > o.Limit {
			res.KVs, res.More = slices.Clone(res.KVs[:o.Limit]), true
		}
	}
}

// sortRecords sorts records that come in key order; ties stay in key order, so that the answer is one everywhere.
func sortRecords(rs []Record, by SortTarget, descend bool) {
	sign := 1
	if descend {
		sign = -1
	}
	if by == SortKey {
		if descend {
			slices.Reverse(rs)
		}
		return
	}
	if by == SortValue {
		slices.SortStableFunc(rs, func(a, b Record) int { return sign * bytes.Compare(a.Value(), b.Value()) })
		return
	}
	type ranked struct {
		n int64
		r Record
	}
	tmp := make([]ranked, len(rs))
	for i, r := range rs {
		create, mod, version, _ := r.revisions()
		n := mod
		switch by {
		case SortVersion:
			n = version
		case SortCreate:
			n = create
		}
		tmp[i] = ranked{n, r}
	}
	slices.SortStableFunc(tmp, func(a, b ranked) int { return sign * cmp.Compare(a.n, b.n) })
	for i := range tmp {
		rs[i] = tmp[i].r
	}
}
