package simtest

import (
	"fmt"
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

type opKind uint8

const (
	opGet opKind = iota
	opPut
	opDelete
	opCAS
)

func (k opKind) String() string { return [...]string{"get", "put", "delete", "cas"}[k] }

// opRecord is what a client asked of one key.
type opRecord struct {
	kind          opKind
	expect, value string
}

// opResult is what it was told. Unknown: nothing, so anything may have happened.
type opResult struct {
	text    string
	unknown bool
}

// call is one operation on its way; see World.history.
type call struct {
	key      string
	op       opRecord
	called   time.Duration
	returned time.Duration
	result   opResult
	dropped  bool
}

func (w *World) begin(key string, op opRecord) *call {
	c := &call{key: key, op: op, called: w.now, returned: math.MaxInt64, result: opResult{unknown: true}}
	w.history = append(w.history, c)
	return c
}

func (w *World) finish(c *call, result string, known bool) {
	if known {
		c.returned, c.result = w.now, opResult{text: result}
	}
}

func (w *World) drop(c *call) { c.dropped = true }

// register is the model of one key: a value, empty if the key is absent.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(st, in, o any) (bool, any) {
		state, op, out := st.(string), in.(*opRecord), o.(*opResult)
		switch op.kind {
		case opGet:
			return out.text == state, state
		case opPut:
			return true, op.value
		case opDelete:
			return true, ""
		default:
			if state == op.expect {
				return out.unknown || out.text == "won", op.value
			}
			want := "lost"
			if state != "" {
				want = "lost to " + state
			}
			return out.unknown || out.text == want, state
		}
	},
}

// checkHistories holds every key's history to the model.
func (w *World) checkHistories() error {
	type history struct {
		key string
		ops []porcupine.Operation
	}
	var all []*history
	of := map[string]*history{}
	for i, c := range w.history {
		if c.dropped {
			continue
		}
		h := of[c.key]
		if h == nil {
			h = &history{c.key, make([]porcupine.Operation, 0, 2*opsPerKey)}
			of[c.key] = h
			all = append(all, h)
		}
		h.ops = append(h.ops, porcupine.Operation{ClientId: i, Input: &c.op, Call: int64(c.called), Output: &c.result, Return: int64(c.returned)})
	}
	w.stats.Histories = int64(len(all))
	for _, h := range all {
		if r := porcupine.CheckOperationsTimeout(register, h.ops, 20*time.Second); r != porcupine.Ok {
			return fmt.Errorf("the history of %s is not linearizable (%v):\n%s", h.key, r, render(h.ops))
		}
	}
	return nil
}

func render(ops []porcupine.Operation) string {
	s := ""
	for _, o := range ops {
		end := time.Duration(o.Return).String()
		if o.Return == math.MaxInt64 {
			end = "?"
		}
		s += fmt.Sprintf("  %v .. %s %+v -> %+v\n", time.Duration(o.Call), end, *o.Input.(*opRecord), *o.Output.(*opResult))
	}
	return s
}
