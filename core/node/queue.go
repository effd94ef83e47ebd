package node

import "sync"

// queue hands work from the loop to a goroutine that takes all of it at once.
// push never blocks: what bounds it is the loop, which keeps at most two log
// writes and raft's limit of applying bytes under way.
type queue[T any] struct {
	mu     sync.Mutex
	ready  sync.Cond
	items  []T
	closed bool
}

func newQueue[T any]() *queue[T] {
	q := &queue[T]{}
	q.ready.L = &q.mu
	return q
}

func (q *queue[T]) push(v T) {
	q.mu.Lock()
	q.items = append(q.items, v)
	q.mu.Unlock()
	q.ready.Signal()
}

// take waits for work and returns all there is; false once closed and empty.
// spare is a slice from an earlier take whose memory may be used again.
func (q *queue[T]) take(spare []T) ([]T, bool) {
	clear(spare)
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 {
		if q.closed {
			return nil, false
		}
		q.ready.Wait()
	}
	items := q.items
	q.items = spare[:0]
	return items, true
}

func (q *queue[T]) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) == 0
}

func (q *queue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.ready.Broadcast()
}
