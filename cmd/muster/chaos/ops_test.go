package chaos

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

type opKind uint8

const (
	opGet opKind = iota
	opStale
	opPut
	opPair
	opDelete
	opCAS
)

func (k opKind) String() string {
	return [...]string{"get", "serializable get", "put", "pair of puts", "delete", "cas"}[k]
}

func (k opKind) writes() bool { return k >= opPut }

// outcome is what a client knows of what it asked for.
type outcome uint8

const (
	known   outcome = iota
	unknown         // it may have happened, or happen later
	refused         // it has not happened and never will
)

// op is one operation and its answer. Times are since the load began.
type op struct {
	client           string
	kind             opKind
	key, other       string // other is the second key of a pair
	value            string // unique
	expect           int64  // mod revision that a cas wants to find
	called, returned time.Duration
	outcome          outcome
	rev              int64   // of the answer's header
	found            reading // by a get, or a cas that lost
	changed          bool    // deleted something, won the cas
}

func (o op) String() string {
	return fmt.Sprintf("%s: %v %s=%s expect=%d, %v..%v: outcome %d revision %d found %+v changed %v",
		o.client, o.kind, o.key, o.value, o.expect, o.called, o.returned, o.outcome, o.rev, o.found, o.changed)
}

// took tells whether a known operation used up its revision.
func (o op) took() bool {
	return o.outcome == known && (o.kind == opPut || o.kind == opPair || o.changed)
}

// checkOps holds every answer against the history that the watchers were told.
func checkOps(v *verdict, h *history, ops []op) {
	asked := map[string]*op{} // by value
	for i := range ops {
		if ops[i].value != "" {
			asked[ops[i].value] = &ops[i]
		}
	}
	where := map[string]int64{} // by value, where it was put
	for _, e := range h.events {
		if e.deleted || !strings.HasPrefix(e.key, registers) {
			continue
		}
		o, rev := asked[e.value], where[e.value]
		v.checked("writes happen once, as asked for", o != nil && (e.key == o.key || e.key == o.other) && (rev == 0 || rev == e.rev),
			"%v, put at %d before; asked for: %v", e, rev, o)
		where[e.value] = e.rev
	}
	taken := map[int64]*op{}
	for i := range ops {
		o := &ops[i]
		if o.took() {
			v.checked("revisions of one write only", taken[o.rev] == nil, "%v and %v", taken[o.rev], o)
			taken[o.rev] = o
		}
		happened := int64(0)
		if o.value != "" {
			happened = where[o.value]
		}
		switch {
		case o.outcome == refused:
			v.checked("refused writes never happen", happened == 0, "%v, but it happened at %d", o, happened)
		case o.outcome == unknown:
			o.rev = happened // 0 if it hasn't, or wrote nothing that could be found
		case o.rev > h.last || o.rev < 1:
			v.checked("answers at a revision there is", false, "%v, the last is %d", o, h.last)
		default:
			checkAnswer(v, h, *o, happened)
		}
	}
	checkOrder(v, ops)
}

func checkAnswer(v *verdict, h *history, o op, happened int64) {
	now, before := h.at(o.key, o.rev), h.at(o.key, o.rev-1)
	switch o.kind {
	case opGet, opStale:
		v.checked("reads of the state at their revision", o.found == now.reading, "%v, but it is %+v", o, now)
	case opPut, opPair:
		ok := happened == o.rev && h.holds(o.rev, o.key, o.value) && (o.kind == opPut || h.holds(o.rev, o.other, o.value))
		v.checked("acknowledged writes are there", ok, "%v, at that revision are %v", o, h.of(o.rev))
	case opDelete:
		// One that found nothing may answer with the revision at which another deleted it.
		ok := now.version == 0 && (!o.changed || before.version != 0 && now.rev == o.rev)
		v.checked("acknowledged writes are there", ok, "%v, but before it was %+v, then %+v", o, before, now)
	case opCAS:
		if o.changed {
			ok := h.holds(o.rev, o.key, o.value) && before.mod == o.expect
			v.checked("acknowledged writes are there", ok, "%v, but before it was %+v, and at that revision are %v", o, before, h.of(o.rev))
		} else {
			ok := o.found == now.reading && now.mod != o.expect && happened == 0
			v.checked("reads of the state at their revision", ok, "%v, but it is %+v", o, now)
		}
	}
}

// checkOrder holds revisions against time: what begins after another has been
// answered comes after it, and a write strictly so. With checkAnswer this is
// strict serializability over all keys.
func checkOrder(v *verdict, ops []op) {
	byCall := make([]*op, 0, len(ops))
	var byReturn []*op
	for i := range ops {
		o := &ops[i]
		if o.rev == 0 || o.kind == opStale {
			continue // not known to have happened, or promised to be fresh
		}
		byCall = append(byCall, o)
		if o.outcome == known {
			byReturn = append(byReturn, o)
		}
	}
	slices.SortFunc(byCall, func(a, b *op) int { return cmp.Compare(a.called, b.called) })
	slices.SortFunc(byReturn, func(a, b *op) int { return cmp.Compare(a.returned, b.returned) })
	var newest *op
	next := 0
	for _, o := range byCall {
		for ; next < len(byReturn) && byReturn[next].returned < o.called; next++ {
			if newest == nil || byReturn[next].rev > newest.rev {
				newest = byReturn[next]
			}
		}
		if newest == nil {
			continue
		}
		floor := newest.rev
		if o.took() || o.outcome == unknown {
			floor++
		}
		v.checked("operations in the order of time", o.rev >= floor, "%v\n  after\n  %v", o, newest)
	}
}

// register is porcupine's model of one key: its value and, if an answer told
// it, its mod revision.
var register = porcupine.Model{
	Init: func() any { return reading{} },
	Step: func(st, in, _ any) (bool, any) {
		state, o := st.(reading), in.(op)
		switch o.kind {
		case opGet:
			return matches(state, o.found), o.found
		case opPut, opPair:
			return true, reading{o.value, o.mod()}
		case opDelete:
			ok := o.outcome == unknown || o.changed == (state.value != "")
			return ok, reading{}
		default:
			if o.outcome == known && !o.changed {
				return matches(state, o.found) && o.found.mod != o.expect, o.found
			}
			wins := o.expect == state.mod || state.mod == modUnknown
			if o.outcome == known {
				return wins, reading{o.value, o.mod()}
			}
			if wins {
				return true, reading{o.value, modUnknown}
			}
			return true, state
		}
	},
}

// modUnknown: the key was written by one whose client never heard of it.
const modUnknown = -1

func (o op) mod() int64 {
	if o.outcome == known {
		return o.rev
	}
	return modUnknown
}

func matches(state, found reading) bool {
	return state.value == found.value && (state.mod == found.mod || state.mod == modUnknown)
}

// checkRegisters asks porcupine, key by key, without telling it of the watch.
func checkRegisters(v *verdict, ops []op) {
	keys := map[string][]porcupine.Operation{}
	for i, o := range ops {
		if o.kind == opStale || o.outcome == refused {
			continue
		}
		p := porcupine.Operation{ClientId: i, Input: o, Call: int64(o.called), Return: int64(o.returned)}
		if o.outcome == unknown {
			if !o.kind.writes() {
				continue
			}
			p.Return = math.MaxInt64
		}
		keys[o.key] = append(keys[o.key], p)
		if o.kind == opPair {
			keys[o.other] = append(keys[o.other], p)
		}
	}
	for _, key := range sortedKeys(keys) {
		r := porcupine.CheckOperationsTimeout(register, keys[key], time.Minute)
		text := ""
		if r != porcupine.Ok {
			for _, p := range keys[key] {
				text += fmt.Sprintf("  %v\n", p.Input)
			}
		}
		v.checked("keys linearizable by porcupine", r == porcupine.Ok, "%s (%v):\n%s", key, r, text)
	}
}
