package simtest

import "time"

// agenda is what will happen, by time; equal times keep the order of scheduling.
// It is a heap of four children a node: half as deep as container/heap's, and
// without a value boxed for each event.
//
// Time-outs, which are far away and come in order, would make up most of the
// heap: they wait in a row of their own.
type agenda struct {
	heap []simEvent
	row  []simEvent
	seq  uint64
}

type simEvent struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (e *simEvent) before(o *simEvent) bool {
	if e.at != o.at {
		return e.at < o.at
	}
	return e.seq < o.seq
}

func (a *agenda) add(at time.Duration, do func()) {
	a.seq++
	e := simEvent{at: at, seq: a.seq, do: do}
	h := append(a.heap, e)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(&h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
	a.heap = h
}

// addLater is add for an event that is not due before any other one added so.
func (a *agenda) addLater(at time.Duration, do func()) {
	a.seq++
	a.row = append(a.row, simEvent{at: at, seq: a.seq, do: do})
}

// next takes out the first event if it is due by end.
func (a *agenda) next(end time.Duration) (first simEvent, ok bool) {
	if len(a.row) > 0 && (len(a.heap) == 0 || a.row[0].before(&a.heap[0])) {
		if first = a.row[0]; first.at > end {
			return simEvent{}, false
		}
		a.row[0] = simEvent{}
		a.row = a.row[1:]
		return first, true
	}
	if len(a.heap) == 0 || a.heap[0].at > end {
		return simEvent{}, false
	}
	first = a.heap[0]
	last := len(a.heap) - 1
	e := a.heap[last]
	a.heap[last] = simEvent{}
	h := a.heap[:last]
	a.heap = h
	if last == 0 {
		return first, true
	}
	i := 0
	for {
		least := 4*i + 1
		if least >= len(h) {
			break
		}
		for c := least + 1; c < min(4*i+5, len(h)); c++ {
			if h[c].before(&h[least]) {
				least = c
			}
		}
		if !h[least].before(&e) {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = e
	return first, true
}
