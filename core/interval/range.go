package interval

// Range is a set of consecutive keys: [begin, end), or [begin, ∞) when open. The zero Range is empty.
// Ranges are comparable with ==.
type Range struct {
	begin string
	end   string // exclusive; meaningless if open
	open  bool   // no upper end
}

// Point is the range that holds exactly key.
func Point(key []byte) Range {
	// No byte string sorts between k and k+"\x00", so a point is a half-open range like any other.
	b := make([]byte, len(key)+1)
	copy(b, key)
	s := string(b)
	return Range{begin: s[:len(key)], end: s}
}

// Span is [begin, end); it is empty if begin >= end.
func Span(begin, end []byte) Range { return Range{begin: string(begin), end: string(end)} }

// From is every key >= begin.
func From(begin []byte) Range { return Range{begin: string(begin), open: true} }

// Of reads the pair (key, range_end) of an etcd request: no end is a point, "\x00" is from-key.
func Of(key, end []byte) Range {
	switch {
	case len(end) == 0:
		return Point(key)
	case len(end) == 1 && end[0] == 0:
		return From(key)
	default:
		return Span(key, end)
	}
}

// Begin is the first key of the range.
func (r Range) Begin() string { return r.begin }

// End is the key after the last one; ok is false if the range has no upper end.
func (r Range) End() (end string, ok bool) { return r.end, !r.open }

// Empty reports that no key can be in r.
func (r Range) Empty() bool { return !r.open && r.begin >= r.end }

// Contains reports whether key is in r. It allocates nothing.
func (r Range) Contains(key []byte) bool {
	return string(key) >= r.begin && (r.open || string(key) < r.end)
}

// Overlaps reports whether some key is in both.
func (r Range) Overlaps(o Range) bool {
	return !r.Empty() && !o.Empty() && (o.open || r.begin < o.end) && (r.open || o.begin < r.end)
}

// Covers reports whether every key of o is in r. An empty o is covered by all.
func (r Range) Covers(o Range) bool {
	if o.Empty() {
		return true
	}
	return r.begin <= o.begin && (r.open || (!o.open && o.end <= r.end))
}

// compare orders by begin, then end, with no end last.
func (r Range) compare(o Range) int {
	switch {
	case r.begin != o.begin:
		return less(r.begin < o.begin)
	case r.open != o.open:
		return less(o.open)
	case r.open || r.end == o.end:
		return 0
	default:
		return less(r.end < o.end)
	}
}

func less(b bool) int {
	if b {
		return -1
	}
	return 1
}
