package node

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/musterhq/muster/core/machine"
	"github.com/musterhq/muster/core/replica"
)

// inbox is where everything meets the loop: what goroutines hand to it, and
// who waits for what. One short critical section a request; the loop and the
// apply goroutine take and complete in bulk.
type inbox struct {
	mu      sync.Mutex
	wake    chan struct{} // capacity 1: there is something in it
	batches []*Batch
	open    *Batch // last of batches, still taking commands
	events  []event

	waiters    map[uint64]*waiter
	maxPending int          // client commands without a result yet
	pending    int          // bytes of them
	waiting    atomic.Int64 // len(waiters), for those who only look
	closed     error

	read *barrier // read barrier that callers may still join

	lastSize int
	nextID   uint64
}

// event is anything for the loop but client commands. Exactly one field is set.
type event struct {
	message  *Message // from a peer
	from     uint64
	appended *replica.AppendTask
	applied  *ApplyDone
	call     func(*Stepper)
}

// waiter is one caller that waits for one command's result.
type waiter struct {
	ch       chan struct{} // closed by nobody: one token, the waiter is reused
	result   machine.Result
	lease    leaseReply
	size     int
	deadline time.Duration
}

// barrier is one batch of linearizable reads: all its callers wake at once.
type barrier struct {
	done chan struct{}
	err  error
}

const (
	maxBatchBytes   = 1 << 20  // an entry takes commands up to here
	maxPendingBytes = 64 << 20 // of client commands without a result yet
)

func newInbox(firstID uint64, maxPending int) *inbox {
	return &inbox{wake: make(chan struct{}, 1), waiters: map[uint64]*waiter{}, maxPending: maxPending, lastSize: 4 << 10, nextID: firstID}
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

var waiterPool = sync.Pool{New: func() any { return &waiter{ch: make(chan struct{}, 1)} }}

// propose queues a command and registers its waiter, unless too many wait
// already. A revocation is let in longer: it gives space back.
func (b *inbox) propose(c *machine.Command, w *waiter) (uint64, error) {
	b.mu.Lock()
	if b.closed != nil {
		b.mu.Unlock()
		return 0, b.closed
	}
	if len(b.waiters) >= b.maxPending || b.pending+len(c.Body) > maxPendingBytes {
		if c.Kind != machine.LeaseRevoke || len(b.waiters) >= 2*b.maxPending {
			b.mu.Unlock()
			return 0, ErrTooManyRequests
		}
	}
	id := b.nextID
	b.nextID++
	c.ID = id
	w.size = len(c.Body)
	b.pending += w.size
	b.waiters[id] = w
	b.waiting.Add(1)
	if b.open == nil || (len(b.open.Data)+len(c.Body) > maxBatchBytes && len(b.open.IDs) > 0) {
		b.open = NewBatch(max(b.lastSize, len(c.Body)+128), w.deadline)
		b.batches = append(b.batches, b.open)
	}
	b.open.Add(c)
	b.mu.Unlock()
	b.signal()
	return id, nil
}

// id draws an id that matches a waiter or a ticket.
func (b *inbox) id() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.nextID
	b.nextID++
	return id
}

// register adds a waiter for something that is not a command. Lease renewals
// thus have as much room as commands have, and commands can't shut them out.
func (b *inbox) register(w *waiter) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return 0, b.closed
	}
	if len(b.waiters) >= 2*b.maxPending {
		return 0, ErrTooManyRequests
	}
	id := b.nextID
	b.nextID++
	b.waiters[id] = w
	b.waiting.Add(1)
	return id, nil
}

// forget removes a waiter whose caller gave up; false if its result is
// already on the way, which the caller then has to take.
func (b *inbox) forget(id uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, ok := b.waiters[id]
	if ok {
		b.pending -= w.size
		delete(b.waiters, id)
		b.waiting.Add(-1)
	}
	return ok
}

// post queues an event for the loop.
func (b *inbox) post(e event) {
	b.mu.Lock()
	if b.closed == nil {
		b.events = append(b.events, e)
	}
	b.mu.Unlock()
	b.signal()
}

// take empties the inbox. Proposals stay while the disk is busy, so that they
// gather into one batch.
func (b *inbox) take(busy bool, events []event) ([]*Batch, []event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ev := b.events
	b.events = events[:0]
	if busy {
		return nil, ev
	}
	batches := b.batches
	b.batches, b.open = nil, nil
	if n := len(batches); n > 0 {
		b.lastSize = min(len(batches[n-1].Data)*5/4, maxBatchBytes)
	}
	return batches, ev
}

// complete hands results to their waiters.
func (b *inbox) complete(results []machine.Result) {
	if len(results) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range results {
		w, ok := b.waiters[results[i].ID]
		if !ok {
			continue
		}
		delete(b.waiters, results[i].ID)
		b.waiting.Add(-1)
		b.pending -= w.size
		w.result = results[i]
		w.ch <- struct{}{}
	}
}

// finish ends waiters for reasons that are not the machine's.
func (b *inbox) finish(done []Completion) {
	if len(done) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range done {
		w, ok := b.waiters[c.ID]
		if !ok {
			continue
		}
		delete(b.waiters, c.ID)
		b.waiting.Add(-1)
		b.pending -= w.size
		w.result = machine.Result{ID: c.ID, Err: c.Err}
		w.lease = c.Lease
		w.ch <- struct{}{}
	}
}

// overdue fails the waiters whose deadline has passed. A timer a request would
// cost more than this sweep, and tens of milliseconds do not matter here.
func (b *inbox) overdue(now time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id, w := range b.waiters {
		if w.deadline < now {
			delete(b.waiters, id)
			b.waiting.Add(-1)
			b.pending -= w.size
			w.result = machine.Result{ID: id, Err: ErrTimeout}
			w.ch <- struct{}{}
		}
	}
}

// close fails everybody who waits and everybody who comes.
func (b *inbox) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed != nil {
		return
	}
	b.closed = err
	for id, w := range b.waiters {
		delete(b.waiters, id)
		b.waiting.Add(-1)
		w.result = machine.Result{ID: id, Err: err}
		w.ch <- struct{}{}
	}
}
