package watch

// entry is one place in a stream's queue, and one Response once it is reached.
type entry struct {
	w      *watcher
	events []*Encoded
	cost   int
	rev    int64
	kind   kind
	ctl    *Response // control entries: the response as it will go out
}

type kind uint8

const (
	kindLive    kind = iota // events from Notify; may take more while it waits
	kindHistory             // events read from history
	kindControl             // created, canceled, progress
)

// entryOverhead is charged per queue entry on top of its events.
const entryOverhead = 96

// queue is a first-in-first-out ring of entries. Entries are numbered without
// gap from 1 on, and an entry that still waits can be found by its number.
type queue struct {
	ring []entry // length zero or a power of two
	head uint64  // number of the first entry, less one
	n    int
	peak int // most entries since it was last empty
}

const minRing = 4

// push returns the new entry's number.
func (q *queue) push(e entry) uint64 {
	if q.n == len(q.ring) {
		q.resize(max(minRing, 2*len(q.ring)))
	}
	q.n++
	q.peak = max(q.peak, q.n)
	number := q.head + uint64(q.n)
	*q.slot(number) = e
	return number
}

func (q *queue) pop() entry {
	p := q.slot(q.head + 1)
	e := *p
	*p = entry{}
	q.head++
	q.n--
	if q.n == 0 {
		// A burst mustn't leave its memory behind for the stream's life, nor
		// regular bursts resize the ring each time.
		if len(q.ring) > minRing && q.peak < len(q.ring)/4 {
			q.resize(len(q.ring) / 2)
		}
		q.peak = 0
	}
	return e
}

// at returns the entry of that number, nil if it has left the queue.
func (q *queue) at(number uint64) *entry {
	if number <= q.head {
		return nil
	}
	return q.slot(number)
}

func (q *queue) slot(number uint64) *entry { return &q.ring[number&uint64(len(q.ring)-1)] }

func (q *queue) resize(size int) {
	ring := make([]entry, size)
	for i := range q.n {
		number := q.head + 1 + uint64(i)
		ring[number&uint64(size-1)] = *q.slot(number)
	}
	q.ring = ring
}
